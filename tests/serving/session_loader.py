"""Runs signatures of a SavedModel in a TF1-style session, as TF Serving does; a fresh process.

Called as `python session_loader.py MODEL REQUESTS.npz ANSWERS.npz`: every array in the requests
is named `signature` and fed to that signature's only input.
"""

import sys

import numpy as np

from trainer.quick_imports import leave_out_keras, quick_imports

leave_out_keras()
with quick_imports():
    import tensorflow as tf

    from components.serving_check.session import session_options


def main(model: str, requests: str, answers: str) -> None:
    found: dict[str, np.ndarray] = {}
    graph = tf.Graph()
    # The C program in `test_other_loaders.py` takes all options as they are.
    with tf.compat.v1.Session(graph=graph, config=session_options()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], model)
        with np.load(requests, allow_pickle=True) as arrays:
            for name in arrays.files:
                signature = meta.signature_def[name]
                (argument,) = signature.inputs.values()
                fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
                outputs = session.run(fetches, {argument.name: arrays[name]})
                found |= {f"{name}/{key}": value for key, value in outputs.items()}
        definition = graph.as_graph_def()
    nodes = [node for function in definition.library.function for node in function.node_def]
    operations = sorted({node.op for node in [*nodes, *definition.node]})
    np.savez(answers, **found, operations=np.array(operations))


if __name__ == "__main__":
    main(*sys.argv[1:])
