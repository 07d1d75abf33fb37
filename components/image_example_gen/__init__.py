"""Provides ImageExampleGen, which turns the images of any archive into an Examples artifact."""
