"""TFX's public API, as `tfx.v1` but without the clients of Vertex AI, which load when called.

Components and the pipeline import it from here: `from components.tfx_api import tfx`.
"""

import importlib.util
import sys
from typing import Any

from components.time_zones import provide_time_zones

_VERTEX_CLIENTS = tuple(
    f"tfx.extensions.google_cloud_ai_platform.{name}"
    for name in ("prediction_clients", "training_clients")
)
"""Modules that import google.cloud.aiplatform, 4 s of the 9 s that `tfx.v1` takes to import (TFX
1.16, two cores). Only steps that train on Vertex or push to it call them."""


def load_when_called(name: str) -> None:
    """Puts a module in place whose code runs when one of its names is first asked for.

    `importlib.util.LazyLoader` would run it at any attribute, so also when Beam looks through the
    modules of the process for what an object refers to.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[name] = module
    package, _, attribute = name.rpartition(".")
    setattr(sys.modules[package], attribute, module)


provide_time_zones()
for _name in _VERTEX_CLIENTS:
    load_when_called(_name)

from tfx import v1 as tfx  # noqa: E402  After the modules above are in place.

__all__ = ["tfx"]
