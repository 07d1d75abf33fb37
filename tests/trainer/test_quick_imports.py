"""Imports without garbage collection, one in another."""

import gc

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
