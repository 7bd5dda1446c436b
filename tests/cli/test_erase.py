"""A person is erased from the command line, and the log is verified as before.

*Goal*: what was erased is said everywhere, by the event that tells of it; verification stays green
and turns red for a payload that was taken out by hand. *Method*: the commands, in this process, on
a signed store.
"""

from contextlib import closing

import apsw
import pytest

NAME = "Ada Lovelace"

GREET = """
import holdfast as hf

@hf.step
async def look(name: str) -> str:
    return f"found {name}"

@hf.agent
async def greet(name: str) -> str:
    hf.send("friend", f"hello {name}", topic="note")
    return await look(name)
"""


@pytest.fixture
def signed(cli, desk):
    """A signed store with a run on behalf of S and one of nobody's."""
    (desk / "greet.py").write_text(GREET)
    assert cli("key", "new", "--origin", "example.com/log").code == 0
    on_behalf = ("--subject", "S")
    assert cli("run", "greet.py:greet", "--id", "r", "--input", f'"{NAME}"', *on_behalf).code == 0
    assert cli("run", "desk.py:price", "--id", "p", "--input", "7").code == 0
    return cli


def erase(cli, *words):
    return cli("erase", "--subject", "S", "--basis", "GDPR Art. 17", "--by", "officer", *words)


def spoil(statement, *values):
    with closing(apsw.Connection("holdfast.db")) as file:
        file.execute(statement, values)
        assert file.changes() == 1


def test_an_erasure_is_told_by_every_command_that_reads(signed):
    said = erase(signed)
    assert said.code == 0
    assert "S: the key is destroyed, and 5 payloads of 1 run, 1 unread message" in said.out
    assert "recorded as event $erased/S@2" in said.out
    assert "5 payloads of this run erased by event $erased/S@2" in signed("show", "r").out
    assert signed("show", "r", "--json").json["identity"]["withheld"]["erased"] == 5
    assert signed("events", "r").out.count("[erased]") == 5
    lines = signed("events", "r", "--json").lines
    assert [line.get("withheld") for line in lines] == ["erased", None, *["erased"] * 4]
    assert {line["sub"] for line in lines} == {"S"}
    state = signed("state", "r@3")
    assert state.code == 0
    assert "erased by event $erased/S@2" in state.err
    assert "[erased]" in signed("why", "r@3").out
    replayed = signed("replay", "r")
    assert replayed.code == 0
    assert "cannot be fed to the code: 5 payloads" in replayed.err
    assert signed("replay", "r", "--json").json["identical"] is None
    again = signed("run", "greet.py:greet", "--id", "r", "--json")
    assert again.json["withheld"] == "erased"
    told = signed("events", "$erased/S").out
    assert '{"basis":"GDPR Art. 17","by":"officer"}' in told
    assert "subject S" in told
    assert signed("fsck").code == 0


def test_verification_is_green_before_and_after_and_says_which_event_erased(signed):
    before = signed("verify", "--json").json
    assert before["ok"]
    assert before["payloads"]["ok"] == before["events"] - before["payloads"]["none"]
    erase(signed)
    said = signed("verify", "--json").json
    assert said["ok"]
    assert (said["payloads"]["erased"], said["payloads"]["missing"]) == (5, 0)
    told = said["erasures"]["S"]
    assert told == {"index": before["events"] + 1, "payloads": 5}
    words = signed("verify")
    assert words.code == 0
    assert f"5 payloads of subject 'S': erased by event {told['index']} of the log" in words.out


def test_without_the_vault_payloads_are_sealed_and_verification_is_green(signed, desk):
    (desk / "holdfast.db.vault").rename(desk / "elsewhere")
    said = signed("verify")
    assert said.code == 0
    assert "5 sealed (no key at hand)" in said.out
    assert signed("events", "r").out.count("[sealed]") == 5
    assert "sealed: the vault with the key of 'S' is not at hand" in signed("show", "r").out
    started = signed("run", "greet.py:greet", "--input", '"x"', "--subject", "S")
    assert started.code == 1
    assert "there is no vault at" in started.err
    assert erase(signed).code == 0, "it takes no key to destroy one"


