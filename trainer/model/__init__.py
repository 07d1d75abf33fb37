"""The network: encoders, decoders, distributions and the VAE-classifier made of them."""
