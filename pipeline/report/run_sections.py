"""Collects the run report's facts about the run, its data and its training.

Each function returns the values of one template or reports what is missing; `model_sections.py`
has the facts about the model.
"""

import platform
import shlex
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

import cv2
import numpy as np

from components.image_sources.config import InputConfig, absolute_path
from components.image_sources.pick import pick_members
from components.model_gate import metric_names
from components.model_gate.intervals import share_interval
from components.model_gate.unlabelled_gain import GAIN
from pipeline.report import plots
from pipeline.report.album import Album, decode_picture, shrink, spaced
from pipeline.report.answers import parse_in_parts
from pipeline.report.near_groups import near_groups
from pipeline.report.originals import Originals
from pipeline.report.page import Facts, MissingPartError
from pipeline.report.sampled_records import sample_split
from pipeline.runs import artifacts
from pipeline.runs.run import Run
from pipeline.runs.step import (
    LABELLED_ONLY_EVALUATOR,
    LABELLED_ONLY_TRAINER,
    STEP_TITLES,
)
from pipeline.runs.verdict import MissingArtifactError
from trainer.data import features
from trainer.optimization.callbacks import HISTORY_BOUND
from trainer.quality.strip import FOLDER, ORIGINALS, SHOWN

_T = TypeVar("_T")

_MOST_CLASSES: Final = 100
"""Maximum number of rows of a table of classes."""
_SHOWN_CLASSES: Final = 12
_PER_CLASS: Final = 8
_SAMPLE_SIDE: Final = 72
_SAMPLED: Final = 2_000
_SAMPLED_BYTES: Final = 48 * 1024 * 1024
_REJECTS: Final = 24
_CONFLICTS: Final = 12


def overview(run: Run) -> Facts:
    """Returns the verdict of the gate, the headline metric, the data and the time."""
    evaluation = _or_none(lambda: run.evaluation)
    overall = evaluation.overall if evaluation else {}
    images = evaluation.test_images if evaluation else 0
    accuracy = overall.get(metric_names.ACCURACY)
    confidence = artifacts.read_run_config(run).get("evaluation", {}).get("confidence", 0.95)
    interval = None
    if accuracy is not None and images:
        interval = share_interval(accuracy * images, images, confidence)
    return {
        "verdict": evaluation.verdict if evaluation else None,
        "not_served": run.serving_check.refusals,
        "failed": [step.title for step in run.steps.values() if step.failed],
        "accuracy": accuracy,
        "log_loss": overall.get(metric_names.LOG_LOSS),
        "interval": interval,
        "confidence": confidence,
        "images": images,
        "pushed": run.pushed,
        "account": _or_none(lambda: artifacts.read_account(run)),
        "card": _or_none(lambda: artifacts.read_trained_card(run)),
        # Steps may run side by side; the sum is that of the runs that the cached ones come from.
        "seconds": sum(step.work_seconds for step in run.steps.values())
        if run.cached_steps
        else run.seconds,
        "steps": {"all": len(run.steps), "cached": run.cached_steps},
    }


