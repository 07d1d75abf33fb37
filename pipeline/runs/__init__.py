"""Pipeline runs: what the metadata store and the artifacts of a root folder tell about them."""
