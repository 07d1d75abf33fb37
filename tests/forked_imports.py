"""What the process that `tests/forked.py` forks has imported, whichever tests run."""

from trainer.quick_imports import quick_imports

with quick_imports():
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
    import tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor  # noqa: F401

    import pipeline.run_fn  # noqa: F401
    import trainer.optimization.strategy
    import trainer.train  # noqa: F401
    from components import tfx_api  # noqa: F401
