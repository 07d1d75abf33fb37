"""Reads, lists and writes files on disk and objects in stores, for every package."""
