"""Runs bulk jobs on Beam, which label and embed whole archives with a pushed model."""
