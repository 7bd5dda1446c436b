"""Payloads of runs that ended long ago go, and the log proves as before.

*Goal*: nothing goes without `--apply`, nothing but what has ended goes with it, every command says
what is gone and which event told; verification stays green, and turns red for a payload that was
taken out by hand. *Method*: the commands, in this process, on signed stores of both kinds.
"""

import asyncio
import time
from contextlib import closing

import apsw
import psycopg
import pytest

import holdfast as hf
from holdfast.runtime.births import collection_run
from holdfast.runtime.clock import SystemEntropy
from holdfast.stores.sqlite.fsck import check_file

TALK = """
import holdfast as hf

@hf.step
async def look(name: str) -> list[dict[str, str]]:
    return [{"said": f"{name} {n}", "more": "lorem ipsum " * 9} for n in range(99)]

@hf.agent
async def talk(name: str) -> str:
    return (await look(name))[7]["said"]
"""
PAYLOADS = 4
"""Of a run that talks."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, desk, monkeypatch):
    """Where a new store is to be, which all commands take."""
    url = "holdfast.db"
    if request.param == "postgres":
        url = request.getfixturevalue("database")
    monkeypatch.setenv("HOLDFAST_STORE", url)
    monkeypatch.setenv("HOLDFAST_KEY", str(desk / "key"))
    monkeypatch.setenv("HOLDFAST_VAULT", str(desk / "vault"))
    (desk / "talk.py").write_text(TALK)
    return url


def talk(cli, run, name="ada", *words):
    said = cli("run", "talk.py:talk", "--id", run, "--input", f'"{name}"', *words)
    assert said.code == 0, said.err


@pytest.fixture
def signed(cli, place):
    """A signed store with two runs that ended, one of them on behalf of S, and one that waits."""
    assert cli("key", "new", "--origin", "example.com/log").code == 0
    talk(cli, "r1")
    talk(cli, "r2", "ada", "--subject", "S")
    assert cli("run", "desk.py:approve", "--id", "waits", "--input", '"x"').code == 4
    assert place
    return cli


def spoil(place, run):
    """Take a payload out by hand."""
    first = "(SELECT n FROM @run WHERE id = {})"
    taken = (
        f"UPDATE @event SET payload = NULL, salt = NULL, form = 3 WHERE seq = 1 AND run = {first}"
    )
    if place == "holdfast.db":
        with closing(apsw.Connection(place)) as file:
            file.execute(taken.replace("@", "").format("?"), (run,))
            assert file.changes() == 1
    else:
        with psycopg.connect(place) as connection:
            statement = taken.replace("@", "holdfast.").format("%s")
            assert connection.execute(statement, (run,)).rowcount == 1


def gc(cli, *words):
    said = cli("gc", "--keep", "0s", "--by", "ann", *words)
    assert said.code == 0, said.err
    return said


def test_nothing_goes_without_apply(signed):
    said = gc(signed)
    assert f"{2 * PAYLOADS} payloads (" in said.out
    assert ") of 2 runs that ended before " in said.out
    assert "would go, and the parts of large ones that no other payload has" in said.out
    assert "nothing was changed. Hint: the same with --apply does it" in said.err
    assert signed("show", "r1", "--json").json["identity"].get("withheld") is None
    facts = gc(signed, "--json").json
    assert (facts["applied"], facts["runs"], facts["event"]) == (False, 2, "")
    kept = signed("gc", "--keep", "30d", "--apply", "--json").json
    assert (kept["runs"], kept["event"], kept["chunks"]) == (0, "", 0)


def test_what_is_gone_is_told_by_every_command_that_reads(signed):
    said = gc(signed, "--apply")
    assert f"{2 * PAYLOADS} payloads (" in said.out
    assert "of 2 runs that ended before" in said.out
    assert "parts of large ones" in said.out
    event = said.out.splitlines()[-1].removeprefix("recorded as event ")
    assert event.startswith("$collected/")
    told = signed("events", event.partition("@")[0]).out
    assert "of runs that ended before" in told
    assert '{"by":"ann"}' in told
    for run in ("r1", "r2"):
        gone = f"{PAYLOADS} payloads of this run collected, since it ended long ago (holdfast gc)"
        assert gone in signed("show", run).out
        assert signed("events", run).out.count("[collected]") == PAYLOADS
        state = signed("state", f"{run}@3")
        assert (state.code, "collected" in state.err) == (0, True)
        assert "[collected]" in signed("why", f"{run}@3").out
        replayed = signed("replay", run, "--json")
        assert (replayed.json["identical"], replayed.json["withheld"]["collected"]) == (None, 4)
        again = signed("run", "talk.py:talk", "--id", run, "--json")
        assert again.json["withheld"] == "collected"
    assert signed("message", "waits", "true").code == 0
    assert gc(signed, "--apply", "--json").json["runs"] == 0


def test_verification_is_green_and_says_which_event_told(signed, place):
    before = signed("verify", "--json").json
    gc(signed, "--apply")
    said = signed("verify", "--json").json
    assert said["ok"], said["findings"]
    assert said["payloads"]["ok"] == before["payloads"]["ok"] - 2 * PAYLOADS + 3
    assert (said["payloads"]["collected"], said["payloads"]["missing"]) == (2 * PAYLOADS, 0)
    index = before["events"] + 1
    assert said["collections"] == [{"index": index, "payloads": 2 * PAYLOADS}]
    words = f"{2 * PAYLOADS} payloads of runs that ended long ago: collected by event {index}"
    assert words in signed("verify").out
    talk(signed, "r3")
    assert signed("verify").code == 0
    if place == "holdfast.db":
        assert check_file(place) == []
    signed("erase", "--subject", "S", "--basis", "b")
    said = signed("verify", "--json").json
    assert said["ok"], said["findings"]
    assert (said["payloads"]["collected"], said["payloads"]["erased"]) == (PAYLOADS, PAYLOADS)


@pytest.mark.parametrize("run", ["waits", "later", "$collected/"])
def test_a_payload_taken_out_by_hand_is_red(signed, place, run):
    gc(signed, "--apply")
    talk(signed, "later")
    if run.endswith("/"):
        (run,) = [row["run"] for row in signed("ls", "--json").lines if run in row["run"]]
    assert signed("verify").code == 0
    spoil(place, run)
    said = signed("verify")
    assert said.code == 1
    assert f"event 1 of run {run!r} (index " in said.out
    assert "its payload is missing: it is not there" in said.out
    if place == "holdfast.db":
        assert signed("fsck").code == 1


def test_a_published_log_loses_what_the_store_has_lost(signed, desk):
    assert signed("publish", "pub").code == 0
    before = {path.name for path in (desk / "pub" / "payloads").iterdir()}
    gc(signed, "--apply")
    assert signed("publish", "pub").code == 0
    gone = before - {path.name for path in (desk / "pub" / "payloads").iterdir()}
    assert len(gone) == 2 * PAYLOADS
    said = signed("verify", "pub", "--json").json
    assert said["ok"], said["findings"]
    assert said["payloads"]["collected"] == 2 * PAYLOADS


@pytest.mark.parametrize("runs", [["--all"], ["r1", "waits"]])
def test_a_copy_is_as_green(signed, desk, monkeypatch, runs):
    gc(signed, "--apply")
    talk(signed, "r3")
    gc(signed, "--apply")
    assert signed("export", *runs, "runs.export").code == 0
    monkeypatch.setenv("HOLDFAST_STORE", "copy.db")
    monkeypatch.setenv("HOLDFAST_KEY", str(desk / "copy.key"))
    assert signed("import", "runs.export").code == 0
    assert signed("key", "new", "--origin", "example.com/copy").code == 0
    said = signed("verify", "--json").json
    assert said["ok"], said["findings"]
    assert said["payloads"]["collected"] == PAYLOADS * (3 if runs == ["--all"] else 1)
    assert check_file("copy.db") == []


def test_a_run_that_is_imported_behind_what_told_of_it_is_green(signed, desk, monkeypatch):
    talk(signed, "r3")
    gc(signed, "--apply")
    for run in ("r1", "r3"):  # what told of both comes with the first
        assert signed("export", run, f"{run}.export").code == 0
    monkeypatch.setenv("HOLDFAST_STORE", "copy.db")
    monkeypatch.setenv("HOLDFAST_KEY", str(desk / "copy.key"))
    assert signed("key", "new", "--origin", "example.com/copy").code == 0
    for run in ("r1", "r3"):
        assert signed("import", f"{run}.export").code == 0
    said = signed("verify", "--json").json
    assert said["ok"], said["findings"]
    assert said["payloads"]["collected"] == 2 * PAYLOADS
    assert check_file("copy.db") == []


def test_nobody_lets_go_of_what_is_still_to_end(signed, place):
    """An event that gives a time after its own is as good as one that gives its own."""

    async def tell():
        async with hf.App(place) as app:
            now = time.time_ns() // 1_000
            said = collection_run(now + 10**12, b"{}", now=now, entropy=SystemEntropy())
            assert await app.store.create(said)

    asyncio.run(tell())
    talk(signed, "later")
    assert signed("verify").code == 0
    spoil(place, "r1")
    assert signed("verify").code == 0
    spoil(place, "later")
    said = signed("verify")
    assert said.code == 1
    assert "event 1 of run 'later' (index " in said.out
    if place == "holdfast.db":
        assert [problem.run for problem in check_file(place)] == ["later"]


def test_bad_words_say_what_was_expected(signed):
    for keep in ("30", "d", "-1d", "1y"):
        said = signed("gc", f"--keep={keep}")
        assert said.code == 2
        assert "expected such as 30d, 12h or 8w" in said.err
