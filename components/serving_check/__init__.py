"""Proves that an exported model answers as it did in memory, the way TF Serving would load it."""
