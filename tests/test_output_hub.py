"""Pushing a soup to a hub that stands in for the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import events, own, started
from hub import Hub, hub


@pytest.fixture(scope="module")
def there() -> Iterator[Hub]:
    with hub() as server:
        yield server


def run(server: Hub, *words: str, cwd: Path, token: str = "hf_right") -> tuple[int, str]:
    early = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    process = started(*words, cwd=cwd, env={"HF_TOKEN": token}, early=early)
    _, err = process.communicate(timeout=200)
    assert "Traceback" not in err
    return process.poll() or 0, err


def test_a_soup_is_pushed_private_and_goes_on_where_it_broke_off(there, text_runs, texts, tmp_path):
    words = [*own(text_runs, texts), "name=x", "output.max_shard_size=20KB", "report.write=true"]
    status, _ = run(there, *words, "search=uniform", "name=other", cwd=tmp_path)
    assert status == 0
    assert there.repositories == {}  # nobody asked for it
    there.fails_after = 1
    status, err = run(there, *words, "output.push_to_hub=me/soup", cwd=tmp_path)
    assert status == 1
    assert "could not be pushed to me/soup" in err
    assert "the same command tries again" in err
    folder = tmp_path / "results" / "x"
    before, there.fails_after, sent = events(folder), None, there.received
    status, err = run(there, *words, "output.push_to_hub=me/soup", cwd=tmp_path)
    assert status == 0, err
    assert f"pushed   {there.url}/me/soup" in err
    assert events(folder)[: len(before)] == before
    repository = there.repositories["me/soup"]
    assert repository["private"] is True
    saved = {file.name: file.read_bytes() for file in (folder / "soup").iterdir()}
    assert {name: repository["files"].get(name) for name in saved} == saved
    large = [name for name in saved if name.endswith((".safetensors", ".png"))]
    assert there.received == len({saved[name] for name in large})  # none was sent twice
    assert sent == 1


def test_who_may_not_push_is_told_before_any_work(there, text_runs, texts, tmp_path):
    words = [*own(text_runs, texts), "name=x"]
    for name, token, message in (
        ("me/soup", "hf_wrong", "the hub does not let us in"),
        ("me/soup", "", "needs a token of the hub"),
        ("me/so/up", "hf_right", "output.push_to_hub=me/so/up should be org/name"),
    ):
        status, err = run(there, *words, f"output.push_to_hub={name}", cwd=tmp_path, token=token)
        assert status == 1
        assert message in err
        assert not (tmp_path / "results" / "x").exists()
