"""Where a training step and a prediction spend their time, by size of the image.

    python -m benchmarks.model_profile [--sides 32 64 128 224] [--images 32] [--json]

The preset `photos` beside the convolutional model with all defaults, on random colour images, in
microseconds an image. Each part is compiled by itself, forward and backward for training: the
encoder with the classifier, the decoder, the likelihood. Both models take turns, and each part's
best of some rounds counts.

- `preset_speedup_training_N`, `preset_speedup_inference_N`: all parts of the plain model over those
  of the preset, at N pixels a side.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.photos import PLAIN
from benchmarks.record import print_record
from pipeline.config import load_config
from trainer.model.vae_classifier import VaeClassifier

_CLASSES: Final = 10
_LEAST_SECS: Final = 0.4
"""Time of one round of a part."""


def main() -> None:
    """Measures and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 224])
    parser.add_argument("--images", type=int, default=32, help="of a batch at 64 pixels a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    preset = load_config("photos", overrides=["input.paths=photos.zip"]).model.model_dump()
    figures: dict[str, float] = {}
    for side in options.sides:
        # Larger images in smaller batches, as memory demands.
        count = max(4, options.images * 64 * 64 // side**2) if side > 64 else options.images
        parts = {
            name: parts_of(model, side, count)
            for name, model in (("preset", preset), ("plain", PLAIN))
        }
        best: dict[tuple[str, str], float] = {}
        for _ in range(options.rounds):
            for name, measured in parts.items():
                for part, run in measured.items():
                    took = seconds(run) / count * 1e6
                    best[name, part] = min(took, best.get((name, part), took))
        figures |= {f"{name}_{part}_{side}": took for (name, part), took in best.items()}
        for kind in ("training", "inference"):
            total = {
                name: sum(best[name, part] for part in parts[name] if part.startswith(kind))
                for name in parts
            }
            figures[f"preset_speedup_{kind}_{side}"] = total["plain"] / total["preset"]
        if not options.json:
            print("\n".join(table(figures, side)), flush=True)
    print_record(figures, {"preset_speedup_training_64": 4.0})


def parts_of(options: dict[str, Any], side: int, count: int) -> dict[str, Callable[[], object]]:
    """Returns the compiled parts of a model, by name."""
    model = VaeClassifier(
        config=options, image_shape=(side, side, 3), num_classes=_CLASSES,
        pixel_mean=[0.5] * 3, pixel_std=[0.25] * 3,
    )  # fmt: skip
    draw = np.random.default_rng(0)
    pixels = tf.constant(draw.integers(0, 256, (count, side, side, 3)) / 255, tf.float32)
    latent = tf.constant(draw.normal(size=(count, model.config.latent_size)), tf.float32)
    raw = tf.Variable(model.decode(latent))
    model.encode(pixels)
    variables = model.trainable_variables

    def compiled(
        value: Callable[[bool], tf.Tensor], sources: list[Any], *, backward: bool
    ) -> Callable[[], object]:
        def part() -> list[tf.Tensor]:
            if not backward:
                return [value(False)]
            with tf.GradientTape() as tape:
                result = value(True)
            found = tape.gradient(result, sources)
            return [result, *(each for each in found if each is not None)]

        return tf.function(part, autograph=False)

    def classify(training: bool) -> tf.Tensor:
        encoded = model.encode(pixels, training=training)
        return tf.reduce_sum(model.classify(encoded)) + tf.reduce_sum(encoded.mean)

    def decode(training: bool) -> tf.Tensor:
        return tf.reduce_sum(model.decode(latent, training=training))

    def likelihood(_: bool) -> tf.Tensor:
        return tf.reduce_sum(model.observation.log_likelihood(pixels, raw))

    weights = [variable.value for variable in variables]
    values = {"encoder": (classify, weights), "decoder": (decode, weights),
              "likelihood": (likelihood, [raw])}  # fmt: skip
    return {
        f"{kind}_{name}": compiled(value, sources, backward=kind == "training")
        for kind in ("training", "inference")
        for name, (value, sources) in values.items()
    }


def seconds(run: Callable[[], object]) -> float:
    """Returns the time of one call, from as many as fill a round."""
    run()
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < _LEAST_SECS:
        run()
        calls += 1
    return (time.perf_counter() - begin) / calls


def table(figures: dict[str, float], side: int) -> list[str]:
    """Returns the lines for one size: microseconds an image by part."""
    lines = [f"{side} x {side}", f"{'':24}{'preset':>12}{'plain':>12}"]
    for kind in ("training", "inference"):
        for part in ("encoder", "decoder", "likelihood"):
            row = [figures[f"{name}_{kind}_{part}_{side}"] for name in ("preset", "plain")]
            lines.append(f"{kind + ' ' + part:24}{row[0]:12,.0f}{row[1]:12,.0f}")
        lines.append(f"{'plain over preset':24}{figures[f'preset_speedup_{kind}_{side}']:12.2f}")
    return lines


if __name__ == "__main__":
    main()
