"""`holdfast demo` does the main job, and its accounting cannot flatter it.

*Goal*: a desk on holdfast that is killed, paused and left in doubt does everything once, the plain
loop beside it does not, and what the demo leaves can be looked at with the commands that it prints;
whatever is done twice, left out or done unasked shows in the numbers and in the exit code.
*Method*: a small demo is run as a process of its own and its JSON, its files and its printed
commands are checked; the plan of strikes and the accounting are pure and are called with made-up
tickets, ledgers and events.
"""

import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from holdfast.cli.demo import accounts, ambushes, command, screen, supervisor, tickets
from holdfast.cli.demo.accounts import Account, Side
from holdfast.cli.demo.ledger import Deed
from holdfast.cli.lint import lint_source
from holdfast.core import events as ev

TICKETS = 4
EVERY = tickets.load_tickets(TICKETS)
COUNTS = {
    *("actions_wanted", "actions_done", "twice", "missing", "kills", "kills_in_doubt_window"),
    *("zombies", "doubts_reconciled", "doubts_resolved", "model_calls_paid"),
    *("model_calls_needed", "steps_replayed", "seconds"),
}


# The demo as a whole.


def environment():
    """This process's environment, in which no real model is named."""
    names = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "HOLDFAST_STORE")
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a small demo printed and left."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    options = ("--tickets", str(TICKETS), "--seed", "1", "--json", "--keep", str(folder))
    process = subprocess.run(
        [sys.executable, "-m", "holdfast", "demo", *options],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stdout
    return SimpleNamespace(folder=folder, json=json.loads(process.stdout))


def test_the_desk_does_everything_once_although_it_is_killed(shown):
    found = shown.json
    assert found.keys() >= COUNTS
    assert found["actions_wanted"] == found["actions_done"] == 14
    assert found["twice"] == found["missing"] == found["stray"] == 0
    assert found["kills"] >= 2 * TICKETS
    assert found["kills_in_doubt_window"] >= TICKETS
    assert found["zombies"] == 1
    assert found["doubts_reconciled"] >= 1
    assert found["doubts_resolved"] >= 1
    assert found["model_calls_needed"] <= found["model_calls_paid"] < 2 * 16
    assert found["steps_replayed"] > 0
    assert [line["ticket"] for line in found["tickets"]] == [ticket.id for ticket in EVERY]
    assert all(line["kills"] >= 1 for line in found["tickets"])


def test_the_plain_loop_beside_it_is_killed_as_often_and_does_things_twice(shown):
    naive = shown.json["naive"]
    assert naive.keys() >= COUNTS
    assert naive["actions_wanted"] == 14
    assert naive["twice"] > TICKETS
    assert 0 < naive["kills"] <= shown.json["kills"]
    assert naive["model_calls_paid"] > naive["model_calls_needed"] == 16
    assert naive["steps_replayed"] == naive["zombies"] == 0


def test_the_numbers_are_those_of_the_ledgers_that_it_leaves(shown):
    left = read_json(shown.folder / "report.json")
    assert left | {"commands": shown.json["commands"]} == shown.json
    done = Counter(deed_of(row) for row in read_json(shown.folder / "ledger.json"))
    assert len(done) == done.total() == shown.json["actions_done"] - TICKETS  # and a note for each
    naive = shown.folder / "naive"
    notes = [
        json.loads(line)
        for path in naive.glob("lane*/done.notes")
        for line in path.read_text().splitlines()
    ]
    done = Counter(deed_of(row) for row in [*read_json(naive / "ledger.json"), *notes])
    assert len(done) == shown.json["naive"]["actions_done"]
    assert done.total() - len(done) == shown.json["naive"]["twice"]


def read_json(path):
    return json.loads(path.read_text())


def deed_of(row):
    return row["kind"], row["order"]


def test_the_three_commands_work_when_pasted(shown, tmp_path):
    show, why, replay = shown.json["commands"]

    def paste(line):
        process = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.stderr == ""
        return process.returncode, process.stdout

    run = show.partition(" show ")[2].split()[0]
    assert run in {ticket.id for ticket in EVERY}
    (shown_code, text), (why_code, chain), (replay_code, same) = map(paste, (show, why, replay))
    assert (shown_code, why_code, replay_code) == (0, 0, 0)
    assert "Completed" in text
    assert "started from outside" in chain
    assert same.startswith(f"identical: run '{run}'")
    code = shown.folder / "desk.py"
    code.write_text(code.read_text().replace('"role": "system"', '"role": "developer"'))
    replay_code, difference = paste(replay)
    assert replay_code == 3
    assert "developer" in difference


# What it says when it cannot.


def test_without_its_own_dependencies_it_says_what_to_install(cli, monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("httpx2", "no_such_module"))
    said = cli("demo")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "holdfast: the demo needs no_such_module, which cannot be imported."
        " Hint: pip install 'holdfast[demo]'\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep", "."), "--keep .: it is not empty; expected a new or empty directory"),
        (("--keep", "desk.py"), "--keep desk.py: File exists"),
        (("--store", "memory:"), "the demo's workers are processes and share a file"),
        (("--store", "postgresql://here/x"), "the demo's workers are processes and share a file"),
        (("--store", "desk.py"), "'desk.py' exists; the demo makes a new one"),
        (("--tickets", "0"), "--tickets"),
    ],
)
def test_a_place_that_it_cannot_use_is_refused(cli, options, said):
    found = cli("demo", *options)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


