"""Bulk jobs: label and embed whole archives with a pushed model, on Beam."""
