"""The five questions about an agent in production, answered from a run's events alone.

What has it done, what is it about to do, what binds it, who is it, and why did it decide so?
``answer`` is pure: events (and the unread messages) in, plain data out; ``show`` renders it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.cli.text import count, iso, payload_value, withheld_facts
from holdfast.core import events as ev
from holdfast.core.calls import describe
from holdfast.core.events import Event
from holdfast.core.state import ENDED, OpenStep, RunState, fold
from holdfast.ports import InboxMessage

__all__ = ["Answers", "answer", "open_steps"]

CONTRACTS = {
    "read": "may be repeated freely",
    "idempotent": "may be repeated under its idempotency key alone",
    "transactional": "happens together with its outcome, or not at all",
    "once": "never repeated without evidence that it did not happen",
}


@dataclass(frozen=True)
class Answers:
    """The answers, as plain data that can be written as JSON."""

    completed: list[dict[str, Any]]
    """Actions with an outcome: steps, children, messages sent."""
    pending: dict[str, Any]
    """Open steps, children, questions, what is waited for and until when, unread messages."""
    constraints: list[dict[str, Any]]
    """What limits the next actions."""
    identity: dict[str, Any]
    lineage: list[dict[str, Any]]
    """Decisions in order: what was learnt, and what was asked for because of it."""


def answer(events: Sequence[Event], unread: Sequence[InboxMessage], *, store: str) -> Answers:
    """Answer the five questions about a run.

    Args:
        events: All its events, in order, at least one.
        unread: The messages in its inbox.
        store: The store's URL.
    """
    state = fold(events)
    return Answers(
        completed=_Actions(events).completed,
        pending=_pending(events, state, unread),
        constraints=_constraints(events, state),
        identity=_identity(events, state, store),
        lineage=_lineage(events),
    )


class _Actions:
    """Walks through the events and notes each action when its outcome comes."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.completed: list[dict[str, Any]] = []
        self._open: dict[str, dict[str, Any]] = {}
        self._turn = 0
        for event in events:
            self._take(event, event.body)

    def _take(self, event: Event, body: ev.Body) -> None:
        match body:
            case ev.TurnStarted():
                self._turn = body.turn
                self._open = {}
            case ev.StepStarted() if body.attempt > 1:
                self._open.get(body.key, {})["attempts"] = body.attempt
            case ev.StepStarted() | ev.ChildStarted() | ev.MessageSent():
                self._begin(event, body)
            case ev.StepFailed(final=False):
                pass
            case ev.StepFinished() | ev.StepFailed() | ev.StepAbandoned() | ev.ChildFinished():
                self._end(event, body)
            case ev.RunAccepted():
                for action in self.completed:
                    if action["asked_seq"] >= body.from_seq:
                        action["void"] = True  # it happened; the code is no longer bound by it
            case _:
                pass

    def _begin(self, event: Event, body: ev.StepStarted | ev.ChildStarted | ev.MessageSent) -> None:
        action: dict[str, Any] = {
            "turn": self._turn,
            "key": body.key,
            "kind": body.type.partition(".")[0],
            "effect": "",
            "attempts": 1,
            "asked_seq": event.seq,
            "arguments": payload_value(event),
        }
        match body:
            case ev.StepStarted():
                action["effect"] = body.effect
            case ev.ChildStarted():
                action |= {"effect": body.agent_called, "run": body.child}
            case ev.MessageSent():
                action["effect"] = f"to {body.to}"
                self.completed.append(action | self._outcome(event, "sent"))
                return
        self._open[body.key] = action

    def _end(
        self,
        event: Event,
        body: ev.StepFinished | ev.StepFailed | ev.StepAbandoned | ev.ChildFinished,
    ) -> None:
        action = self._open.pop(body.key, None)
        if action is None:  # of an accepted divergence
            return
        match body:
            case ev.StepAbandoned():
                outcome = "abandoned"
            case ev.StepFinished():
                outcome = "finished"
                action |= {} if body.via == "body" else {"via": body.via}
            case ev.ChildFinished(ok=True):
                outcome = "finished"
            case _:
                outcome = "failed"
        action |= self._outcome(event, outcome) | {"value": payload_value(event)}
        self.completed.append(action)

    @staticmethod
    def _outcome(event: Event, outcome: str) -> dict[str, Any]:
        return {"outcome": outcome, "seq": event.seq, "time": iso(event.at)}


def _pending(
    events: Sequence[Event], state: RunState, unread: Sequence[InboxMessage]
) -> dict[str, Any]:
    turn = [event for event in events if event.seq >= state.turn_seq]
    children = {e.body.key: e.body.child for e in turn if isinstance(e.body, ev.ChildStarted)}
    questions = {e.body.key: payload_value(e) for e in turn if isinstance(e.body, ev.QuestionAsked)}
    for event in turn:
        if isinstance(event.body, ev.ChildFinished):
            children.pop(event.body.key, None)
        elif isinstance(event.body, ev.MessageReceived):
            questions.pop(event.body.topic, None)
    over = state.status in ("succeeded", "failed", "cancelled", "idle")
    last = events[-1].body
    return {
        "steps": [_open_step(step, events) for step in state.open_steps.values()],
        "children": [] if over else [{"key": k, "run": run} for k, run in children.items()],
        "questions": [] if over else [{"topic": t, **(q or {})} for t, q in questions.items()],
        "waits_for": last.waits_for if isinstance(last, ev.RunParked) else "",
        "wake_at": iso(state.wake_at),
        "unread": [
            {
                "id": m.message.id,
                "topic": m.message.topic,
                "from": m.message.sender or "outside",
                "payload": m.message.payload.decode("utf-8", "replace"),
            }
            for m in unread
        ],
    }


