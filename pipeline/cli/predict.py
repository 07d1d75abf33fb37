"""Defines `vaeline predict`: a table of predictions, and a line for each image that failed."""

from collections.abc import Mapping
from typing import Any

import click

from pipeline.cli.command import common

_HEADER = ("file", "label", "probability", "next", "outlier score", "verdict")


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(readable=False))
@click.option("--model", help="A model, or pushed versions: the newest is taken, or DIR@ALIAS.")
@click.option("--server", metavar="URL", help="grpc://host:8500 or http://host:8501.")
@click.option("--name", default="vaeline", show_default=True, help="The model's name there.")
@click.option("--version", help="Number or label of its version there; by default the newest.")
@common
def predict(
    terminal: Any,
    images: tuple[str, ...],
    model: str | None,
    server: str | None,
    name: str,
    version: str | None,
) -> int:
    """Classify single image files, with a pushed model or a model server.

    Exit codes: 0 every image was answered, 1 one could not be, or nothing answers.
    """
    from pipeline.predict import predict_images

    with terminal.live("asking the model"):
        result = predict_images(images, model=model, server=server, name=name, version=version)
    answered = [image for image in result["images"] if "error" not in image]
    if answered:
        terminal.table("predictions", [_row(image) for image in answered], header=_HEADER)
    for image in result["images"]:
        if "error" in image:
            terminal.say(f"error: {image['file']}: {image['error']}", style="bold red")
    terminal.result(result)
    return 1 if result["failed"] else 0


def _row(image: Mapping[str, Any]) -> tuple[str, ...]:
    others = [f"{other['label']} {other['probability']:.3f}" for other in image["top_k"][1:4]]
    return (
        image["file"],
        image["label"],
        f"{image['probability']:.4f}",
        ", ".join(others),
        f"{image['outlier_score']:.3f}",
        image["verdict"],
    )
