"""Program for test_replicas.py: trains on one device, two logical devices, or as a worker.

`python -m tests.trainer.replicas mirrored|worker OUT` writes the loss curves to OUT as JSON.
"""

import hashlib
import json
import pathlib
import sys
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.trainer import tiny, tiny_backbone
from trainer.data.input_pipeline import ImageSet
from trainer.optimization import strategy as strategies
from trainer.optimization.noise import Noise
from trainer.train import TrainResult


def train_everything(
    workdir: str, encoder: str, strategy: Any, data: dict[str, ImageSet], parts: int = 1
) -> TrainResult:
    """Every option that draws noise or sums over the batch, in one run.

    Args:
        workdir: Folder of the run.
        encoder: Encoder of the model; the decoder, which sums over no batch, is small.
        strategy: A strategy of tf.distribute.
        data: Images by split; the last third of `train` loses its labels.
        parts: Parts of a batch on one device.
    """
    data["train"].labels[64:] = -1
    return tiny.run(
        workdir,
        model_config=tiny.model_config(
            encoder=encoder, decoder="mlp", conditioning="label", dropout=0.2
        ),
        trainer_config=tiny.trainer_config(
            epochs=2,
            parts=parts,
            evaluate_every_epochs=0.5,
            optimizer={"ema_decay": 0.9, "ema_every": 2, "clip_norm": 1.0},
            augmentation={"rotation": 10, "shift": 0.1},
            semi_supervised={
                "consistency": 1.0,
                "mutual_information": 0.1,
                "ramp": (0.0, 0.1),
                "confidence": 0.3,
            },
        ),
        data=data,
        strategy=strategy,
    )


def train_backbone(workdir: str, strategy: Any) -> TrainResult:
    """A small network with weights from a file, of which at first nothing learns."""
    keras.applications.DenseNet121 = tiny_backbone.network
    weights = pathlib.Path(workdir, "tiny.weights.h5")
    keras.utils.set_random_seed(1)
    tiny_backbone.network().save_weights(weights)
    backbone = {"name": tiny_backbone.NAME, "weights": str(weights), "head_share": 0.5}
    return tiny.run(
        workdir,
        model_config=tiny.model_config(encoder="backbone", decoder="mlp", backbone=backbone),
        trainer_config=tiny.trainer_config(
            epochs=2, evaluate_every_epochs=0.5, optimizer={"clip_norm": 1.0}
        ),
        data={"train": tiny.image_set(96, shape=tiny_backbone.SHAPE)},
        image_shape=tiny_backbone.SHAPE,
        pixel_mean=[0.4] * 3,
        pixel_std=[0.2] * 3,
        strategy=strategy,
    )


def losses(result: TrainResult) -> list[list[float]]:
    return [list(record["train"].values()) for record in result.history]


def _noise(strategy: Any) -> dict[str, Any]:
    """What two replicas draw, and what one device draws, for the same step."""

    def draw() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        number = replica.replica_id_in_sync_group
        return Noise(7, 3, number, replica.num_replicas_in_sync).normal("z", [3, 2])

    drawn = strategy.experimental_local_results(strategy.run(tf.function(draw)))
    whole = Noise(7, 3).normal("z", [6, 2])
    return {"replicas": [part.numpy().tolist() for part in drawn], "whole": whole.numpy().tolist()}


def main(mode: str, out: pathlib.Path) -> None:
    """Trains and writes the curves."""
    if mode == "worker":
        strategy = strategies.create_strategy("auto")
        result = train_everything(str(out.parent / "work"), "mlp", strategy, tiny.splits(96))
        digest = hashlib.sha256(tiny.flat_weights(result).tobytes()).hexdigest()
        chief = strategies.is_chief(strategy)
        report: dict[str, Any] = {"losses": losses(result), "chief": chief, "digest": digest}
    else:
        cpus = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpus[0], logical)
        strategy = strategies.create_strategy("mirrored")
        report = {"noise": _noise(strategy)}
        one = tf.distribute.get_strategy()
        for name, used in (("one", one), ("two", strategy)):
            with tempfile.TemporaryDirectory() as workdir:
                # One device in two parts; as a whole it trains the backbone below.
                result = train_everything(workdir, "conv", used, tiny.train_only(96), parts=2)
                report[name] = losses(result)
                report[f"{name}_weights"] = tiny.flat_weights(result).tolist()
            with tempfile.TemporaryDirectory() as workdir:
                report[f"{name}_backbone"] = losses(train_backbone(workdir, used))
    out.write_text(json.dumps(report))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
