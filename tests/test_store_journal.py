"""The journal: torn, damaged, and of another run."""

from __future__ import annotations

import pytest

from soupkitchen.errors import JournalError
from soupkitchen.store.files import recover
from soupkitchen.store.journal import FORMAT, Journal, line_of


def test_a_torn_last_line_is_dropped_and_the_rest_replayed(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for number in range(3):
        journal.add(event="score", number=number)
    whole = journal.file.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1])):
        journal.file.write_bytes(whole[:-cut])
        again = Journal(journal.file)
        assert again.events_before == 2
        assert again.once(event="score", number=0)["number"] == 0
        assert again.recall(event="score") == {"event": "score", "number": 1}
        assert not again.replaying
        again.once(event="score", number=2)
        assert journal.file.read_bytes() == whole


def test_a_journal_that_says_something_else_is_refused(tmp_path):
    Journal(tmp_path / "journal.jsonl").add(event="decision", candidate="a")
    with pytest.raises(JournalError, match=r"candidate a, but now it would be .*candidate b"):
        Journal(tmp_path / "journal.jsonl").once(event="decision", candidate="b")


@pytest.mark.parametrize("line", ["{", "[]", "\xff"])
def test_a_journal_that_is_damaged_in_the_middle_is_named(line, tmp_path):
    file = tmp_path / "journal.jsonl"
    before, after = line_of({"event": "begin", "format": FORMAT}), line_of({"event": "score"})
    file.write_bytes(before + line.encode("latin-1") + b"\n" + after)
    with pytest.raises(JournalError, match="damaged at line 2"):
        Journal(file)


def test_what_a_kill_left_of_saving_is_put_right(tmp_path):
    (tmp_path / ".soup.abc.old").mkdir()
    (tmp_path / ".soup.abc.old" / "weights").write_text("old")
    (tmp_path / ".soup.abc").mkdir()
    recover(tmp_path / "soup")
    assert (tmp_path / "soup" / "weights").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["soup"]
