"""Hypothesis strategies for changes: a plan says what a change does, whatever run it meets.

A plan is drawn without looking at any store; ``realise`` turns it into an ``Append`` for a run as
that stands. So a failing example prints as a short list of plans.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, get_type_hints

from hypothesis import strategies as st

from holdfast.core import events as ev
from holdfast.ports import Append, Message, NewRun
from holdfast.testing.script import Fact, Script, conversation

__all__ = [
    "AGENTS",
    "MESSAGE_IDS",
    "RUN_IDS",
    "STATUSES",
    "Plan",
    "bodies",
    "payloads",
    "plans",
    "realise",
    "recipients",
    "values",
]

RUN_IDS = ("a", "a%", "a_b", "A", "aab", "é/1", "😀", 'it\'s "x" \\ [*]', "\uffff")
"""What LIKE, GLOB, quoting, case and the order of code points could trip over."""
MESSAGE_IDS = ("m1", "m2", "M1", "ü")
AGENTS = ("agent:one", "agent:two")
STATUSES = ("pending", "running", "waiting", "idle", "in_doubt", "diverged", "succeeded", "failed")
_ENDS: dict[str, ev.Body] = {
    "succeed": ev.RunSucceeded(),
    "fail": ev.RunFailed(),
    "cancel": ev.RunCancelled(),
    "idle": ev.TurnFinished(1),
}


@dataclass(frozen=True)
class Note:
    """An event that changes nothing but the stream."""

    body: ev.Body
    payload: bytes | None


@dataclass(frozen=True)
class Send:
    """A message to a run, which may be the same one or none yet."""

    to: str
    id: str
    payload: bytes


@dataclass(frozen=True)
class Receive:
    """The oldest unread messages but ``skip`` are consumed."""

    count: int
    skip: int


@dataclass(frozen=True)
class Child:
    """A run is created with the change, unless it exists."""

    name: str
    payload: bytes


Move: TypeAlias = Note | Send | Receive | Child


@dataclass(frozen=True)
class Ending:
    """What becomes of the run and its lease after the moves."""

    kind: str
    """A key of ``_ENDS``, or ``park``, or ``go on`` without a further event."""
    release: bool
    looked: bool
    """Whether the run has seen all of its inbox."""
    status: str = "waiting"
    wake_in: int | None = None


@dataclass(frozen=True)
class Plan:
    """One change: what it does, how it is brought to the store, and what is wrong with it."""

    moves: Sequence[Move]
    ending: Ending
    way: str
    """``append``, ``transact``, or ``raise``: a transaction whose body raises in the end."""
    lag: int
    """How many epochs it comes late."""
    slip: int
    """How far its expected length is off."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.way != "raise" and not self.lag and not self.slip


_UNFIT = {"run.created", "run.parked", "step.doubted", *(end.type for end in _ENDS.values())}
"""Types that begin, end or need something, and so are no mere notes."""
_FIELDS: dict[object, st.SearchStrategy[Any]] = {
    int: st.sampled_from([0, 1, 7, 2**53 - 1]),
    str: st.sampled_from(["", "k#1", 'a "b" \\', "ü 😀", "\u2028\x7f\x01"]),
    bool: st.booleans(),
}
_FIXED: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("step.started", "attempt"): st.just(1),
    ("step.failed", "final"): st.just(value=True),
    ("step.resolved", "verdict"): st.sampled_from(["happened", "unknown"]),
}


def _body(kind: type[ev.Body]) -> st.SearchStrategy[ev.Body]:
    facts = {
        name: _FIXED.get((kind.type, name), _FIELDS[type_])
        for name, type_ in get_type_hints(kind).items()
        if type_ in _FIELDS
    }
    return st.builds(kind, **facts)


bodies: st.SearchStrategy[ev.Body] = st.one_of(
    [_body(kind) for kind in ev.BODIES.values() if kind.type not in _UNFIT]
)
"""Any event that may follow any other."""


def _noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - bytes that do not compress


