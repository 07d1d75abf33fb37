"""Runs the command of `fake_steps.py`, which cannot: TFX's cache knows a step by its module."""

from tests.pipeline.fake_steps import main

if __name__ == "__main__":
    main()
