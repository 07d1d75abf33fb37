"""Finds images of bad quality or odd shape: measures of pixels and sizes, bounds, findings."""
