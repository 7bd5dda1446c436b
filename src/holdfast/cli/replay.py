"""`holdfast replay RUN`: the log is fed to the code, with no effects, and the two are compared.

``replay`` is pure: each turn gets a machine of its own, the recorded events go in, and whatever the
code asks for, its result included, must be what the log holds. It is the walk that recovery takes,
so what replays here can be carried on.
"""

import asyncio
import difflib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, TypeVar

import typer
from rich.text import Text

from holdfast.cli.loading import files_declaring, load
from holdfast.cli.shell import DIVERGED, DONE, RunArgument, Shell, command
from holdfast.cli.text import clean, count, withheld_facts, withheld_notes
from holdfast.core import events as ev
from holdfast.core.codec import json_bytes
from holdfast.core.events import Event
from holdfast.core.machine import Machine
from holdfast.core.redaction import Cleaner
from holdfast.core.replay import feed_all, plan
from holdfast.core.specs import AgentSpec, agent_spec
from holdfast.errors import Diverged, UsageError

__all__ = ["Difference", "Replayed", "difference_lines", "in_callback", "replay", "replay_command"]

T = TypeVar("T")

_MANY = 100
"""Steps from which on the time of each means something: the first ones pay for imports."""


@dataclass(frozen=True)
class Difference:
    """Where code and log part: what the log holds and what the code asks for instead."""

    turn: int
    seq: int
    recorded: str
    requested: str
    diff: list[str]
    """The payloads of both as a unified diff, empty when they are the same or there is but one."""


@dataclass(frozen=True)
class Replayed:
    """What came of a replay."""

    turns: int
    events: int
    steps: int
    pending: int
    """Requests that the log ends before: whoever carries the run on begins with them."""
    difference: Difference | None = None


def replay(agent: AgentSpec, events: Sequence[Event], cleaner: Cleaner | None = None) -> Replayed:
    """Feed all turns of a run to an agent's code; stops at the first difference.

    Args:
        agent: The agent whose code it is.
        events: All events of the run, in order, at least one.
        cleaner: Takes secrets out of what the code asks for, as it is shown.
    """
    cleaner = cleaner or Cleaner()
    state: bytes | None = None
    turns, steps, pending = 0, 0, 0
    for turn_events in _turns(events):
        turns += 1
        bound = _bound(turn_events)
        recorded = plan(bound)
        machine = Machine(
            agent,
            run=events[0].run,
            seed=_seed(events[0]),
            input=events[0].payload or b"null",
            state=state,
            marks=recorded.marks,
            cleaner=cleaner,
        )
        try:
            feed_all(machine, recorded.feed)
            pending = len(machine.issued)
        except Diverged as error:
            difference = _difference(turns, error, machine, turn_events, cleaner)
            return Replayed(turns, len(events), steps, 0, difference)
        finally:
            machine.close()
        steps += sum(isinstance(e.body, ev.StepStarted) and e.body.attempt == 1 for e in bound)
        for event in bound:
            if isinstance(event.body, ev.TurnFinished):
                state = json_bytes(json.loads(event.payload or b"null")["state"])
    return Replayed(turns, len(events), steps, pending)


def _seed(created: Event) -> int:
    assert isinstance(created.body, ev.RunCreated)
    return created.body.seed


