"""Decides whether there is a reason to retrain."""
