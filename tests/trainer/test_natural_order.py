"""Class names in the order that people expect."""

from trainer.data.preprocessing import _natural_key


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["10", "2", "img12", "img2", "1", "01", "a", "", "img"]
    assert sorted(names, key=_natural_key) == [
        "", "01", "1", "2", "10", "a", "img", "img2", "img12",
    ]  # fmt: skip
