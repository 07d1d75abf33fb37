"""A bulk job's files: storage, records of units, the manifest, the result."""
