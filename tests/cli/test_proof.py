"""The log is signed, looked at and verified from the command line.

*Goal*: what is signed verifies; what was altered is named in words and exits with 1; what cannot be
done says so. *Method*: the commands run in this process, on a store that a run has written.
"""

from contextlib import closing

import apsw
import pytest


@pytest.fixture
def store(cli):
    """A signed store with one run."""
    assert cli("key", "new", "--origin", "example.com/log").code == 0
    assert cli("run", "desk.py:price", "--input", "7", "--id", "r").code == 0
    return cli


def spoil(statement, *values):
    """Change the store's file behind its back, as somebody would who does not know better."""
    with closing(apsw.Connection("holdfast.db")) as file:
        file.execute(statement, values)
        assert file.changes() == 1


def test_a_signed_log_verifies_and_says_who_signed(store, desk):
    key = store("key", "show").out.strip()
    assert key.startswith("example.com/log+")
    assert (desk / "holdfast.db.key").stat().st_mode & 0o777 == 0o600
    head = store("checkpoint", "--json").json
    said = store("verify", "--json").json
    assert said["ok"]
    assert said["events"] == head["size"] > 3
    assert said["checkpoint"]["root"] == head["root"]
    assert said["keys"] == [key]
    assert said["trusted"] is False
    words = store("verify")
    assert "all as they were signed" in words.out
    assert "--against CHECKPOINT" in words.err


def test_a_checkpoint_kept_outside_and_a_key_that_is_trusted_are_compared(store, desk):
    (desk / "kept").write_text(store("checkpoint").out)
    key = store("key", "show").out.strip()
    assert store("run", "desk.py:price", "--input", "8", "--id", "s").code == 0
    said = store("verify", "--against", "kept", "--trust", key)
    assert said.code == 0
    assert "(trusted)" in said.out
    assert "1 checkpoint(s) kept outside" in said.out
    assert said.err == ""
    (desk / "policy").write_text(f"log {key}\nquorum none\n")
    assert store("verify", "--trust", "policy").code == 0


def test_an_event_that_was_altered_is_named_in_words(store):
    spoil("UPDATE event SET leaf = CAST(replace(leaf, 'price', 'prize') AS BLOB) WHERE pos = 2")
    said = store("verify")
    assert said.code == 1
    assert said.out.startswith("event 2 of run 'r' (index 1): altered")
    assert "NOT what was signed" in said.out
    (finding,) = store("verify", "--json").json["findings"]
    assert (finding["kind"], finding["index"], finding["run"]) == ("event", 1, "r")


def test_a_log_that_nobody_signed_is_not_verified(cli):
    assert cli("run", "desk.py:price", "--input", "7", "--id", "r").code == 0
    said = cli("verify")
    assert said.code == 1
    assert "the log is not signed" in said.out
    assert "key new" in said.out
    assert "NOT what was signed" not in said.out
    assert cli("checkpoint").code == 2
    assert "key new" in cli("checkpoint").err
    assert cli("key", "show").code == 1
    assert cli("key", "rotate").code == 2


def test_a_key_takes_over_and_what_was_signed_before_still_verifies(store, desk):
    (desk / "kept").write_text(store("checkpoint").out)
    old = store("key", "show").out.strip()
    assert store("key", "rotate").code == 0
    assert store("run", "desk.py:price", "--input", "8", "--id", "s").code == 0
    assert len(store("key", "show").out.split()) == 2
    assert len((desk / "holdfast.db.key").read_text().split()) == 1
    assert store("verify", "--against", "kept", "--trust", old).code == 0


def test_what_cannot_be_done_says_why(store, desk, monkeypatch):
    again = store("key", "new")
    assert again.code == 2
    assert "signed already" in again.err
    assert "rotate" in again.err
    assert store("key", "show", "--origin", "x").code == 2
    assert store("verify", "--trust", "nonsense").code == 2
    assert store("verify", "--against", "missing").code == 2
    assert store("verify", "missing.db").code == 1
    (desk / "bad").write_text("no note")
    assert store("verify", "--against", "bad").code == 2
    (desk / "holdfast.db.key").rename(desk / "elsewhere")
    said = store("run", "desk.py:price", "--input", "9", "--id", "t")
    assert said.code == 1
    assert "HOLDFAST_KEY" in said.err
    monkeypatch.setenv("HOLDFAST_KEY", "elsewhere")
    assert store("run", "desk.py:price", "--input", "9", "--id", "t").code == 0


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


