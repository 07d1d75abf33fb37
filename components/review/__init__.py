"""Turns the table of a bulk job into a list of images for people to check, and takes answers."""
