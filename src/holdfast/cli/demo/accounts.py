"""What the two desks did, in numbers: taken from the shop's ledger and from the log.

Whether something was done, twice or never is the shop's word alone (`ledger.compare`). What it took
to get there (doubts, steps handed back, model calls) comes from the log and from the model.

Invariant: pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from holdfast.cli.demo import ledger, planner
from holdfast.cli.demo.ledger import Action, Deed, Row
from holdfast.cli.demo.tickets import Ticket, wanted_actions, wanted_notes
from holdfast.core import events as ev
from holdfast.core.events import Event
from holdfast.core.state import ENDED

__all__ = ["Account", "Line", "Side", "lines_of", "side_json"]

_MODEL_PATH = "/chat/completions"


@dataclass
class Account:
    """One run, as far as its events have been seen."""

    status: str = "pending"
    epoch: int = 0
    takeovers: int = 0
    """How often another epoch than the last one wrote."""
    outcomes: int = 0
    """Steps that have an outcome: what a replay is handed back from the log."""
    replayed: int = 0
    reconciled: int = 0
    resolved: int = 0
    model_calls: int = 0
    """Answers of the model that were recorded."""
    doubts: set[str] = field(default_factory=set)
    """Steps in doubt now."""

    def take(self, event: Event) -> None:
        """Take in the run's next event."""
        if event.epoch > self.epoch:
            self.takeovers += self.epoch > 0
            self.replayed += self.outcomes
            self.epoch = event.epoch
        body = event.body
        match body:
            case ev.StepFinished() | ev.StepFailed(final=True):
                self.outcomes += 1
                self.model_calls += isinstance(body, ev.StepFinished) and _MODEL_PATH in body.key
            case ev.StepDoubted():
                self.doubts.add(body.key)
            case ev.StepResolved(verdict="happened" | "not_done"):
                self.doubts.discard(body.key)
                if body.by == "reconcile":
                    self.reconciled += 1
                else:
                    self.resolved += 1
            case _:
                pass
        self.status = _status(self.status, body)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.status in ENDED


def _status(before: str, body: ev.Body) -> str:
    match body:
        case ev.RunParked():
            return body.status
        case ev.RunSucceeded():
            return "succeeded"
        case ev.RunFailed():
            return "failed"
        case ev.RunCancelled():
            return "cancelled"
        case _:
            return before if body.role == "mark" else "running"


@dataclass(frozen=True)
class Line:
    """How one ticket came out on one side, and what it took."""

    ticket: str
    kind: str
    actions_wanted: int
    actions_done: int
    twice: int
    missing: int
    stray: int = 0
    kills: int = 0
    doubts_reconciled: int = 0
    doubts_resolved: int = 0
    model_calls_paid: int | None = 0
    model_calls_needed: int = 0
    steps_replayed: int = 0


@dataclass
class Side:
    """What the supervisor counted while a desk worked."""

    kills: int = 0
    kills_in_window: int = 0
    zombies: int = 0
    seconds: float = 0.0
    killed: dict[str, int] = field(default_factory=dict)
    """Ticket → kills that struck it."""
    finished: set[str] = field(default_factory=set)
    """Tickets that the desk believes to be done."""


def lines_of(
    tickets: Sequence[Ticket],
    deeds: Iterable[Deed],
    notes: Iterable[Deed],
    *,
    side: Side,
    paid: Mapping[str, int] | None,
    accounts: Mapping[str, Account],
) -> list[Line]:
    """Return a line per ticket, then one per order that no ticket is about.

    Args:
        tickets: The tickets worked on.
        deeds: What the shop did, from its own ledger.
        notes: What the desk noted, as deeds of kind ``note``.
        side: What was counted meanwhile.
        paid: The model's answers by ticket; None when the model does not tell.
        accounts: The runs by ticket; none for a desk that has no log.
    """
    wanted: dict[str, list[Action]] = {
        ticket.id: [*wanted_actions(ticket), *wanted_notes(ticket)] for ticket in tickets
    }
    kinds = {ticket.id: ticket.kind for ticket in tickets}
    return [
        _line(row, kinds.get(row.ticket, ""), side, paid, accounts.get(row.ticket, Account()))
        for row in ledger.compare(wanted, [*deeds, *notes])
    ]


def _line(
    row: Row, kind: str, side: Side, paid: Mapping[str, int] | None, account: Account
) -> Line:
    return Line(
        ticket=row.ticket,
        kind=kind,
        actions_wanted=row.wanted,
        actions_done=row.done,
        twice=row.twice,
        missing=row.missing,
        stray=row.stray,
        kills=side.killed.get(row.ticket, 0),
        doubts_reconciled=account.reconciled,
        doubts_resolved=account.resolved,
        model_calls_paid=None if paid is None else paid.get(row.ticket, 0),
        model_calls_needed=planner.calls_needed(kind) if kind else 0,
        steps_replayed=account.replayed,
    )


_SUMS = (
    *("actions_wanted", "actions_done", "twice", "missing", "stray"),
    *("doubts_reconciled", "doubts_resolved", "model_calls_paid", "model_calls_needed"),
    "steps_replayed",
)


def side_json(lines: Sequence[Line], side: Side) -> dict[str, Any]:
    """Return one side as JSON: the totals, and its tickets' lines."""
    totals: dict[str, Any] = {}
    for name in _SUMS:
        values = [getattr(line, name) for line in lines]
        totals[name] = None if None in values else sum(values)
    return totals | {
        "kills": side.kills,
        "kills_in_doubt_window": side.kills_in_window,
        "zombies": side.zombies,
        "seconds": round(side.seconds, 1),
        "tickets": [asdict(line) for line in lines],
    }
