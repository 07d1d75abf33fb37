"""Fetches pictures of the original files, where the records hold images at the model's size.

The run report shows them in its cards: at 28 or 64 pixels nobody recognises a photograph.
"""

import logging
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Final

import numpy as np

from components.image_sources.config import InputConfig
from components.image_sources.locate import Locator
from components.image_sources.naming import printable
from components.image_sources.pick import READ_BY_NAME, pick_each
from components.image_sources.spans import resolve
from pipeline.report.album import LARGEST_SIDE, decode_picture, shrink
from pipeline.runs.artifacts import read_account, read_run_config
from pipeline.runs.run import Run

_LOG = logging.getLogger(__name__)

_SECONDS: Final = 10.0
"""Time for the pictures of a whole report."""


class Originals:
    """Fetches thumbnails of original files, by the keys of their records.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._left = _SECONDS

    def thumbnails(
        self, keys: Iterable[str], *, even_if_stored: bool = False
    ) -> dict[str, np.ndarray]:
        """Fetches thumbnails.

        Args:
            keys: `archive/member` of images, as in their records.
            even_if_stored: Whether to fetch originals that the records hold as well.

        Returns:
            By key uint8 [height, width, channels], upright, of at most `LARGEST_SIDE` pixels a
            side. Images are missing if their records hold the original files, or if these are
            unavailable, can only be streamed, or take too long.
        """
        begin = time.monotonic()
        found: dict[str, np.ndarray] = {}
        wanted: dict[str, dict[str, str]] = {}
        is_needed = even_if_stored or read_account(self._run).get("stored_at_model_size")
        sources = self._sources if is_needed else []
        for key in keys:
            for source, image_format in sources:
                if image_format == "manifest":
                    wanted.setdefault(source, {})[key] = key
                elif key.startswith(f"{source}/"):
                    wanted.setdefault(source, {})[key.removeprefix(f"{source}/")] = key
        if not wanted or self._left <= 0:
            return found
        names = {source: set(by_name) for source, by_name in wanted.items()}
        for source, name, content in pick_each(self._input, names, seconds=self._left):
            picture = decode_picture(content, LARGEST_SIDE)
            if picture is not None:
                found[wanted[source][name]] = shrink(picture, LARGEST_SIDE)
        self._left -= time.monotonic() - begin
        return found

    @cached_property
    def _input(self) -> InputConfig:
        return resolve(InputConfig.model_validate(read_run_config(self._run)["input"])).config

    @cached_property
    def _sources(self) -> list[tuple[str, str]]:
        """Path and format of the sources that can be read by name."""
        try:
            located = list(Locator(self._input).sources())
        except (KeyError, OSError, ValueError) as error:
            _LOG.info("no pictures of the original files: %s", error)
            return []
        return [(printable(path), kind) for path, kind in located if kind in READ_BY_NAME]
