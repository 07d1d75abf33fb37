"""Pipeline runs as recorded in the metadata store and the artifacts of a root folder."""
