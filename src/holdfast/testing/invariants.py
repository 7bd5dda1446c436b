"""What must be true of a log and of the world once a simulation has come to its end.

The numbers are those of the design's invariants: 1 one authority, 2 all or nothing, 3 fold, 4
effects, 5 doubt, 6 progress, 7 messages, 8 fairness, 11 lineage. Whatever can be checked at each
write (epochs, the row being the fold) is checked there, by the simulation's watch; here stands what
needs the whole log.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.core import events as ev
from holdfast.core.codec import json_bytes
from holdfast.core.events import Event
from holdfast.core.machine import Machine
from holdfast.core.replay import plan
from holdfast.core.specs import AgentSpec
from holdfast.core.state import ENDED, RunRow, fold
from holdfast.ports import InboxMessage, Message, Store
from holdfast.testing.host import at_once
from holdfast.testing.world import World

__all__ = ["Remains", "check", "remains", "turns"]


_FROM_OUTSIDE = (
    ev.RunCreated,
    ev.TurnStarted,
    ev.MessageReceived,
    ev.CancelRequested,
    ev.RunAccepted,
)
_TURN_OVER = (ev.TurnFinished, ev.TurnFailed)


@dataclass
class Remains:
    """All that is left after a simulation."""

    rows: dict[str, RunRow]
    log: list[tuple[int, Event]]
    unread: dict[str, list[InboxMessage]]
    streams: dict[str, list[Event]] = field(default_factory=dict)

    def leaves(self) -> bytes:
        """Return the whole log's bytes."""
        return b"".join(event.leaf for _, event in self.log)

    def count(self, kind: str) -> int:
        """Return how many events of a type there are."""
        return sum(event.body.type == kind for _, event in self.log)

    def statuses(self) -> dict[str, str]:
        """Return the status of each run."""
        return {run: row.status for run, row in self.rows.items()}


def remains(store: Store) -> Remains:
    """Read all there is in a store whose calls are done at once."""
    rows = {row.run: row for row in at_once(store.rows(limit=100_000))}
    unread = {run: at_once(store.unread(run)) for run in rows}
    left = Remains(rows, at_once(store.read_log(0, limit=1_000_000)), unread)
    for run in rows:
        left.streams[run] = at_once(store.read(run))
    return left


def check(
    left: Remains,
    world: World,
    agents: Sequence[AgentSpec],
    messages: Sequence[Message],
    *,
    deterministic: bool = True,
) -> None:
    """Check every invariant that a finished simulation can be judged by.

    Args:
        left: What is left.
        world: The world.
        agents: The agents as they are now.
        messages: All that were delivered, in that order.
        deterministic: Whether the agents ask for the same each time.

    Raises:
        AssertionError: names the run and event.
    """
    by_uri = {spec.uri: spec for spec in agents}
    _check_order(left)
    _check_lineage(left)
    _check_messages(left, messages)
    for run, events in left.streams.items():
        _check_stream(left.rows[run], events)
        for turn in turns(events):
            _check_steps(run, plan(turn).feed)
        if deterministic and left.rows[run].status != "diverged":
            _check_replay(events, by_uri[left.rows[run].agent])
    _check_deeds(left, world)


def turns(events: Sequence[Event]) -> list[list[Event]]:
    """Split a run's events into its turns; what stands before the first is left out."""
    found: list[list[Event]] = []
    for event in events:
        if isinstance(event.body, ev.TurnStarted):
            found.append([])
        if found:
            found[-1].append(event)
    return found


def _check_order(left: Remains) -> None:
    """1: positions rise, and each run's events stand in the log in their order."""
    positions = [position for position, _ in left.log]
    assert positions == sorted(set(positions)), "positions do not rise"
    by_run: dict[str, list[Event]] = defaultdict(list)
    for _, event in left.log:
        by_run[event.run].append(event)
    assert dict(by_run) == left.streams, "the log and the streams differ"


def _check_stream(row: RunRow, events: Sequence[Event]) -> None:
    """1 and 3: no gaps, a chain, epochs that never fall, leaves that are true, the fold."""
    state = fold(events)  # checks seq, prev and epoch
    assert state.row() == row, f"{row} is not the fold {state.row()}"
    for event in events:
        again = ev.open_leaf(event.leaf, payload=event.payload, salt=event.salt)
        assert again == event, f"{again} is not {event}"
        if event.payload is not None:
            assert event.salt is not None
            assert ev.commitment(event.salt, event.payload) == event.committed, f"{event}"
    ends = [event.seq for event in events if event.body.type.removeprefix("run.") in ENDED]
    assert ends in ([], [row.seq]), f"run {row.run} ends at {ends} of {row.seq} events"
    assert row.status in ENDED or row.status in ("idle", "waiting", "in_doubt", "diverged"), (
        f"run {row.run} is left behind, {row.status}"
    )


def _check_lineage(left: Remains) -> None:
    """11: every event has a cause before it in the log, but for what came from outside."""
    places: dict[tuple[str, int], int] = {}
    for position, event in left.log:
        what = f"run {event.run} event {event.seq} ({event.body})"
        for cause in event.cause:
            origin = cause if isinstance(cause, tuple) else (event.run, cause)
            assert places.get(origin, position) < position, f"{what} has the cause {cause}"
        if not event.cause:
            assert isinstance(event.body, _FROM_OUTSIDE), f"{what} has no cause"
        places[event.run, event.seq] = position


