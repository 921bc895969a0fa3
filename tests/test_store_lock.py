"""One process a folder: the lock, and who is named to others."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from command import forked
from filelock import FileLock

from soupkitchen.errors import LockError
from soupkitchen.store.lock import only_process

REFUSING = """
import errno, fcntl, os
def refuse(*arguments):
    raise OSError(errno.{0}, os.strerror(errno.{0}))
fcntl.flock = os.fsync = refuse
"""


def test_the_lock_of_a_dead_process_is_none(tmp_path):
    code = (
        "import os, pathlib, soupkitchen.store.lock as l\n"
        f"with l.only_process(pathlib.Path({str(tmp_path / 'x')!r})): os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False)
    assert result.returncode == -signal.SIGKILL
    assert (tmp_path / ".x.holder").exists()  # it could not clean up
    with only_process(tmp_path / "x"):
        other = code.replace("os.kill(os.getpid(), 9)", "pass")
        result = subprocess.run([sys.executable, "-c", other], check=False, capture_output=True, text=True)
        assert f"{tmp_path / 'x'} is in use by process" in result.stderr
    with only_process(tmp_path / "x"), pytest.raises(LockError), only_process(tmp_path / "x"):
        pass


def test_a_lock_is_taken_a_moment_before_it_is_said_by_whom_and_held_a_moment_longer(tmp_path):
    """Whoever comes in such a moment waits for it: it gets the name of the other one, or the lock."""
    lock, holder = tmp_path / ".x.lock", tmp_path / ".x.holder"
    other = FileLock(lock, thread_local=False)
    other.acquire()
    who = json.dumps({"process": 17, "host": "elsewhere", "since": "2026-01-01 00:00:00"})
    saying = threading.Timer(0.3, holder.write_text, [who])
    saying.start()
    with (
        pytest.raises(LockError, match="in use by process 17 on elsewhere, since 2026"),
        only_process(tmp_path / "x"),
    ):
        pass
    saying.join()
    holder.unlink()
    ending = threading.Timer(0.3, other.release)
    ending.start()
    with only_process(tmp_path / "x"):
        assert holder.exists()
    ending.join()


REFUSALS = ("ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL")
DYING = """
from pathlib import Path
from soupkitchen.store.lock import only_process
with only_process(Path("x").absolute()):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_lock_that_is_a_file_keeps_others_out_and_is_taken_over_from_the_dead(
    refusal, tmp_path, monkeypatch
):
    def refuse(*arguments: object) -> None:
        raise OSError(getattr(errno, refusal), os.strerror(getattr(errno, refusal)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    dying = REFUSING.format(refusal) + DYING
    assert forked(dying, cwd=tmp_path).returncode == -signal.SIGKILL
    lock = tmp_path / ".x.lock"
    assert lock.exists()
    with (
        only_process(tmp_path / "x"),
        pytest.raises(LockError, match=f"remove {lock}"),
        only_process(tmp_path / "x"),
    ):
        pass
    assert not list(tmp_path.iterdir())
    elsewhere = "import socket; socket.gethostname = lambda: 'elsewhere'\n"
    assert forked(elsewhere + dying, cwd=tmp_path).returncode == -signal.SIGKILL
    said = rf"process \d+ on elsewhere, since .* If that process has ended, remove {lock}"
    with pytest.raises(LockError, match=said), only_process(tmp_path / "x"):
        pass
    lock.unlink()
    with only_process(tmp_path / "x"):
        pass
