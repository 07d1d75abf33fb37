"""Reads and validates headers of image files with TensorFlow ops, inside the served graph."""