def _turns(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Yield the events of each turn, ``turn.started`` first; what comes before is left out."""
    turn: list[Event] = []
    for event in events:
        if isinstance(event.body, ev.TurnStarted):
            if turn:
                yield turn
            turn = [event]
        elif turn:
            turn.append(event)
    if turn:
        yield turn


def _bound(turn_events: Sequence[Event]) -> list[Event]:
    """Return a turn's events up to where its code was last asked.

    A run that is cancelled while it is diverged, or between turns, ends without its code.
    """
    over = diverged = False
    for i, event in enumerate(turn_events):
        body = event.body
        if isinstance(body, ev.CancelRequested) and (over or diverged):
            return list(turn_events[:i])
        over = over or isinstance(body, ev.TurnFinished | ev.TurnFailed)
        if isinstance(body, ev.RunDiverged):
            diverged = True
        elif body.role != "mark" or isinstance(body, ev.RunAccepted):
            diverged = False
    return list(turn_events)


def _difference(
    turn: int,
    error: Diverged,
    machine: Machine,
    turn_events: Sequence[Event],
    cleaner: Cleaner,
) -> Difference:
    recorded = next((e.payload for e in turn_events if e.seq == error.seq), None)
    requested = machine.issued[0].payload if machine.issued else None
    requested = requested and cleaner.clean(requested)
    diff: list[str] = []
    if recorded is not None and requested is not None:
        diff = list(
            difflib.unified_diff(
                _pretty(recorded), _pretty(requested), "recorded", "requested", lineterm="", n=2
            )
        )
    return Difference(turn, error.seq, error.recorded, error.requested, diff)


def _pretty(payload: bytes) -> list[str]:
    return json.dumps(json.loads(payload), ensure_ascii=False, indent=2, sort_keys=True).split("\n")


async def in_callback(function: Callable[[], T]) -> T:
    """Call a function that runs turns in a callback of this loop, where turns have to run."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            done.set_result(function())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            done.set_exception(error)

    loop.call_soon(call)
    return await done


@command
async def replay_command(
    shell: Shell,
    *,
    run: RunArgument,
    code: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The code; by default the file in this directory that declares the agent.",
        ),
    ] = "",
) -> int:
    """Feed a run's log to the code, with no effects.

    Exits with 0 when code and log agree in every request and result, with 3 and the difference
    when they do not.
    """
    async with shell.app() as app:
        found = await app.client.find(run)
        events = await app.store.read(found)
    if gone := withheld_facts(events):
        for line in withheld_notes(events):
            shell.note(f"run {found!r} cannot be fed to the code: {line}")
        if shell.as_json:
            shell.emit({"run": found, "identical": None, "withheld": gone})
        return DONE
    agent = _agent_for(shell, events[0].agent.removeprefix("agent:"), code)
    begun = time.perf_counter()
    result = await in_callback(lambda: replay(agent, events, app.secrets.cleaner))
    seconds = time.perf_counter() - begun
    if shell.as_json:
        facts = {"run": found, "identical": result.difference is None} | asdict(result)
        shell.emit(facts | {"seconds": round(seconds, 6)})
    elif result.difference is None:
        amount = ", ".join(
            count(n, noun)
            for n, noun in (
                (result.turns, "turn"),
                (result.events, "event"),
                (result.steps, "step"),
            )
        )
        each = f", {seconds / result.steps * 1e6:.0f} µs a step" if result.steps >= _MANY else ""
        shell.show(f"identical: run {found!r}, {amount} in {seconds * 1e3:.1f} ms{each}")
        if result.pending:
            shell.show(f"The log ends before {result.pending} of the code's requests: pending work")
    else:
        shell.show(*difference_lines(found, result.difference))
    return DONE if result.difference is None else DIVERGED


def difference_lines(run: str, difference: Difference) -> list[Text]:
    """Return a difference for people."""
    lines = [
        Text(f"diverged: run {run!r}, turn {difference.turn}, event {difference.seq}", "bold"),
        Text(f"  recorded   {clean(difference.recorded)}"),
        Text(f"  requested  {clean(difference.requested)}"),
    ]
    styles = {"-": "red", "+": "green", "@": "cyan"}
    lines += [Text(f"  {clean(line)}", styles.get(line[0], "")) for line in difference.diff]
    return lines


def _agent_for(shell: Shell, name: str, code: str) -> AgentSpec:
    """Return the spec of the agent called so, from the file given or the one in this directory.

    Raises:
        UsageError: there is no such file, or several.
    """
    if not code:
        files = files_declaring(name)
        if len(files) != 1:
            many = f"these declare it: {', '.join(map(str, files))}" if files else "none is here"
            raise UsageError(f"replay needs the code of agent {name!r}; {many}. Hint: --code FILE")
        code = str(files[0])
        shell.note(f"code: {code}")
    loaded = load(code)
    return agent_spec(loaded.agent(name))
