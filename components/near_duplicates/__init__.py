"""Finds near-duplicates: hash, candidate pairs, confirmation by alignment, groups."""
