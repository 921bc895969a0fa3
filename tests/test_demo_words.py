"""The demo's folders may be called anything."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from soupkitchen import demo


@pytest.mark.parametrize(
    "name", ["söup kitchen", "it's", 'a "b" c', "a,b=[c]", "{x}", "(y)", "back\\slash", '\\"']
)
def test_folders_of_any_name_reach_the_script_that_fine_tunes(name, tmp_path, monkeypatch):
    said: list[list[str]] = []
    monkeypatch.setattr(demo, "_run", lambda words, failure: said.append(words))
    folder = tmp_path / name
    demo._finetune("demo", folder / "data", folder / "runs", folder / "base", 0, folder / "model")
    words = OverridesParser.create().parse_overrides(said[0][1:])
    told = {word.key_or_group: word.value() for word in words}
    folders = {"model": "model", "data.path": "data", "output": "runs", "base": "base"}
    expected = {option: str(folder / below) for option, below in folders.items()}
    assert told == {"sweep": "demo", "seed": 0, **expected}
