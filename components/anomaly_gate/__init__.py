"""Stops a pipeline whose data does not conform to the schema."""
