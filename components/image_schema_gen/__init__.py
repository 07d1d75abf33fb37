"""Infers the schema of image records, with a domain for the label only."""