@pytest.mark.parametrize(("wrong", "code"), [({}, 0), ({"twice": 1}, 1), ({"missing": 1}, 1)])
def test_the_exit_code_says_whether_the_desk_was_right(cli, monkeypatch, tmp_path, wrong, code):
    async def run(_demo):
        return report(tmp_path, **wrong)

    monkeypatch.setattr(supervisor.Demo, "run", run)
    found = cli("demo", "--json", "--keep", "kept")
    assert found.code == code
    assert found.json["twice"] == wrong.get("twice", 0)


# The strikes.


@pytest.mark.parametrize("count", [1, 4, 24, 30])
def test_every_ticket_is_struck_and_no_deed_twice(count):
    every = tickets.load_tickets(count)
    for seed in range(50):
        planned = ambushes.plan(every, seed)
        assert planned == ambushes.plan(every, seed)
        assert {a.ticket for a in planned if a.then != "pause"} == {t.id for t in every}
        assert max(Counter((a.kind, a.order) for a in planned).values()) == 1
        (pause,) = [a for a in planned if a.then == "pause"]
        assert pause.kind == "refund"
        assert {a.kind for a in planned if a.ticket == pause.ticket} >= {"refund", "email"}
        wanted = {(action.kind, action.order) for t in every for action in t.wanted}
        assert {(a.kind, a.order) for a in planned} <= wanted
        in_window = sum(a.then == "kill" for a in planned)
        assert in_window >= min(ambushes.WINDOW_KILLS_MIN, len(wanted) - 1 - count)
        assert all(a.then == "kill" for a in planned if a.kind == "email")


def test_another_seed_strikes_elsewhere():
    plans = [ambushes.plan(tickets.load_tickets(24), seed) for seed in range(5)]
    assert all(one != other for one, other in itertools.combinations(plans, 2))


# The accounting.


def happened(epoch, *bodies):
    return [SimpleNamespace(epoch=epoch, body=body) for body in bodies]


def taken(*events):
    account = Account()
    for event in itertools.chain(*events):
        account.take(event)
    return account


MODEL_STEP = "POST api.openai.com/v1/chat/completions#1"


def test_a_takeover_hands_back_every_outcome_so_far():
    first = happened(
        1,
        ev.TurnStarted(1, ""),
        ev.StepStarted(MODEL_STEP, "read", 1),
        ev.StepFinished(MODEL_STEP, 1),
        ev.StepStarted("refund#1", "once", 1),
    )
    second = happened(3, ev.StepDoubted("refund#1", 1))
    third = happened(
        4,
        ev.StepResolved("refund#1", 1, "happened", "reconcile"),
        ev.StepFinished("refund#1", 1, "reconcile"),
    )
    fourth = happened(5, ev.RunSucceeded())
    account = taken(first, second, third, fourth)
    assert (account.replayed, account.takeovers) == (1 + 1 + 2, 3)
    assert (account.outcomes, account.model_calls) == (2, 1)
    assert account.ended


