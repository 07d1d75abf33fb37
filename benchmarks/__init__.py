"""Benchmarks of vaeline: each figure is a program that measures both sides in one run."""
