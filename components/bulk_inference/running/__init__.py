"""Beam runners, counters, progress and interruption of a bulk job."""
