"""Writes scikit-learn's handwritten digits as ordinary image archives; `vaeline demo` calls it.

scikit-learn includes 1,797 grey images of 8x8 pixels, so the first run needs no download.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HELD_OUT_SHARE = 0.2
_SEED = 20
# A fixed time stamp makes the archives, and so TFX's cache keys, equal on every machine.
_TIMESTAMP = (2020, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class DigitsArchives:
    """The two archives of the demo.

    Attributes:
        labelled: path of a zip file with `digits/<class>/<number>.png`.
        held_out: path of a zip file with `scans/<number>.png`, without classes in the names.
        held_out_labels: true class of every member of `held_out`, by member name.
    """

    labelled: Path
    held_out: Path
    held_out_labels: dict[str, str]


def write_digits(folder: Path) -> DigitsArchives:
    """Writes the archives `digits.zip` and `held_out.zip`; keeps identical existing ones.

    Args:
        folder: folder of the archives; created if missing.

    Returns:
        The paths and the true classes of the held-out images.
    """
    from sklearn.datasets import load_digits  # a second to import; only this function needs it

    digits = load_digits()
    # Stored with 17 grey levels, 0 to 16.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(_SEED).permutation(len(pixels))
    held_out = set(order[: round(len(pixels) * _HELD_OUT_SHARE)].tolist())

    labelled_members: list[tuple[str, bytes]] = []
    held_out_members: list[tuple[str, bytes]] = []
    truth: dict[str, str] = {}
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        if number in held_out:
            name = f"scans/{number:04d}.png"
            held_out_members.append((name, _png(image)))
            truth[name] = str(label)
        else:
            labelled_members.append((f"digits/{label}/{number:04d}.png", _png(image)))

    folder.mkdir(parents=True, exist_ok=True)
    _write_zip(folder / "digits.zip", labelled_members)
    _write_zip(folder / "held_out.zip", held_out_members)
    return DigitsArchives(folder / "digits.zip", folder / "held_out.zip", truth)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_zip(path: Path, members: list[tuple[str, bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _TIMESTAMP), content)
    content = buffer.getvalue()
    if path.exists() and path.read_bytes() == content:
        return  # its time stamp stays, and with it what was computed from it
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