values: st.SearchStrategy[bytes] = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.builds(
        conversation,
        st.integers(0, 30),
        chars=st.sampled_from([20, 300, 3_000]),
        edited=st.integers(-1, 3),
    ),
    st.builds(
        _noise, st.sampled_from([1, 4_095, 4_096, 4_097, 65_536, 200_000]), st.integers(0, 2)
    ),
)
"""Payloads from nothing to 200 KB: text, noise and lists of messages which they share."""
payloads = st.none() | values

recipients = st.sampled_from([*RUN_IDS[:3] * 3, *RUN_IDS])
"""Run ids, those that come first more often."""

_moves: st.SearchStrategy[Move] = st.one_of(
    st.builds(Note, bodies, payloads),
    st.builds(Send, recipients, st.sampled_from(MESSAGE_IDS), values),
    st.builds(Receive, st.integers(1, 3), st.integers(0, 1)),
    st.builds(Child, st.sampled_from("xy"), values),
)
_waits = st.sampled_from([None, -1_000, 0, 2, 5_000, 50_000])
_endings = st.one_of(
    st.builds(Ending, st.just("go on"), st.just(value=False), st.just(value=False)),
    st.builds(
        Ending,
        st.just("park"),
        st.sampled_from([True, True, False]),
        st.sampled_from([True, True, False]),
        st.sampled_from(["waiting", "in_doubt", "diverged"]),
        _waits,
    ),
    st.builds(Ending, st.sampled_from(["idle", "go on"]), st.just(value=True), st.booleans()),
    st.builds(Ending, st.sampled_from(list(_ENDS)), st.just(value=True), st.just(value=True)),
)
plans: st.SearchStrategy[Plan] = st.builds(
    Plan,
    st.lists(_moves, max_size=4),
    _endings,
    st.sampled_from(["append", "append", "append", "transact", "raise"]),
    st.sampled_from([0, 0, 0, 0, 1, 2]),
    st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
)


def realise(
    plan: Plan, script: Script, unread: Sequence[int], *, largest: int, prefix: str = ""
) -> Append:
    """Return the change that a plan is for one run, and add its events to the script.

    Args:
        plan: What to do.
        script: The run as its worker knows it, with the epoch and time of the new events.
        unread: The run's inbox numbers.
        largest: The largest number its inbox ever had.
        prefix: Begins the ids of messages sent, to tell them from those of others.
    """
    facts: list[Fact] = []
    deliver: list[Message] = []
    create: list[NewRun] = []
    consume: list[int] = []
    for move in plan.moves:
        match move:
            case Note(body, payload):
                facts.append((body, payload))
            case Send(to, id_, payload):
                id_ = prefix + id_
                cause = ((script.run, script.state.seq), script.state.seq)
                deliver.append(Message(to, id_, "topic", payload, script.at, script.run, cause))
                facts.append((ev.MessageSent(f"send#{len(facts)}", to, "topic", id_), payload))
            case Receive(count, skip):
                taken = [n for n in unread if n not in consume][skip:][:count]
                facts += [ev.MessageReceived(f"receive#{n}", "topic", str(n)) for n in taken]
                consume += taken
            case Child(name, payload):
                child = f"{script.run}/{name}"
                key = f"child#{len(facts)}"
                new = Script.begin(
                    child,
                    agent=script.state.agent,
                    at=script.at,
                    parent=script.run,
                    parent_key=key,
                    payload=payload,
                )
                create.append(new.new())
                facts.append(ev.ChildStarted(key, child, new.state.agent))
    ending = plan.ending
    if ending.kind == "park":
        wake_at = 0 if ending.wake_in is None else script.at + ending.wake_in
        facts.append(ev.RunParked(ending.status, wake_at))
    elif ending.kind != "go on":
        facts.append(_ENDS[ending.kind])
    if not plan.sound and not facts:
        facts.append(ev.StreamEmitted(1))  # so that what is built on it cannot go through
    change = script.change(
        *facts,
        deliver=deliver,
        create=create,
        consume=consume,
        release=ending.release,
        seen=largest if ending.looked else 0,
    )
    return replace(
        change,
        epoch=max(change.epoch - plan.lag, 0),
        expected_seq=change.expected_seq + plan.slip,
    )