def _check_messages(left: Remains, messages: Sequence[Message]) -> None:
    """7: each message is taken once or still unread, and in order per sender and topic."""
    unread = {(run, m.message.id) for run, inbox in left.unread.items() for m in inbox}
    order = {(m.to, m.id): n for n, m in enumerate(messages)}
    senders = {(m.to, m.id): m.sender for m in messages}
    sent = {(e.body.to, e.body.id) for _, e in left.log if isinstance(e.body, ev.MessageSent)}
    assert sent <= order.keys(), f"never delivered: {sent - order.keys()}"
    for run, events in left.streams.items():
        taken: Counter[str] = Counter()
        latest: dict[tuple[str, str], int] = {}
        children: Counter[str] = Counter()
        for event in events:
            match event.body:
                case ev.TurnStarted(message=name) if name:
                    topic = ""
                case ev.MessageReceived(id=name, topic=topic):
                    pass
                case ev.ChildFinished(child=child):
                    children[child] += 1
                    continue
                case _:
                    continue
            taken[name] += 1
            place = (senders[run, name], topic)
            assert order[run, name] > latest.get(place, -1), f"run {run} took {name} out of order"
            latest[place] = order[run, name]
        twice = [name for name, n in (taken + children).items() if n > 1]
        assert not twice, f"run {run} took {twice} more than once"
        for message in messages:
            if message.to == run and not message.topic.startswith("$"):
                both = taken[message.id] + ((run, message.id) in unread)
                assert both == 1, f"{message} was taken {taken[message.id]} times and is lost"


def _check_steps(run: str, turn: Sequence[Event]) -> None:
    """4, 5 and 8: attempts, doubts and budgets of each step of one turn."""
    by_key: dict[str, list[Event]] = defaultdict(list)
    for event in turn:
        key = getattr(event.body, "key", "")
        if event.body.type.startswith("step."):
            by_key[key].append(event)
    for key, events in by_key.items():
        what = f"run {run} step {key}: {[event.body for event in events]}"
        _check_step(what, events)


def _check_step(what: str, events: Sequence[Event]) -> None:
    first = events[0].body
    assert isinstance(first, ev.StepStarted), what
    assert first.attempt == 1, what
    attempt, open_, evidence, doubted = 0, False, False, False
    for event in events:
        match event.body:
            case ev.StepStarted():
                attempt += 1
                assert event.body.attempt == attempt, f"attempts are not counted, {what}"
                assert not doubted, f"an attempt in spite of a doubt, {what}"
                assert first.effect != "once" or attempt == 1 or evidence, f"blindly again, {what}"
                open_, evidence = True, False
            case ev.StepFinished() | ev.StepFailed(final=True) | ev.StepAbandoned():
                assert open_, f"an outcome of nothing, {what}"
                assert not doubted or evidence, f"an outcome in spite of a doubt, {what}"
                assert event is events[-1], f"something behind the outcome, {what}"
                doubted = open_ = False
            case ev.StepFailed():
                assert open_, what
                evidence = True
            case ev.StepDoubted():
                assert open_, what
                doubted = True
            case ev.StepResolved(verdict=verdict, by=by):
                assert by, f"a verdict of nobody, {what}"
                if verdict != "unknown":
                    doubted, evidence = False, True
            case _:
                assert open_, what
    assert not open_ or not doubted or not evidence, what


def _check_replay(events: Sequence[Event], agent: AgentSpec) -> None:
    """3: a fresh machine, fed each turn, issues the commands that the log holds, and why."""
    created = events[0]
    assert isinstance(created.body, ev.RunCreated)
    state: bytes | None = None
    for whole in turns(events):
        ends = (n for n, e in enumerate(whole, 1) if isinstance(e.body, _TURN_OVER))
        turn = whole[: next(ends, None)]  # an idle run is cancelled behind it, without its code
        recorded = plan(turn)
        machine = Machine(
            agent,
            run=created.run,
            seed=created.body.seed,
            input=created.payload or b"null",
            state=state,
            marks=recorded.marks,
        )
        last = len(recorded.feed) - 1
        for n, event in enumerate(recorded.feed):
            if event.body.role == "note" and machine.issued:
                wanted = (machine.issued[0].cause,)
                assert event.cause == wanted, f"{event.run}@{event.seq} is caused by {wanted}"
            machine.feed(event, replaying=n < last)
        assert not machine.issued, f"run {created.run} asks for more: {machine.issued}"
        machine.close()
        if isinstance(turn[-1].body, ev.TurnFinished):
            state = json_bytes(json.loads(turn[-1].payload or b"null")["state"])


def _check_deeds(left: Remains, world: World) -> None:
    """4: every deed has its intent, and one thing is done under one key."""
    intents = {
        (event.run, event.body.key, event.body.attempt)
        for _, event in left.log
        if isinstance(event.body, ev.StepStarted)
    }
    for deed in world.deeds:
        assert (deed.run, deed.key, deed.attempt) in intents, f"{deed} is not in the log"
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for deed in world.deeds:
        keys[deed.run, deed.key].add(deed.idempotency_key)
