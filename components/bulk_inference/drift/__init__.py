"""How an archive differs from the training data."""
