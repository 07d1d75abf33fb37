"""Validates that an exported model, loaded as TF Serving loads it, answers as it did in memory."""
