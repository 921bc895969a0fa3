"""README.md and docs/: the site builds, tables name their scripts, links lead somewhere, runs work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command import as_script, forked
from command import soupkitchen as run
from conftest import ROOT
from pages import PAGES, anchors, blocks, commands, has_figures, links, sections, tables

import soupkitchen
from soupkitchen.options import files

SCRIPTS = ROOT / "scripts"
README = ROOT / "README.md"

# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_the_site_asks_no_network(site):
    for page in site.glob("*.html"):
        asked = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']?https?://[^\s>]*", page.read_text())
        assert not asked, page.name


def test_the_figures_are_what_their_script_would_write_now():
    ended = forked(as_script(SCRIPTS / "method_figures.py"), "--check", cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def leaves(tree: dict[str, Any], above: str) -> Iterator[str]:
    """The options of a composition by dotted key."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}.{name}")
        elif not name.startswith("_"):
            yield f"{above}.{name}"


def test_every_option_has_a_row_that_says_what_it_may_be(site):
    page = (site / "options.html").read_text()
    shared = page.split('id="data-and-metric"')[1].split("<h3")[0]
    for group in ("pool", "task", "method", "search", "evaluation", "output", "runtime", "model", "report"):
        for name in files.names(group):
            section = page.split(f'id="{group}{name}"')[1].split("<h3")[0]
            section += shared if "#data-and-metric" in section else ""
            for option in leaves(files.compose(group, name), group):
                assert f"<td><code>{option}</code></td>" in section, f"{group}={name}"
    (row,) = re.findall(r"<tr>\s*<td><code>method.sparsifier.gamma</code></td>.*?</tr>", page, re.DOTALL)[:1]
    assert "<code>0.01</code>" in row
    assert "a number between 0 and 1" in row
    assert "too large" in row


def test_what_the_package_exports_is_in_the_api(site):
    page = (site / "api.html").read_text()
    exported = [f"soupkitchen.{name}" for name in set(soupkitchen.__all__) - {"methods", "tasks"}]
    methods = [f"soupkitchen.methods.{name}" for name in files.names("method")]
    for name in [*exported, *methods, *files.options_by_target()]:
        assert f'id="{name}"' in page or not name.startswith("soupkitchen."), name


def test_the_readme_is_a_page():
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_there_are(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_of_figures_names_its_script(page):
    for title, text in sections(page):
        if any(map(has_figures, tables(text))):
            named = re.findall(r"python (scripts/\w+\.py)", text)
            assert named or "This is arithmetic, not a measurement" in text, title
            assert all((ROOT / script).is_file() for script in named), title


# The README's own runs


@pytest.fixture(scope="module")
def place(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README names: runs, their base, and texts."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "runs").mkdir()
    for name in ("a", "b", "c", "wild"):
        (folder / "runs" / name).symlink_to(text_runs / name)
    (folder / "model").symlink_to(text_runs / "d")
    (folder / "reviews").symlink_to(texts)
    return folder


def shown_in_the_readme(*start: str) -> list[str]:
    """The words of the README's first command that begins so, after those."""
    command = next(
        c for c in commands(README) if c.words[: len(start)] == start and "pool.path=runs/*" in c.words
    )
    return list(command.words[3:])


@pytest.mark.slow
def test_the_readmes_run_in_the_shell_works(place):
    words = shown_in_the_readme("python", "-m", "soupkitchen")
    result = run(*words, cwd=place)
    assert "leaderboard  results/runs-linear-greedy" in result.stdout


@pytest.mark.slow
def test_the_readmes_sweep_has_a_row_for_each_method(place):
    words = shown_in_the_readme("python", "-m", "soupkitchen", "-m")
    run(*words, "results_dir=sweep", cwd=place)
    table = (place / "sweep" / "leaderboard.csv").read_text().splitlines()
    assert len(table) == 1 + 3


@pytest.mark.slow
def test_the_readmes_look_at_a_pool_writes_its_table(place, monkeypatch):
    words = next(c.words[3:] for c in commands(README) if "soupkitchen.inspect" in c.words)
    monkeypatch.chdir(place)
    import_module("soupkitchen.inspect").main(words)
    assert (place / "pool.csv").read_text().count("\n") == 1 + 4


@pytest.mark.slow
def test_the_readmes_python_works(place, monkeypatch):
    (block,) = blocks(README, "python")
    for page in ("index.md", "api.md"):
        assert block in blocks(ROOT / "docs" / page, "python")
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["result"].leaderboard["kind"].eq("soup").sum() == 1
    assert names["model"].num_parameters() > 0
