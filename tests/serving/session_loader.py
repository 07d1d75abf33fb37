"""Runs signatures of a SavedModel in a TF1-style session, as TF Serving does.

`python -m tests.serving.session_loader MODEL REQUESTS.npz ANSWERS.npz`, in a process that has not
made the model: every array in the requests is named `signature` and fed to that signature's only
input.
"""

import sys

import numpy as np

from trainer.quick_imports import quick_imports

with quick_imports():
    from tensorflow.core.protobuf import saved_model_pb2

    # The C program in `test_other_loaders.py` takes all options as they are.
    from components.serving_check.session import SessionModel


def main(model: str, requests: str, answers: str) -> None:
    loaded = SessionModel(model)
    with np.load(requests, allow_pickle=True) as arrays:
        asked = {name: {next(iter(loaded.inputs[name])): arrays[name]} for name in arrays.files}
    found = {
        f"{name}/{key}": value
        for name, outputs in loaded.predict_together(asked).items()
        for key, value in outputs.items()
    }
    with open(f"{model}/saved_model.pb", "rb") as file:
        (meta,) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    definition = meta.graph_def
    nodes = [node for function in definition.library.function for node in function.node_def]
    operations = sorted({node.op for node in [*nodes, *definition.node]})
    np.savez(answers, **found, operations=np.array(operations))


if __name__ == "__main__":
    main(*sys.argv[1:])
