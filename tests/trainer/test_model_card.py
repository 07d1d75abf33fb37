"""The model card: one schema for every writer and reader, with defaults for older exports."""

import json
import pickle
from typing import Any

import pytest

from trainer.model_card import CardError, CardPart, ModelCard, format_card, parse_card

WRITTEN: dict[str, Any] = {
    "name": "digits",
    "classes": ["0", "1"],
    "image_shape": [8, 8, 1],
    "embedding_size": 4,
    "body_dtype": "mixed_bfloat16",
    "weights": ["encoder/kernel"],
    "digests": {"model": "a1", "transform": "b2", "calibration": "c3", "code": "d4", "config": ""},
    "images": {"train": 900},
    "calibration": {
        "split": "calibration",
        "images": 64,
        "temperature": {"value": 0.5, "gain": 0.1,
                        "standard_error": 0.01, "calibration_error_before": 0.02,
                        "calibration_error": 0.01},
        "outlier_score": {"chosen": "combined", "mean_auroc": {"combined": 0.9},
                          "auroc": {"combined": {"noise": 0.9}}},
        "thresholds": {"review": {"score": 1.5, "rate": 0.05, "interval": [0.03, 0.07]},
                       "reject": {"score": None, "rate": 0.001, "interval": [0.0, 0.02]}},
    },
    "summaries": {
        "images": 64,
        "levels": [0.5],
        "pixels": {"histogram": [1.0], "brightness": [0.4], "contrast": [0.1]},
        "latent": {"mean": [0.0], "std": [1.0], "quantiles": [[0.0]],
                   "posterior_variance": [0.5]},
        "classes": [0.5, 0.5],
        "priors": [0.5, 0.5],
        "confidence": [0.9],
        "elbo": [-9.0],
        "kl": [2.0],
        "reconstruction_error": [0.01],
        "outlier_score": [0.0],
        "mix": {"images": 900, "format": {"png": 900}, "size": {"8x8": 900}},
    },
    "steps": 100,
    "libraries": {"keras": "3.0"},
    "base": {"source": "/models/7", "model": "e5", "new": [], "line": "warm start: 1 of 1"},
}  # fmt: skip


def unknown_keys(part: CardPart, place: str = "") -> list[str]:
    """Names the keys of a card that the schema does not document."""
    found = [f"{place}{name}" for name in part.model_extra or {}]
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, CardPart):
            found += unknown_keys(value, f"{place}{name}.")
    return found


def test_a_card_is_written_as_it_was_read() -> None:
    card = parse_card(json.dumps(WRITTEN), path="/models/8")
    assert json.loads(format_card(card)) == WRITTEN
    assert unknown_keys(card) == []
    assert card.path == "/models/8"
    assert card.image_shape == (8, 8, 1)
    assert card.calibration.thresholds.scores() == {"review": 1.5}
    assert pickle.loads(pickle.dumps(card)) == card


def test_an_older_card_has_defaults_and_a_later_one_keeps_its_keys() -> None:
    older = parse_card(b'{"classes": [0, 1], "calibration": {}}')
    assert older.classes == ("0", "1")
    assert older.body_dtype == "float32"
    assert older.calibration.temperature.value == 1.0
    assert not older.summaries.images
    assert older.answer_digests == dict.fromkeys(("model", "transform", "calibration", "code"), "")
    later = parse_card('{"digests": {"model": "a", "data": "b"}, "format": 2}')
    assert json.loads(format_card(later)) == {"digests": {"model": "a", "data": "b"}, "format": 2}
    assert later.digests.as_dict() == {"model": "a", "data": "b"}


def test_a_missing_key_is_told_from_a_default() -> None:
    card = parse_card('{"classes": ["a"], "digests": {"model": "1"}}')
    assert card.require("classes", "digests.model") is card
    for keys, missing in ((["embedding_size"], "embedding_size"), (["digests.code"], "code")):
        with pytest.raises(CardError, match=f"^'{missing}' is missing$"):
            card.require(*keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe{", "codec can't decode|Expecting"),
        ("[1]", "expected a JSON object, got list"),
        ('{"image_shape": [8, 8]}', r"image_shape\.2: Field required"),
        ('{"digests": {"model": []}}', r"digests\.model: Input should be a valid string"),
    ],
)
def test_a_damaged_card_gets_one_line(content: str | bytes, message: str) -> None:
    with pytest.raises(CardError, match=message) as caught:
        parse_card(content)
    assert "\n" not in str(caught.value)


def test_a_card_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ModelCard().name = "other"