def _or_none(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except MissingArtifactError:
        return None


def usage(run: Run) -> Facts:
    """Returns three commands that use the pushed model."""
    if not run.pushed:
        raise MissingPartError("Nothing was pushed, so there is no model to use.")
    model = shlex.quote(absolute_path(run.pushed))
    config = artifacts.read_run_config(run)
    paths = [path for path in config.get("input", {}).get("paths", []) if "{" not in path]
    archive = shlex.quote(absolute_path(paths[0]) if paths else "photos.zip")
    generates = config.get("model", {}).get("conditioning") != "hidden"
    return {
        "classify": f"vaeline classify {archive} --model {model} --output labelled",
        "embed": f"vaeline embed {archive} --model {model} --output embedded",
        "sample": f"vaeline sample {model} --output grid.png" if generates else "",
        "inspect": f"saved_model_cli show --dir {model} --tag_set serve",
    }


def steps(run: Run) -> Facts:
    """Returns the wall time of each step, for one from the cache the time when it ran."""
    rows: list[dict[str, Any]] = []
    for name, step in run.steps.items():
        state = "failed" if step.failed else "from the cache" if step.cached else ""
        rows.append({"name": name, "title": step.title, "seconds": step.work_seconds,
                     "state": state})  # fmt: skip
    order = list(STEP_TITLES)
    rows.sort(key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    longest = max((row["seconds"] for row in rows), default=1.0)
    has_cached = run.cached_steps > 0
    return {
        "rows": rows,
        "longest": longest or 1.0,
        "has_cached": has_cached,
        "overlap": not has_cached and sum(row["seconds"] for row in rows) > run.seconds,
    }


def versions(run: Run) -> Facts:
    """Returns the versions of libraries, and digests."""
    card = artifacts.read_trained_card(run)
    libraries = {"Python": platform.python_version(), **card.libraries}
    model = str(artifacts.model_folder(run))
    return {"libraries": libraries, "digests": card.digests.as_dict(), "model": model}


def class_balance(run: Run) -> Facts:
    """Returns the number of images by class and split."""
    account = artifacts.read_account(run)
    table = account["examples_by_split_and_class"]
    splits = [split for split in features.SPLITS if sum(table.get(split, {}).values())]
    classes = account["classes"]
    totals = {name: sum(table[split].get(name, 0) for split in splits) for name in classes}
    shown = sorted(classes, key=lambda name: -totals[name]) if len(classes) > _MOST_CLASSES else []
    order = shown[:_MOST_CLASSES] if shown else _natural(run, classes)
    rows = [
        {"name": name, "total": totals[name], "counts": [table[s].get(name, 0) for s in splits]}
        for name in order
    ]
    blank = [table[split].get("", 0) for split in splits]
    return {
        "splits": splits,
        "rows": rows,
        "unlabelled": blank if any(blank) else [],
        "sums": [sum(table[split].values()) for split in splits],
        "most": max(totals.values(), default=1) or 1, "left_out": len(classes) - len(rows),
        "corrected": account.get("labels_corrected", 0), "reasons": account["rejects_by_reason"],
    }  # fmt: skip


def _natural(run: Run, classes: list[str]) -> list[str]:
    card = _or_none(lambda: artifacts.read_trained_card(run))
    order = {name: place for place, name in enumerate(card.classes)} if card else {}
    return sorted(classes, key=lambda name: (order.get(name, len(order)), name))


def class_samples(run: Run, album: Album, originals: Originals) -> Facts:
    """Returns a few training images of each class."""
    folder = artifacts.examples_folder(run)
    sampled = sample_split(folder, features.TRAIN, most=_SAMPLED, most_bytes=_SAMPLED_BYTES)
    encoded, keys, labels, _ = parse_in_parts(sampled.records)
    by_class: dict[str, list[int]] = {}
    for at, label in enumerate(labels):
        if label:
            by_class.setdefault(label.decode("utf-8", "replace"), []).append(at)
    chosen = {}
    for name in _natural(run, list(by_class))[:_SHOWN_CLASSES]:
        found = by_class[name]
        places = np.unique(np.linspace(0, len(found) - 1, _PER_CLASS).astype(int))
        chosen[name] = [found[place] for place in places]
    files = originals.thumbnails([keys[at] for places in chosen.values() for at in places])
    rows = []
    for name, places in chosen.items():
        pictures = [
            album.picture(files.get(keys[at]), _SAMPLE_SIDE)
            or album.file(encoded[at], _SAMPLE_SIDE)
            for at in places
        ]
        rows.append({"name": name, "pictures": [picture for picture in pictures if picture]})
    return {"rows": rows, "left_out": len(artifacts.read_account(run)["classes"]) - len(rows)}


def files(run: Run) -> Facts:
    """Returns sizes and formats as counted by TFDV."""
    rows = []
    for split, found in artifacts.read_statistics(run).items():
        by_name = {".".join(feature.path.step): feature for feature in found.features}
        formats = Counter[str]()
        for bucket in by_name[features.FORMAT].string_stats.rank_histogram.buckets:
            formats[bucket.label] += int(bucket.sample_count)
        sides = {}
        for name in (features.WIDTH, features.HEIGHT):
            numbers = by_name[name].num_stats
            sides[name] = (int(numbers.min), int(numbers.median), int(numbers.max))
        rows.append({"split": split, "images": int(found.num_examples), "formats": formats,
                     "width": sides[features.WIDTH], "height": sides[features.HEIGHT]})  # fmt: skip
    return {
        "rows": rows,
        "bytes": artifacts.read_account(run)["bytes"],
        "converted": artifacts.read_account(run)["converted_to_png"],
    }


def duplicates(run: Run, album: Album, originals: Originals) -> Facts:
    """Returns omitted duplicates, contents with more than one label, and near-duplicates."""
    account = artifacts.read_account(run)
    conflicts: dict[str, list[tuple[str, str]]] = {}
    for digest, name, label in account["label_conflict_names"]:
        conflicts.setdefault(digest, []).append((name, label))
    return {
        "dropped": account["duplicates_dropped"],
        "kept": account["duplicates_kept"],
        "conflicts": account["label_conflicts"],
        "named": list(conflicts.items())[:_CONFLICTS],
        "near": account.get("near_duplicates", {}),
        "groups": near_groups(run, album, originals),
    }


def rejects(run: Run, album: Album) -> Facts:
    """Returns rejects by reason, with pictures of those that can be decoded."""
    account = artifacts.read_account(run)
    table = artifacts.read_rows(run, "rejects.parquet", _REJECTS) if account["rejected"] else None
    rows = table.to_pylist() if table is not None else []
    wanted: dict[str, set[str]] = {}
    for row in rows:
        wanted.setdefault(row["source"], set()).add(row["member"])
    images = InputConfig.model_validate(artifacts.read_run_config(run)["input"]) if wanted else None
    found = pick_members(images, wanted) if images else {}
    cards = [
        {
            "picture": album.file(found.get((row["source"], row["member"]))),
            "alt": f"rejected: {row['member']}",
            "lines": [row["reason"], row["member"], row["detail"]],
        }
        for row in rows
    ]
    return {"reasons": account["rejects_by_reason"], "rejected": account["rejected"],
            "images_in": account["images_in"], "cards": cards,
            "left_out": account["rejected"] - len(cards)}  # fmt: skip


def anomalies(run: Run) -> Facts:
    """Returns TFDV's anomalies in words."""
    return {"splits": artifacts.read_split_anomalies(run)}


def training(run: Run) -> Facts:
    """Returns losses, accuracy and learning rate over steps."""
    history = artifacts.read_history(run)

    def values(group: str, name: str) -> tuple[list[float], list[float]]:
        pairs = [(r["step"], r.get(group, {}).get(name)) for r in history]
        # A number that was not finite is null.
        found = [(step, value) for step, value in pairs if value is not None]
        return [step for step, _ in found], [value for _, value in found]

    figures = []
    for title, wanted in (
        ("Loss", (("train", "loss"), ("validation", "loss"))),
        ("Reconstruction, nats", (("train", "reconstruction"),)),
        ("KL divergence, nats", (("train", "kl"), ("validation", "kl"))),
        ("Cross-entropy, nats", (("train", "cross_entropy"), ("validation", "cross_entropy"))),
        ("Accuracy", (("train", "accuracy"), ("validation", "accuracy"))),
        ("Learning rate", (("train", "learning_rate"),)),
    ):
        series = [(group, *values(group, name)) for group, name in wanted]
        # A part of the loss that the objective leaves out is exactly 0 throughout.
        if not (series := [entry for entry in series if any(entry[2])]):
            continue
        ends = ", ".join(f"{name} ends at {y[-1]:.4g}" for name, _, y in series)
        figures.append(plots.curves(title, series, alt=f"{title} over steps: {ends}"))
    return {
        "figures": figures,
        "steps": history[-1]["step"],
        "epochs": history[-1]["epoch"],
        "validation": history[-1].get("validation"),
        "bound": history[-1].get(HISTORY_BOUND),
        "recipe": artifacts.read_run_config(run).get("recipe", "none"),
        "search": artifacts.read_search(run),
        "origins": _or_none(lambda: artifacts.read_origins(run)),
        "starts": artifacts.read_starts(run),
    }


def strip(run: Run, album: Album) -> Facts:
    """Returns pictures of the same images and latents at several steps of the training."""
    folder = artifacts.model_run_folder(run) / FOLDER
    originals = decode_picture((folder / ORIGINALS).read_bytes()) if folder.is_dir() else None
    if originals is None:
        raise MissingPartError("This run has no pictures over epochs.")
    height = originals.shape[0]
    epochs = {record["step"]: record["epoch"] for record in artifacts.read_history(run)}
    rebuilt = [{"caption": "originals", "picture": _row(album, originals)}]
    drawn = []
    for path in sorted(folder.glob("step-*.png")):
        step = int(path.stem.removeprefix("step-"))
        pixels = decode_picture(path.read_bytes())
        if pixels is None:
            continue
        caption = f"epoch {epochs[step]:.3g}" if step in epochs else "untrained"
        caption = caption if step == 0 or step in epochs else f"step {step}"
        rebuilt.append({"caption": caption, "picture": _row(album, pixels[:height])})
        if pixels.shape[0] > height:
            drawn.append({"caption": caption, "picture": _row(album, pixels[height:])})
    return {"rebuilt": rebuilt, "drawn": drawn}


def _row(album: Album, pixels: np.ndarray) -> Any:
    """Inlines a row of tiles with gaps between them."""
    tiles = np.split(pixels.reshape(*pixels.shape[:2], -1), SHOWN, axis=1)
    side = tiles[0].shape[0]
    factor = max(1, 48 // side)
    enlarged = [
        cv2.resize(shrink(tile, 96), None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        for tile in tiles
    ]
    shaped = [tile.reshape(*tile.shape[:2], -1) for tile in enlarged]
    return album.picture(spaced(shaped), side=900)


def unlabelled(run: Run) -> Facts:
    """Returns whether the unlabelled images helped, and what the comparison cost."""
    gain = run.evaluation.verdict.measures.get(GAIN)
    if not gain:
        raise MissingPartError(
            "No model was trained without the unlabelled images (evaluation.labelled_only)."
        )
    steps = [run.steps.get(name) for name in (LABELLED_ONLY_TRAINER, LABELLED_ONLY_EVALUATOR)]
    return {"gain": gain, "seconds": sum(step.work_seconds for step in steps if step)}


def active_units(run: Run) -> Facts:
    """Returns the latent dimensions that carry information about the image."""
    latent = artifacts.read_trained_card(run).summaries.latent
    if not latent.std:
        raise MissingPartError("The model carries no summaries of its latent space.")
    variance = np.square(np.asarray(latent.std))
    active = int((variance > 0.01).sum())
    alt = f"{active} of {len(variance)} latent dimensions have a variance above 0.01"
    figure = plots.bars("Variance of the posterior mean", variance, alt=alt,
                        label="variance", threshold=0.01)  # fmt: skip
    return {"figure": figure, "active": active, "size": len(variance)}
