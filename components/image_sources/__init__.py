"""Reads images from archives, folders and datasets without importing TensorFlow or TFX."""
