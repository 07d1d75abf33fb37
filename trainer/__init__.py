"""The VAE-classifier and how it learns: plain TensorFlow and Keras, no TFX."""
