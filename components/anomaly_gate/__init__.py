"""Stops a pipeline whose data do not fit the schema."""
