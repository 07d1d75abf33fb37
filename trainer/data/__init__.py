"""Images on their way to the training step: records, pixels, batches, augmentation."""
