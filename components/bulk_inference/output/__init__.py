"""A bulk job's files: records of units, the manifest, the result."""
