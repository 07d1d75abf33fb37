"""Imports without garbage collection, one in another."""

import gc
import importlib
import sys

import pytest

from trainer.quick_imports import quick_imports


def test_collection_goes_on_after_the_outermost_block() -> None:
    assert gc.isenabled()
    with quick_imports():
        with quick_imports():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_block_that_imports_nothing_exempts_nothing() -> None:
    before = gc.get_freeze_count()
    with quick_imports():
        pass
    assert gc.get_freeze_count() == before


def test_only_full_collections_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    try:
        gc.set_threshold(700, 10, 10)
        with quick_imports():
            importlib.import_module("wave")
        young, middle, full = gc.get_threshold()
        assert (young, middle) == (700, 10)
        assert full > 10
    finally:
        gc.set_threshold(*before)
