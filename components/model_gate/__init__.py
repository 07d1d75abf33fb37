"""Decides whether a model is blessed, from evaluation metrics and configured bounds."""
