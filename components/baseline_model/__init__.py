"""Finds the model that a candidate is compared with."""
