"""Pushes blessed models as versions for TF Serving, and manages these versions."""
