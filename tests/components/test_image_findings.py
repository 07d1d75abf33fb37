"""Findings about images: measures, bounds that are learned, and what is found."""

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from components.image_checks import ImageHeader
from components.image_findings.finding_rules import (
    bounds_in_use,
    describe_bounds,
    judge_images,
    learn_bounds,
)
from components.image_findings.image_measures import MEASURES, derived, measure_images
from components.image_sources.config import FINDINGS, FindingsConfig
from tests.near_copies import picture


def headers(pixels: np.ndarray) -> list[ImageHeader]:
    return [ImageHeader("png", *image.shape) for image in pixels]


def measured(pixels: np.ndarray) -> np.ndarray:
    return measure_images(pixels, headers(pixels))


def pictures(count: int, start: int = 0) -> np.ndarray:
    return np.stack([picture(seed, 32, 3) for seed in range(start, start + count)])


def blurred(pixels: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(image, (0, 0), 1.6) for image in pixels])


DAMAGES = {
    "blurred": blurred,
    "dark": lambda pixels: pixels // 4,
    "bright": lambda pixels: 255 - (255 - pixels) // 4,
    "low_contrast": lambda pixels: pixels // 8 + 100,
    "blank": lambda pixels: np.full_like(pixels, 128) + (pixels[:, :1] % 3),
    "grey": lambda pixels: np.repeat(pixels[..., 1:2], 3, axis=-1),
}


@pytest.fixture(scope="module")
def learned() -> np.ndarray:
    return measured(pictures(300))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_found_and_others_are_not(damage: str, learned: np.ndarray) -> None:
    bounds = learn_bounds(learned, 1.0)
    assert sorted(bounds) == sorted(FINDINGS)
    held_out = pictures(100, 1000)
    assert judge_images(measured(held_out), bounds).any(axis=1).mean() <= 0.02
    found = judge_images(measured(DAMAGES[damage](held_out)), bounds)
    assert found[:, FINDINGS.index(damage)].mean() >= 0.95
    if damage == "blank":
        # It is all that is said of them.
        assert found.sum() == found[:, FINDINGS.index("blank")].sum()


def test_black_backgrounds_of_digits_are_ordinary() -> None:
    digits = np.minimum(load_digits().images * 16, 255).astype(np.uint8)[..., None]
    values = measured(digits)
    bounds = learn_bounds(values[:900], 1.0)
    # Grey pixels tell nothing about colour.
    assert "grey" not in bounds
    assert not judge_images(values[900:], bounds).any()
    assert judge_images(measured(digits // 4), bounds)[:, FINDINGS.index("dark")].all()


def test_measures_do_not_depend_on_the_batch() -> None:
    pixels = pictures(40)
    alone = np.concatenate([measured(pixels[at : at + 1]) for at in range(len(pixels))])
    assert np.array_equal(measured(pixels), alone)
    assert measured(pixels[:0]).shape == (0, len(MEASURES))
    large = np.stack([cv2.resize(image, (400, 300)) for image in pixels[:8]])
    assert np.array_equal(measured(large)[3:5], measured(large[3:5]))


def test_measures_are_those_of_the_definition() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 10:] = (200, 100, 100)
    values = dict(zip(MEASURES, measured(image[None])[0].tolist(), strict=True))
    level = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[0, -1]
    assert (values["darkest"], values["brightest"]) == (0, level)
    assert (values["width"], values["height"], values["colour"]) == (20, 10, 50)
    # At the edge each of two pixels has a Laplacian and a gradient of one step.
    squares = 2 * float(level) ** 2 / 18
    assert values["sharpness"] == pytest.approx((squares + 0.5) / (squares + 1))
    (side,), (elongation,) = (derived(measured(image[None]))[n] for n in ("side", "elongation"))
    assert (side, elongation) == (pytest.approx(200**0.5), 2)


def test_a_few_bad_training_images_move_no_bound(learned: np.ndarray) -> None:
    black = measured(np.zeros((9, 32, 32, 3), np.uint8))
    bounds = learn_bounds(np.concatenate([learned, black]), 1.0)
    assert judge_images(black, bounds)[:, FINDINGS.index("blank")].all()
    # Where one in twenty is blank or grey, that is ordinary.
    grey = measured(DAMAGES["grey"](pictures(20)))
    common = learn_bounds(np.concatenate([learned, grey, black, black]), 1.0)
    found = judge_images(np.concatenate([grey, black]), common)
    assert not found[:, [FINDINGS.index("grey"), FINDINGS.index("blank")]].any()


def test_odd_sizes_and_ratios(learned: np.ndarray) -> None:
    bounds = learn_bounds(learned, 1.0)
    pixels = pictures(4)
    sizes = [(32, 32), (12, 12), (100, 100), (16, 64)]
    values = measure_images(pixels, [ImageHeader("jpeg", *size, 3) for size in sizes])
    odd = [[FINDINGS[at] for at in np.flatnonzero(row)] for row in judge_images(values, bounds)]
    assert odd == [[], ["odd_size"], ["odd_size"], ["odd_aspect_ratio"]]


def test_bounds_may_be_given_and_widened(learned: np.ndarray) -> None:
    narrow, wide = learn_bounds(learned, 1.0), learn_bounds(learned, 1.5)
    assert narrow["blurred"].below > wide["blurred"].below  # type: ignore[operator]
    assert learn_bounds(learned[:49], 1.0) == {}
    own = FindingsConfig.model_validate({"below": {"dark": 0}, "above": {"odd_size": 500}})
    used = bounds_in_use(narrow, own)
    assert (used["dark"].below, used["odd_size"].above) == (0, 500)
    assert used["odd_size"].below == narrow["odd_size"].below
    assert describe_bounds("odd_size", used["odd_size"]).endswith("below 16 or above 500")
    assert bounds_in_use(narrow, FindingsConfig(enabled=False)) == {}
    with pytest.raises(ValueError, match="bright"):
        FindingsConfig.model_validate({"below": {"bright": 3}})