def test_an_event_is_proved_and_verifies_alone(store, desk):
    key = store("key", "show").out.strip()
    said = store("prove", "r@2", "--json").json
    assert (said["run"], said["seq"], said["index"]) == ("r", 2, 1)
    (desk / "holdfast.db").unlink()
    assert store("verify", "event.json", "--trust", key).code == 0
    assert store("verify", "event.json", "--trust", key, "--json").json["index"] == 1
    assert store("verify", "event.json").code == 2
    (desk / "event.json").write_text((desk / "event.json").read_text().replace("price", "prize"))
    altered = store("verify", "event.json", "--trust", key)
    assert altered.code == 1
    assert "NOT proved: the event is not number 1 of the" in altered.out


def test_a_log_is_published_grows_and_verifies_from_a_directory(store, desk):
    (desk / "kept").write_text(store("checkpoint").out)
    key = store("key", "show").out.strip()
    first = store("publish", "pub", "--json").json
    assert first["new"] == first["events"]
    assert store("publish", "pub", "--json").json["new"] == 0
    assert store("run", "desk.py:price", "--input", "8", "--id", "s").code == 0
    assert store("publish", "pub").code == 0
    assert store("verify", "pub", "--against", "kept", "--trust", key).code == 0
    assert key in (desk / "pub" / "README.md").read_text()
    proof = store("consistency", "kept", "--json").json
    assert proof["old"] == first["events"] < proof["size"]
    assert store("consistency", "kept").out.startswith(f"old {proof['old']}\n")
    (desk / "other").mkdir()
    (desk / "other" / "file").touch()
    assert store("publish", "other").code == 2


def test_an_older_checkpoint_of_another_history_is_refused(store, desk):
    key = store("key", "show").out.strip()
    assert store("publish", "pub").code == 0
    old = store("checkpoint").out
    for file in desk.glob("holdfast.db*"):
        if file.suffix != ".key":
            file.unlink()
    assert store("run", "desk.py:price", "--input", "1", "--id", "r").code == 0
    assert store("key", "new").code == 0
    assert store("key", "show").out.strip() == key  # whoever has the key signs anew
    (desk / "kept").write_text(old)
    assert store("verify").code == 0
    for command in (("consistency", "kept"), ("publish", "pub"), ("verify", "--against", "kept")):
        said = store(*command)
        assert said.code == 1
        assert "split view" in said.out + said.err


def test_a_witness_cosigns_what_carries_on_and_a_policy_asks_for_it(store, desk):
    key = store("key", "show").out.strip()
    ann = store("witness", "new", "--name", "ann.example").out.strip()
    (desk / "policy").write_text(f"log {key}\nwitness ann {ann}\nquorum ann\n")
    assert store("publish", "pub").code == 0
    missing = store("verify", "pub", "--trust", "policy")
    assert missing.code == 1
    assert "cosignatures that the policy asks for" in missing.out
    for run in ("s", "t"):
        assert store("witness", "cosign", "pub", "--trust", key).code == 0
        assert store("verify", "pub", "--trust", "policy").code == 0
        assert store("run", "desk.py:price", "--input", "8", "--id", run).code == 0
        assert store("publish", "pub").code == 0
    assert store("witness", "cosign", "pub", "--trust", key).code == 0
    (desk / "kept").write_text((desk / "pub" / "checkpoint").read_text())
    assert store("verify", "--against", "kept", "--trust", "policy").code == 0
    assert store("witness", "cosign", "pub").code == 2
    assert store("witness", "cosign", "--trust", key).code == 2
    assert store("witness", "new", "--name", "bob").code == 2


def test_a_key_may_be_replaced_before_the_first_event(cli):
    assert cli("key", "new").code == 0
    assert cli("key", "rotate").code == 0
    assert cli("verify").code == 0
    assert cli("checkpoint").code == 0
    assert cli("run", "desk.py:price", "--id", "p", "--input", "7").code == 0
    said = cli("verify", "--json").json
    assert (said["ok"], len(said["keys"])) == (True, 2)
    assert cli("publish", "out").code == 0
    assert cli("verify", "out").code == 0