def test_a_doubt_counts_when_it_is_settled_and_by_whom():
    doubt = ev.StepDoubted("send_email#1", 1)
    parked = ev.RunParked("in_doubt")
    unknown = ev.StepResolved("send_email#1", 1, "unknown", "reconcile")
    account = taken(happened(1, doubt, unknown, parked))
    assert (account.reconciled, account.resolved, account.status) == (0, 0, "in_doubt")
    again = ev.StepResolved("send_email#1", 1, "not_done", "operator")
    account = taken(happened(1, doubt, unknown, parked, again, doubt))
    assert (account.reconciled, account.resolved) == (0, 1)
    found = ev.StepResolved("send_email#1", 1, "happened", "reconcile")
    assert taken(happened(1, doubt, found)).reconciled == 1


def done_by(every):
    """What a perfect desk has done: deeds and notes."""
    deeds = [Deed(a.kind, a.order, dict(a.details)) for t in every for a in t.wanted]
    notes = [Deed("note", t.order, {"ticket": t.id, "text": "done"}) for t in every]
    return deeds, notes


def lines(deeds, notes, side=None, paid=None):
    return accounts.lines_of(EVERY, deeds, notes, side=side or Side(), paid=paid, accounts={})


def test_a_perfect_desk_is_right_and_nothing_else_is():
    deeds, notes = done_by(EVERY)
    assert supervisor.Outcome(lines(deeds, notes), Side()).right
    stray = Deed("refund", EVERY[0].order, {"cents": 1})
    nobodys = Deed("refund", "A-0000", {"cents": 1})
    for wrong_deeds, wrong_notes in (
        (deeds[1:], notes),
        ([*deeds, deeds[0]], notes),
        ([*deeds, stray], notes),
        ([*deeds, nobodys], notes),
        (deeds, notes[1:]),
        (deeds, [*notes, notes[0]]),
        ([], []),
    ):
        assert not supervisor.Outcome(lines(wrong_deeds, wrong_notes), Side()).right


def test_the_totals_are_the_sums_of_the_lines():
    deeds, notes = done_by(EVERY)
    side = Side(kills=5, kills_in_window=3, zombies=1, seconds=2.04, killed={EVERY[0].id: 4})
    found = accounts.side_json(lines([*deeds, deeds[0]], notes[1:], side, {EVERY[1].id: 7}), side)
    assert (found["actions_wanted"], found["actions_done"]) == (14, 13)
    assert (found["twice"], found["missing"]) == (1, 1)
    assert (found["kills"], found["kills_in_doubt_window"], found["zombies"]) == (5, 3, 1)
    assert (found["model_calls_paid"], found["seconds"]) == (7, 2.0)
    first, second, *_ = found["tickets"]
    assert (first["twice"], first["missing"], first["kills"]) == (1, 1, 4)
    assert (second["twice"], second["missing"], second["kills"]) == (0, 0, 0)


def test_what_a_model_does_not_tell_is_not_made_up():
    assert accounts.side_json(lines(*done_by(EVERY)), Side())["model_calls_paid"] is None


# What people see.


def report(folder: Path, *, twice=0, missing=0):
    deeds, notes = done_by(EVERY)
    deeds = [*deeds[missing:], *deeds[-1:] * twice]
    desk = supervisor.Outcome(lines(deeds, notes, paid={}), Side(kills=4, zombies=1))
    naive = supervisor.Outcome(lines([*deeds, *deeds], notes), Side(kills=4))
    return supervisor.Report(
        seed=1,
        folder=folder,
        store=folder / "holdfast.db",
        model="m",
        desk=desk,
        naive=naive,
        seconds=1.0,
        show_run=EVERY[0].id,
        why_seq=3,
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_closing_words_fit_a_terminal_and_leave_the_commands_whole(tmp_path, width):
    console = Console(width=width, record=True, file=io.StringIO(), markup=False)
    commands = [f"holdfast show {'x' * 200}"]
    for part in screen.closing(report(tmp_path, twice=1), commands, width):
        console.print(part, soft_wrap=isinstance(part, str))
    text = console.export_text()
    assert f"  {commands[0]}\n" in text
    assert all(len(line) <= width for line in text.splitlines() if "xxx" not in line)
    for ticket in EVERY:
        assert sum(line.startswith(ticket.id) for line in text.splitlines()) == 1
    words = " ".join(text.split())
    assert "1 done twice" in words
    assert "1 zombie woke up and could change nothing" in words


def test_the_desk_that_is_shown_off_passes_our_own_lint():
    path = Path(screen.__file__).with_name("desk.py")
    assert lint_source(path.read_text(), str(path)) == []
