"""Uses the latest pushed model as the baseline if the metadata store is out of reach."""
