"""Sources of images: archives, folders, datasets; free of TensorFlow and TFX."""