def open_steps(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the steps without an outcome after a run's events."""
    return [_open_step(step, events) for step in fold(events).open_steps.values()]


def _open_step(step: OpenStep, events: Sequence[Event]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "key": step.key,
        "effect": step.effect,
        "stage": step.stage,
        "attempt": step.attempt,
        "failures": step.failures,
        "retry_at": iso(step.retry_at),
        "asked_seq": step.seq,
        "arguments": payload_value(events[step.seq - 1]),
    }
    if step.stage == "doubted":
        doubt = events[step.doubt_seq - 1]
        facts |= {"doubted_seq": step.doubt_seq, "since": iso(doubt.at)}
        facts["error"] = payload_value(doubt)
    return facts


def _constraints(events: Sequence[Event], state: RunState) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def add(what: str, why: str, seq: int = 0) -> None:
        found.append({"what": what, "why": why} | ({"seq": seq} if seq else {}))

    for step in state.open_steps.values():
        add(step.key, f"{step.effect}: {CONTRACTS.get(step.effect, '')}", step.seq)
        if step.stage == "doubted":
            add(
                step.key, "in doubt: only evidence or a person's word lets it go on", step.doubt_seq
            )
        if step.failures:
            # How many it may have is said by `retry=` in the code, which is not at hand here.
            due = f"; one more is due {iso(step.retry_at)}" if step.retry_at else ""
            add(step.key, f"{count(step.failures, 'attempt')} failed{due}", step.failed_seq)
    if state.cancelling and state.status not in ("cancelled", "failed", "succeeded"):
        asked = [e for e in events if isinstance(e.body, ev.CancelRequested)][-1]
        add("run", f"{describe(asked.body)}: it cleans up and ends", asked.seq)
    if state.status == "diverged":
        parted = [e for e in events if isinstance(e.body, ev.RunDiverged)][-1]
        said = payload_value(parted) or {}
        add("run", "diverged: nothing happens until the code fits again or a person accepts")
        add("log", f"holds {said.get('recorded', '?')}", state.diverged_seq)
        add("code", f"asked for {said.get('requested', '?')}", parted.seq)
    for event in events:
        if isinstance(event.body, ev.VersionMarked) and event.seq >= state.turn_seq:
            add("code", f"has passed the version guard {event.body.name!r}", event.seq)
    if state.status in ENDED:
        add("run", f"is over ({state.status}): it takes no more messages", state.seq)
    return found


def _identity(events: Sequence[Event], state: RunState, store: str) -> dict[str, Any]:
    return {
        "run": state.run,
        "agent": state.agent,
        "status": state.status,
        "parent": state.parent,
        "parent_key": state.parent_key,
        "store": store,
        "seed": state.seed,
        "flags": state.flags,
        "epoch": state.epoch,
        "turn": state.turn,
        "events": state.seq,
        "created": iso(state.created_at),
        "updated": iso(state.updated_at),
        "head": state.head,
        "input": payload_value(events[0]),
        **({"subject": state.sub} if state.sub else {}),
        **({"withheld": facts} if (facts := withheld_facts(events)) else {}),
    }


def _lineage(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return what led to what: the notes of each input, and the words of people in between."""
    decisions: dict[int, dict[str, Any]] = {}
    accepted = [(e.body.from_seq, e.seq) for e in events if isinstance(e.body, ev.RunAccepted)]
    for event in events:
        body = event.body
        if isinstance(body, ev.StepStarted) and body.attempt > 1:
            continue  # not the code's decision
        if body.role == "note" and event.cause and isinstance(event.cause[0], int):
            seq = event.cause[0]
            if seq not in decisions:
                learnt = events[seq - 1]
                decisions[seq] = {
                    "seq": seq,
                    "because": describe(learnt.body),
                    "learnt": payload_value(learnt),
                    "from": [list(c) for c in learnt.cause if not isinstance(c, int)],
                    "asked": [],
                }
            void = any(begin <= event.seq < end for begin, end in accepted)
            asked = {"seq": event.seq, "what": describe(body)} | ({"void": True} if void else {})
            decisions[seq]["asked"].append(asked)
        elif isinstance(body, ev.StepResolved | ev.RunAccepted | ev.CancelRequested):
            said = body.verdict if isinstance(body, ev.StepResolved) else body.type
            step = body.key if isinstance(body, ev.StepResolved) else ""
            decisions.setdefault(
                event.seq,
                {"seq": event.seq, "because": describe(body), "by": body.by, "asked": []}
                | {"said": f"{step} {said}".strip()},
            )
    return [decisions[seq] for seq in sorted(decisions)]
