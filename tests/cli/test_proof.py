"""The log is signed, looked at and verified from the command line.

*Goal*: what is signed verifies; what was altered is named in words and exits with 1; what cannot be
done says so. *Method*: the commands run in this process, on a store that a run has written.
"""

from contextlib import closing

import apsw
import pytest


@pytest.fixture
def signed(cli):
    """A signed store with one run."""
    assert cli("key", "new", "--origin", "example.com/log").code == 0
    assert cli("run", "desk.py:price", "--input", "7", "--id", "r").code == 0
    return cli


def spoil(statement, *values):
    """Change the store's file behind its back, as somebody would who does not know better."""
    with closing(apsw.Connection("holdfast.db")) as file:
        file.execute(statement, values)
        assert file.changes() == 1


def test_a_signed_log_verifies_and_says_who_signed(signed, desk):
    key = signed("key", "show").out.strip()
    assert key.startswith("example.com/log+")
    assert (desk / "holdfast.db.key").stat().st_mode & 0o777 == 0o600
    head = signed("checkpoint", "--json").json
    said = signed("verify", "--json").json
    assert said["ok"]
    assert said["events"] == head["size"] > 3
    assert said["checkpoint"]["root"] == head["root"]
    assert said["keys"] == [key]
    assert said["trusted"] is False
    words = signed("verify")
    assert "all as they were signed" in words.out
    assert "--against CHECKPOINT" in words.err


def test_a_checkpoint_kept_outside_and_a_key_that_is_trusted_are_compared(signed, desk):
    (desk / "kept").write_text(signed("checkpoint").out)
    key = signed("key", "show").out.strip()
    assert signed("run", "desk.py:price", "--input", "8", "--id", "s").code == 0
    said = signed("verify", "--against", "kept", "--trust", key)
    assert said.code == 0
    assert "(trusted)" in said.out
    assert "1 checkpoint(s) kept outside" in said.out
    assert said.err == ""
    (desk / "policy").write_text(f"log {key}\nquorum none\n")
    assert signed("verify", "--trust", "policy").code == 0


def test_an_event_that_was_altered_is_named_in_words(signed):
    spoil("UPDATE event SET leaf = CAST(replace(leaf, 'price', 'prize') AS BLOB) WHERE pos = 2")
    said = signed("verify")
    assert said.code == 1
    assert said.out.startswith("event 2 of run 'r' (index 1): altered")
    assert "NOT what was signed" in said.out
    (finding,) = signed("verify", "--json").json["findings"]
    assert (finding["kind"], finding["index"], finding["run"]) == ("event", 1, "r")


def test_a_log_that_nobody_signed_is_not_verified(cli):
    assert cli("run", "desk.py:price", "--input", "7", "--id", "r").code == 0
    said = cli("verify")
    assert said.code == 1
    assert "the log is not signed" in said.out
    assert cli("checkpoint").code == 2
    assert "key new" in cli("checkpoint").err
    assert cli("key", "show").code == 1
    assert cli("key", "rotate").code == 2


def test_a_key_takes_over_and_what_was_signed_before_still_verifies(signed, desk):
    (desk / "kept").write_text(signed("checkpoint").out)
    old = signed("key", "show").out.strip()
    assert signed("key", "rotate").code == 0
    assert signed("run", "desk.py:price", "--input", "8", "--id", "s").code == 0
    assert len(signed("key", "show").out.split()) == 2
    assert len((desk / "holdfast.db.key").read_text().split()) == 1
    assert signed("verify", "--against", "kept", "--trust", old).code == 0


def test_what_cannot_be_done_says_why(signed, desk, monkeypatch):
    again = signed("key", "new")
    assert again.code == 2
    assert "signed already" in again.err
    assert "rotate" in again.err
    assert signed("key", "show", "--origin", "x").code == 2
    assert signed("verify", "--trust", "nonsense").code == 2
    assert signed("verify", "--against", "missing").code == 2
    assert signed("verify", "missing.db").code == 1
    (desk / "bad").write_text("no note")
    assert signed("verify", "--against", "bad").code == 2
    (desk / "holdfast.db.key").rename(desk / "elsewhere")
    said = signed("run", "desk.py:price", "--input", "9", "--id", "t")
    assert said.code == 1
    assert "HOLDFAST_KEY" in said.err
    monkeypatch.setenv("HOLDFAST_KEY", "elsewhere")
    assert signed("run", "desk.py:price", "--input", "9", "--id", "t").code == 0


def test_a_key_that_was_drawn_before_a_crash_is_used(cli, desk):
    assert cli("run", "desk.py:price", "--input", "7", "--id", "r").code == 0
    assert cli("key", "new", "--store", "other.db").code == 0
    (desk / "holdfast.db.key").write_text((desk / "other.db.key").read_text())
    (desk / "holdfast.db.key").chmod(0o600)
    assert cli("key", "new", "--origin", "example.com/another").code == 2
    assert cli("key", "new").code == 0
    other, ours = cli("key", "show", "--store", "other.db").out, cli("key", "show").out
    assert other == ours
    assert cli("verify").code == 0
