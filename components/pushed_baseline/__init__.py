"""The baseline where the metadata store is out of reach: the latest pushed model."""
