"""The VAE-classifier and its training in plain TensorFlow and Keras, without TFX."""
