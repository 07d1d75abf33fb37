"""Decides whether a model is blessed: rules, intervals, the table, and the TFX component."""
