"""Finds the model to compare a candidate with, and the model to start training from."""
