"""Provides vaeline's TFX components and the Beam transforms that they share with bulk jobs."""
