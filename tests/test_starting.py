"""What is marked slow by itself: tests that start processes, however far away they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager

import command
import pytest
from command import soupkitchen
from starting import starts, starts_processes


def by_the_command() -> None:
    soupkitchen("--help", cwd=None)


def by_an_attribute() -> None:
    command.started()


def by_a_helper() -> None:
    def inner() -> None:
        by_the_command()

    inner()


@contextmanager
def by_a_wrapped_one():
    yield subprocess.Popen([])


class ByAMethod:
    """Starts a process when it is made."""

    def __init__(self) -> None:
        self.process = subprocess.run([])


def by_a_class() -> None:
    ByAMethod()


def again_and_again() -> None:
    again_and_again()
    by_a_class()


@pytest.mark.parametrize(
    "function",
    [by_the_command, by_an_attribute, by_a_helper, by_a_wrapped_one, by_a_class, again_and_again],
)
def test_whoever_starts_a_process_is_found(function: Callable[[], None]) -> None:
    assert starts(function)


def harmless() -> None:
    sys.exit(len(subprocess.PIPE.__doc__ or ""))


@pytest.fixture
def process() -> None:
    if sys.argv == []:
        by_a_helper()


def test_others_are_not(request: pytest.FixtureRequest) -> None:
    assert not starts(harmless)
    assert not starts_processes(request.node)


def test_a_fixture_counts_for_its_tests(process: None, request: pytest.FixtureRequest) -> None:
    assert starts_processes(request.node)
    assert request.node.get_closest_marker("slow")
