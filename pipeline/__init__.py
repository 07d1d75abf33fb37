"""What runs, in which order and where: configuration, the DAG, runners, the command line."""
