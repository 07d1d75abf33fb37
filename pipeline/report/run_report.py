"""Writes `report.html` of a pipeline run, for `vaeline run` and `vaeline report`."""

import logging
import posixpath
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.report import model_sections, run_sections
from pipeline.report.album import Album
from pipeline.report.answers import Answers, ask_model
from pipeline.report.generation import Generator, find_generator
from pipeline.report.image_findings import run_findings
from pipeline.report.judged_labels import judged_labels
from pipeline.report.originals import Originals
from pipeline.report.page import REPORT, Facts, Page
from pipeline.runs.artifacts import (
    examples_folder,
    model_folder,
    read_run_config,
    read_trained_card,
)
from pipeline.runs.run import Run
from trainer.quick_imports import quick_imports

_LOG = logging.getLogger(__name__)


def write_run_report(run: Run, path: str = "", *, asked: "AskedModel | None" = None) -> str:
    """Writes the report of a run.

    Args:
        run: The run.
        path: The path of the page; `report.html` in the root by default.
        asked: The run's model, if it was asked before.

    Returns:
        The path of the page.

    Raises:
        ReportError: The page cannot be written.
    """
    begin = time.monotonic()
    root = run.root
    path = path or str(root / REPORT)
    album = Album()
    page = Page("Run report", str(read_run_config(run).get("name", root.name)))
    page.hero("run_hero.html", partial(run_sections.overview, run))
    _add_overview(page, run)
    asked = asked or AskedModel(run)
    _add_data(page, run, album, asked.originals)
    page.chapter("training", "Training")
    page.section("curves", "Curves", "curves.html", partial(run_sections.training, run))
    if read_run_config(run).get("evaluation", {}).get("labelled_only", "off") != "off":
        page.section(
            "unlabelled", "What the unlabelled images did", "unlabelled.html",
            partial(run_sections.unlabelled, run),
        )  # fmt: skip
    page.section("strip", "As it learned", "strip.html", partial(run_sections.strip, run, album))
    page.section(
        "units", "Active latent units", "units.html", partial(run_sections.active_units, run)
    )
    _add_model(page, run, album, asked, posixpath.dirname(path))
    page.write(path, left_out=album.left_out)
    _LOG.info("report in %.1f s: %s", time.monotonic() - begin, path)
    for note in page.notes:
        _LOG.info("report: %s", note)
    return path


def _add_overview(page: Page, run: Run) -> None:
    page.chapter("summary", "Summary")
    page.section("use", "Use the model", "usage.html", partial(run_sections.usage, run))
    page.section("steps", "Time by step", "steps.html", partial(run_sections.steps, run))
    page.section(
        "versions", "Versions and digests", "versions.html", partial(run_sections.versions, run)
    )


def _add_data(page: Page, run: Run, album: Album, originals: Originals) -> None:
    page.chapter("data", "Data")
    for anchor, title, make in (
        ("balance", "Classes and splits", partial(run_sections.class_balance, run)),
        (
            "examples",
            "Training images by class",
            partial(run_sections.class_samples, run, album, originals),
        ),
        ("files", "Sizes and formats", partial(run_sections.files, run)),
        (
            "duplicates",
            "Duplicates",
            partial(run_sections.duplicates, run, album, originals),
        ),
        ("findings", "Findings", partial(run_findings, run, album, originals)),
        ("rejects", "Rejects", partial(run_sections.rejects, run, album)),
        ("anomalies", "Anomalies", partial(run_sections.anomalies, run)),
    ):
        page.section(anchor, title, f"{anchor}.html", make)


def _add_model(page: Page, run: Run, album: Album, asked: "AskedModel", folder: str) -> None:
    page.chapter("model", "Model")

    def add(anchor: str, title: str, make: Callable[[], Facts]) -> None:
        page.section(anchor, title, f"{anchor}.html", make)

    add("confusion", "Confusion", lambda: model_sections.confusion(asked.answers))
    add("classes", "By class", lambda: model_sections.class_table(asked.answers))
    add(
        "calibration",
        "Calibration",
        lambda: model_sections.calibration(asked.answers, read_trained_card(run)),
    )
    add(
        "mistakes", "Most confident mistakes", lambda: model_sections.mistakes(asked.answers, album)
    )
    add("uncertain", "Least certain", lambda: model_sections.uncertain(asked.answers, album))
    if read_run_config(run).get("report", {}).get("label_errors"):
        page.section("labels", "Likely label errors", "judged_labels.html",
            lambda: judged_labels(run, asked.model, album, asked.originals, folder))  # fmt: skip
    else:
        add("labels", "Likely label errors",
            lambda: model_sections.label_errors(asked.answers, album))  # fmt: skip
    add("outliers", "Outlier score",
        lambda: model_sections.outliers(asked.answers, read_trained_card(run), album))  # fmt: skip
    add("map", "Latent map", lambda: model_sections.latent_map(asked.answers, album))
    if read_run_config(run).get("model", {}).get("latent_size") == 2:
        add("plane", "The latent plane, decoded",
            lambda: model_sections.plane_of_images(asked.generator, album))  # fmt: skip
    add("samples", "Generated images", lambda: model_sections.samples(asked.generator, album))


class AskedModel:
    """Loads the model and computes its predictions when the first section needs them.

    A failure is kept and raised again for every section, without another attempt.

    Args:
        run: The run, which has come to the end of its Trainer.

    Attributes:
        originals: The original files of the run's images.
    """

    def __init__(self, run: Run) -> None:
        self.originals = Originals(run)
        self._run = run
        self._made: dict[str, Any] = {}

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, Exception):
            raise made
        return made

    def ask(self) -> None:
        """Computes the predictions now."""
        _ = self.answers

    @property
    def model(self) -> Any:
        """The loaded SavedModel."""
        with quick_imports():
            import tensorflow as tf

        return self._once("model", lambda: tf.saved_model.load(str(model_folder(self._run))))

    @property
    def answers(self) -> Answers:
        """The model's predictions on the test split."""
        run = self._run
        found: Answers = self._once(
            "answers", lambda: ask_model(examples_folder(run), self.model, read_trained_card(run))
        )
        return replace(found, thumbnails=self.originals.thumbnails)

    @property
    def generator(self) -> Generator:
        """The generator of images."""
        found: Generator = self._once(
            "generator", lambda: find_generator(self.model, read_trained_card(self._run))
        )
        return found
