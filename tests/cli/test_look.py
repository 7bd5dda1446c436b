"""The commands that look: ls, show, events, tail, state.

*Goal*: each shows what the log holds, to people and as JSON, changes nothing, finds a run by the
beginning of its id, and cannot be made to steer a terminal by what a payload holds. *Method*: in
this process, on runs made by `holdfast run`; files are compared before and after.
"""

import asyncio
import json
import re
import shutil
import time

import pytest

from holdfast.cli.following import last_position
from holdfast.cli.text import ago, clean, excerpt, iso
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore

RUNS = [
    ("triage", "ticket-1", '{"ticket": "o-1"}'),
    ("triage", "ticket-2", '{"ticket": "bad"}'),
    ("approve", "approve-1", '"o-9"'),
    ("support", "chat", '"one"'),
    ("nap", "nap", "3600"),
]


FAILING = """
import holdfast as hf

@hf.step(retry=hf.Retry(attempts=3, base_s=80_000, cap_s=80_000))
async def look():
    raise ConnectionError("not today")

@hf.agent
async def patient():
    await look()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory for a store that the first test fills and the others copy."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def store(cli, desk, made):
    """A store with one run of each kind."""
    if not list(made.iterdir()):
        for agent, run, given in RUNS:
            cli("run", f"desk.py:{agent}", "--id", run, "--input", given)
        for file in desk.glob("holdfast.db*"):
            shutil.copy(file, made)
    for file in made.iterdir():
        shutil.copy(file, desk)
    return cli


def test_ls_lists_newest_first_and_says_what_is_waited_for(store):
    said = store("ls")
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[0] for row in rows] == [
        *("run", "nap", "chat", "approve-1"),
        *("ticket-2/price#1", "ticket-2", "ticket-1/price#1", "ticket-1"),
    ]
    assert "ask#1" in said.out
    assert "in doubt" in said.out
    assert "refund#1" in said.out
    facts = {row["run"]: row for row in store("ls", "--json").lines}
    assert facts["approve-1"]["waits_for"] == "ask#1"
    assert facts["nap"]["wake_at"] > facts["nap"]["created"]
    assert facts["ticket-1/price#1"]["parent"] == "ticket-1"
    assert facts["chat"]["status"] == "idle"


def test_ls_can_be_narrowed(store):
    def runs(*args):
        return [row["run"] for row in store("ls", "--json", *args).lines]

    assert runs("--status", "in-doubt") == ["ticket-2"]
    assert runs("--status", "idle", "--status", "waiting") == ["nap", "chat", "approve-1"]
    assert runs("--agent", "price") == ["ticket-2/price#1", "ticket-1/price#1"]
    assert runs("--limit", "2") == ["nap", "chat"]
    cut = store("ls", "--limit", "2")
    assert "the 2 newest are shown" in cut.err
    assert "ticket" not in cut.out
    assert "ticket-1" in store("ls", "--limit", "2", "--all").out
    assert store("ls", "--agent", "nobody").err == "no such runs\n"
    wrong = store("ls", "--status", "done")
    assert wrong.code == 2
    assert "there are pending, running" in wrong.err


def test_ls_json_goes_through_all_pages(cli, monkeypatch):
    for n in range(5):
        cli("run", "desk.py:price", "--id", f"r{n}", "--input", "1")
    monkeypatch.setattr("holdfast.cli.listing._PAGE", 2)
    assert [row["run"] for row in cli("ls", "--json").lines] == ["r4", "r3", "r2", "r1", "r0"]


def test_show_answers_the_five_questions(store):
    said = store("show", "ticket-2")
    for part in ("Completed: 4 actions", "Pending", "Constraints", "Identity", "Lineage"):
        assert f"\n{part}\n" in said.out
    for fact in ("price#1", "in doubt since", "reset by peer", "--did-not", "agent:triage"):
        assert fact in said.out
    answers = store("show", "ticket-2", "--json").json
    assert [a["key"] for a in answers["completed"]] == ["look#1", "look#2", "look#3", "price#1"]
    assert answers["completed"][3]["run"] == "ticket-2/price#1"
    (step,) = answers["pending"]["steps"]
    assert (step["key"], step["stage"], step["effect"]) == ("refund#1", "doubted", "once")
    assert step["arguments"] == {"order": "bad", "cents": 500}
    assert [c["what"] for c in answers["constraints"]] == ["refund#1", "refund#1"]
    assert answers["identity"]["input"] == {"ticket": "bad", "cents": 500}
    asked = [[a["what"] for a in d["asked"]] for d in answers["lineage"]]
    assert asked[-1] == ["step.started refund#1 (once)"]
    assert answers["lineage"][-1]["because"] == "child.finished price#1"


def test_show_tells_what_is_asked_and_unread(store):
    store("message", "approve-1", '"early"', "--topic", "note")
    answers = store("show", "approve-1", "--json").json["pending"]
    assert answers["questions"][0]["question"] == "Refund o-9?"
    (unread,) = answers["unread"]
    assert (unread["topic"], unread["from"], unread["payload"]) == ("note", "outside", '"early"')
    said = store("show", "approve-1").out
    assert "a person is asked: Refund o-9?" in said
    assert "unread message" in said


def test_show_tells_who_decided(store):
    store("resolve", "ticket-2", "refund#1", "--happened", '{"cents": 500}', "--by", "ann")
    store("run", "desk.py:triage", "--id", "ticket-2")
    lineage = store("show", "ticket-2", "--json").json["lineage"]
    assert [d["by"] for d in lineage if "by" in d] == ["ann"]
    assert "step.resolved refund#1 by ann" in store("show", "ticket-2").out
    completed = store("show", "ticket-2", "--json").json["completed"]
    assert completed[-1]["via"] == "person"


def test_show_tells_who_holds_the_run_and_until_when(store, desk):
    assert "worker" not in store("show", "nap", "--json").json["identity"]
    now = time.time_ns() // 1000

    async def hold() -> SqliteStore:
        held = await SqliteStore.open(desk / "holdfast.db")
        lease = {"now": now, "lease_us": 3_600_000_000}
        await held.register("ann", about='{"host": "attic", "pid": 7}', **lease)
        await held.claim("ann", agents=["agent:nap"], limit=1, run="nap", **lease)
        return held

    with asyncio.Runner() as runner:
        held = runner.run(hold())
        found = store("show", "nap", "--json").json["identity"]
        said = store("show", "nap").out
        runner.run(held.close())
    assert (found["worker"], found["where"]) == ("ann", "attic 7")
    assert found["lease_until"] > iso(now)
    assert "attic 7" in said
    assert "lease until" in said


def test_show_tells_how_often_a_step_has_failed_and_when_it_is_tried_again(cli, desk):
    (desk / "slow.py").write_text(FAILING)
    cli("run", "slow.py:patient", "--id", "r")
    failed = cli("show", "r", "--json").json["constraints"][1]
    assert failed["what"] == "look#1"
    assert re.fullmatch(r"1 attempt failed; one more is due 20\S+", failed["why"])


def test_show_hides_what_is_too_much_for_a_screen(store, monkeypatch):
    monkeypatch.setattr("holdfast.cli.show.SHOWN_MAX", 2)
    said = store("show", "ticket-1").out
    assert "… 3 earlier ones" in said
    assert "look#1 " not in said.partition("Pending")[0]


def test_a_run_is_found_by_the_beginning_of_its_id(store):
    assert store("show", "appr", "--json").json["run"] == "approve-1"
    assert store("show", "ticket-1/", "--json").json["run"] == "ticket-1/price#1"
    several = store("show", "ticket")
    assert several.code == 2
    assert several.err == "holdfast: 2 runs begin with 'ticket': ticket-2, ticket-1\n"
    none = store("show", "nobody")
    assert none.code == 2
    assert "no run's id begins with 'nobody'" in none.err
    assert store("show", "").code == 2


def test_children_do_not_make_a_beginning_ambiguous(cli):
    cli("run", "desk.py:triage", "--id", "ticket-1", "--input", '{"ticket": "o-1"}')
    assert cli("show", "tick", "--json").json["run"] == "ticket-1"


def test_events_are_lines(store):
    lines = store("events", "ticket-1").out.splitlines()
    facts = store("events", "ticket-1", "--json").lines
    assert len(lines) == len(facts)
    assert [f["seq"] for f in facts] == list(range(1, len(facts) + 1))
    assert lines[0].split()[2:4] == ["1", "run.created"]
    assert '{"order":"o-1","cents":500}' in next(x for x in lines if "refund#1 once" in x)
    assert facts[1]["cause"] == [1]
    assert facts[-1]["payload"] == {"seen": 30, "worth": 71, "cents": 500}
    child = next(f for f in facts if f["type"] == "child.finished")
    assert child["cause"] == [["ticket-1/price#1", 5]]


def test_events_can_be_narrowed(store):
    def types(*args):
        return [f["type"] for f in store("events", "ticket-1", "--json", *args).lines]

    assert set(types("--type", "step")) == {"step.started", "step.finished"}
    assert types("--type", "run.succeeded", "--type", "child.started") == [
        "child.started",
        "run.succeeded",
    ]
    everything = store("events", "ticket-1", "--json").lines
    last = everything[-1]["seq"]
    assert [
        f["seq"] for f in store("events", "ticket-1", "--json", "--after", str(last - 1)).lines
    ] == [last]
    assert "payload" not in store("events", "ticket-1", "--json", "--no-payloads").lines[0]
    assert "o-1" not in store("events", "ticket-1", "--no-payloads").out
    wrong = store("events", "ticket-1", "--type", "steps")
    assert wrong.code == 2
    assert "there are run.created" in wrong.err


def test_tail_of_a_run_that_has_ended_ends(store):
    events = store("events", "ticket-1", "--json").lines
    assert store("tail", "ticket-1", "--json", "--after", "0").lines == events
    assert store("tail", "ticket-1", "--json").lines == events[-10:]
    assert store("tail", "ticket-1", "--after", "11").out.count("\n") == len(events) - 11


async def no_change(_timeout_s):
    raise KeyboardInterrupt


def test_tail_of_the_log_begins_with_its_last_events(store, monkeypatch):
    monkeypatch.setattr(
        "holdfast.stores.sqlite.SqliteStore.changed", lambda _, s, **_facts: no_change(s)
    )
    said = store("tail", "--json")
    assert said.code == 130
    assert [f["run"] for f in said.lines][-3:] == ["nap"] * 3
    assert len(said.lines) == 10
    positions = [f["position"] for f in said.lines]
    assert positions == sorted(positions)
    after = str(positions[-3])
    assert [f["position"] for f in store("tail", "--json", "--after", after).lines] == positions[
        -2:
    ]
    assert "nap" in store("tail").out


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 1000])
def test_the_last_position_is_found(n):
    class Log(MemoryStore):
        async def read_log(self, after, *, limit):
            return [(p, None) for p in range(after + 1, min(n, after + limit) + 1)]

    assert asyncio.run(last_position(Log())) == n


def test_state_at_any_event(store):
    last = store("state", "ticket-1", "--json").json
    assert (last["status"], last["seq"]) == ("succeeded", 13)
    early = store("state", "ticket-1@7", "--json").json
    assert (early["status"], early["seq"]) == ("running", 7)
    assert list(early["open_steps"]) == ["look#3"]
    said = store("state", "ticket-1@7").out
    assert "look#3: read, started, attempt 1, #5" in said
    for wrong in ("ticket-1@14", "ticket-1@0"):
        refused = store("state", wrong)
        assert refused.code == 2
        assert "its events are 1 to 13" in refused.err


def test_state_shows_the_agents_own(store):
    store("message", "chat", '"two"')
    store("run", "desk.py:support", "--id", "chat")
    assert store("state", "chat", "--json").json["state"] == {"said": ["one", "two"]}
    first_turn_over = next(
        f["seq"] for f in store("events", "chat", "--json").lines if f["type"] == "turn.finished"
    )
    before = store("state", f"chat@{first_turn_over}", "--json").json
    assert before["state"] == {"said": ["one"]}
    assert "state" not in store("state", f"chat@{first_turn_over - 1}", "--json").json


def test_an_id_that_looks_like_an_event_is_an_id(cli):
    cli("run", "desk.py:price", "--id", "p@1", "--input", "1")
    assert cli("state", "p@1", "--json").json["seq"] == 5
    assert cli("state", "p@1@2", "--json").json["seq"] == 2


def test_looking_changes_no_byte(store, desk):
    def files():
        return {
            p.name: p.read_bytes() for p in desk.iterdir() if p.is_file() and "-shm" not in p.name
        }

    store("ls")
    before = files()
    for args in (
        *(["ls"], ["show", "chat"], ["events", "chat"], ["tail", "ticket-1"], ["state", "chat"]),
        *(["why", "chat"], ["doubts"], ["doctor"], ["fsck"]),
    ):
        assert store(*args).code == 0, args
    assert files() == before


def test_looking_makes_no_store(cli, desk):
    for args in (
        *(["ls"], ["show", "x"], ["events", "x"], ["tail"], ["tail", "x"], ["state", "x"]),
        *(["why", "x"], ["replay", "x"], ["doubts"], ["message", "x", "1"], ["cancel", "x"]),
        *(["resolve", "x", "y#1", "--did-not"], ["accept", "x"], ["fsck"]),
    ):
        said = cli(*args)
        assert said.code == 1, args
        assert "there is no store 'holdfast.db'" in said.err
        assert said.err.count("\n") == 1
        assert not said.out
    assert sorted(p.name for p in desk.iterdir() if p.is_file()) == ["desk.py"]


def test_payloads_cannot_steer_the_terminal(cli):
    bad = "\x1b[2J\u202e\x9b31m\x07"
    cli("run", "desk.py:fail", "--id", "f", "--input", json.dumps(bad))
    for args in (
        ["events", "f"],
        ["show", "f"],
        ["why", "f"],
        ["run", "desk.py:fail", "--id", "f"],
    ):
        said = cli(*args)
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err), args


def test_text_is_one_line_and_short():
    assert clean("a\n\x1b\u202eb") == "a \\x1b\\u202eb"
    assert excerpt(None) == ""
    assert excerpt(b'"' + b"x" * 100 + b'"', 10) == '"xxxxxxxx…'
    assert excerpt('"héé"'.encode() * 1, 80) == '"héé"'
    assert [ago(s * 1_000_000) for s in (0, 59, 61, 3600, 90_000)] == [
        *("0.0 s", "59 s", "1 min", "1 h", "1 d")
    ]
