"""Imports without the garbage collector."""

from __future__ import annotations

import gc

import pytest

from soupkitchen.cli.startup import importing


def test_garbage_is_collected_again_after_imports_even_failed_ones():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