@pytest.mark.parametrize("erased", [False, True])
def test_a_payload_taken_out_by_hand_is_red(signed, erased):
    if erased:
        erase(signed)
    seq = (
        "SELECT pos FROM event WHERE payload IS NOT NULL AND run = (SELECT n FROM run WHERE id = ?)"
    )
    take = f"UPDATE event SET payload = NULL, salt = NULL, form = 3 WHERE pos = ({seq} LIMIT 1)"
    spoil(take, "p" if erased else "r")
    said = signed("verify")
    assert said.code == 1
    run = "'p'" if erased else "'r'"
    assert f"event 1 of run {run} (index " in said.out
    assert "its payload is missing" in said.out
    assert signed("fsck").code == 1


def test_a_payload_that_was_altered_or_put_back_is_red(signed, desk):
    with closing(apsw.Connection("holdfast.db")) as file:
        ((pos, payload),) = file.execute(
            "SELECT pos, payload FROM event WHERE seq = 1"
            " AND run = (SELECT n FROM run WHERE id = 'r')"
        ).fetchall()
    altered = payload[:-1] + bytes([payload[-1] ^ 1])
    spoil("UPDATE event SET payload = ? WHERE pos = ?", altered, pos)
    said = signed("verify")
    assert said.code == 1
    assert (
        "event 1 of run 'r' (index 0): its payload is missing: its bytes were altered" in said.out
    )
    spoil("UPDATE event SET payload = ? WHERE pos = ?", payload, pos)
    assert signed("verify").code == 0
    erase(signed)
    spoil("UPDATE event SET payload = ?, form = 0 WHERE pos = ?", payload, pos)
    said = signed("verify")
    assert said.code == 1
    assert "event 1 of run 'r' (index 0): its payload is there, yet event" in said.out
    assert (desk / "holdfast.db.vault").exists()


def test_what_cannot_be_erased_says_why(signed):
    none = signed("erase", "--subject", "Z", "--basis", "b")
    assert none.code == 2
    assert "there is no subject 'Z' in this store: nothing was changed" in none.err
    assert (
        signed("run", "desk.py:approve", "--id", "a", "--input", '"x"', "--subject", "S").code == 4
    )
    alive = erase(signed)
    assert alive.code == 2
    assert "'a' (waiting). Nothing was changed. Hint: let them end, or holdfast cancel" in alive.err
    assert signed("cancel", "a").code == 0
    assert signed("run", "desk.py:approve", "--id", "a").code == 1
    assert erase(signed, "--json").json["before"] is False
    again = erase(signed, "--json")
    assert (again.code, again.json["before"]) == (0, True)
    late = signed("run", "greet.py:greet", "--id", "n", "--input", '"x"', "--subject", "S")
    assert late.code == 1
    assert "was erased by $erased/S" in late.err


def published(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_is_published_is_sealed_and_gone_once_it_was_erased(signed, desk):
    assert signed("publish", "before").code == 0
    assert NAME.encode() not in published(desk / "before")
    said = signed("verify", "before", "--json").json
    assert (said["ok"], said["payloads"]["sealed"]) == (True, 5)
    assert erase(signed).code == 0
    for folder in ("before", "after"):
        assert signed("publish", folder).code == 0
        assert NAME.encode() not in published(desk / folder)
        said = signed("verify", folder, "--json").json
        assert said["ok"], said["findings"]
        assert (said["payloads"]["sealed"], said["payloads"]["erased"]) == (0, 5)
        assert b'"basis":"GDPR Art. 17"' in published(desk / folder)
    files = [path for path in (desk / "after" / "payloads").rglob("*") if path.is_file()]
    files[0].unlink()
    said = signed("verify", "after")
    assert said.code == 1
    assert "its payload is missing" in said.out


def test_a_copy_of_everything_is_as_green(signed, desk, monkeypatch):
    erase(signed)
    assert signed("export", "--all", "all.export").code == 0
    (desk / "copy.db.vault").write_bytes((desk / "holdfast.db.vault").read_bytes())
    monkeypatch.setenv("HOLDFAST_STORE", "copy.db")
    assert signed("import", "all.export").code == 0
    assert signed("key", "new", "--origin", "example.com/copy").code == 0
    said = signed("verify", "--json").json
    assert said["ok"], said["findings"]
    assert said["payloads"]["erased"] == 5
