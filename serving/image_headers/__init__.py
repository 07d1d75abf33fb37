"""What the headers of image files say, as TensorFlow ops: the served graph's own guard."""
