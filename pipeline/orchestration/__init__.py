"""When and where the pipeline runs: locks, runs, retraining, clusters, schedules, retention."""
