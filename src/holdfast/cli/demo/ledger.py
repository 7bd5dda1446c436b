"""Compare what a shop did with what should have been done.

The ledger belongs to the shop, which counts every deed in the transaction that does it; what was
wanted comes from the tickets. Neither asks the desk for its opinion, so a desk that believes
something else is found out.

Invariants: pure; each deed is counted exactly once, as done, twice or stray; ``done + missing ==
wanted`` in each row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Action", "Deed", "Row", "compare", "deeds", "total"]


@dataclass(frozen=True, slots=True)
class Action:
    """One deed that a ticket calls for.

    Attributes:
        kind: ``refund``, ``replacement``, ``return_label``, ``email`` or ``note``.
        order: The order it is done for.
        details: What must be so, such as ``{"cents": 590}``; a deed may say more (a reason in the
            model's own words).
    """

    kind: str
    order: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Deed:
    """One deed that the shop did, as its ledger tells it."""

    kind: str
    order: str
    details: Mapping[str, Any]

    def fulfils(self, action: Action) -> bool:
        """Tell whether this deed is what the action asks for."""
        return (
            self.kind == action.kind
            and self.order == action.order
            and all(self.details.get(name) == value for name, value in action.details.items())
        )


@dataclass(frozen=True, slots=True)
class Row:
    """How one ticket came out.

    Attributes:
        ticket: The ticket's id; for an order that no ticket is about, a text naming the order.
        wanted: Deeds that the ticket calls for.
        done: Those of them that were done, at least once.
        twice: Deeds beyond the first that fulfil the same action.
        missing: Deeds wanted and never done.
        stray: Deeds that nobody wanted, such as a refund of another amount.
    """

    ticket: str
    wanted: int
    done: int
    twice: int
    missing: int
    stray: int = 0

    @property
    def exactly_once(self) -> bool:
        """Whether everything wanted was done once, and nothing else."""
        return not (self.twice or self.missing or self.stray)


def deeds(rows: Iterable[Mapping[str, Any]]) -> list[Deed]:
    """Read the ``deeds`` of the shop's ``GET /ledger``.

    Raises:
        KeyError: A row lacks ``kind``, ``order`` or ``details``.
    """
    return [Deed(row["kind"], row["order"], row["details"]) for row in rows]


def compare(wanted: Mapping[str, Sequence[Action]], ledger: Iterable[Deed]) -> list[Row]:
    """Return a row per ticket, in the tickets' order, then one per order that no ticket is about.

    Args:
        wanted: The actions that each ticket calls for, by ticket id.
        ledger: Every deed of the shop.

    Raises:
        ValueError: Two tickets are about one order, so that a deed could not be told to belong to
            either.
    """
    owners: dict[str, str] = {}
    for ticket, actions in wanted.items():
        for action in actions:
            owner = owners.setdefault(action.order, ticket)
            if owner != ticket:
                raise ValueError(
                    f"order {action.order!r} is in tickets {owner!r} and {ticket!r}; "
                    "expected each order in one ticket"
                )
    by_ticket: dict[str, list[Deed]] = {ticket: [] for ticket in wanted}
    for deed in ledger:
        ticket = owners.get(deed.order, f"order {deed.order} (no ticket)")
        by_ticket.setdefault(ticket, []).append(deed)
    return [_row(ticket, wanted.get(ticket, ()), done) for ticket, done in by_ticket.items()]


def total(rows: Iterable[Row]) -> Row:
    """Return the sum of all rows, named ``total``."""
    every = list(rows)
    return Row(
        ticket="total",
        wanted=sum(row.wanted for row in every),
        done=sum(row.done for row in every),
        twice=sum(row.twice for row in every),
        missing=sum(row.missing for row in every),
        stray=sum(row.stray for row in every),
    )


def _row(ticket: str, actions: Sequence[Action], done: Sequence[Deed]) -> Row:
    # The most exacting action chooses first, else a vague one could take the only deed that fits
    # it.
    unmet = sorted(actions, key=lambda action: len(action.details), reverse=True)
    met: list[Action] = []
    twice = stray = 0
    for deed in done:
        match = next((action for action in unmet if deed.fulfils(action)), None)
        if match is not None:
            unmet.remove(match)
            met.append(match)
        elif any(deed.fulfils(action) for action in met):
            twice += 1
        else:
            stray += 1
    return Row(ticket, len(actions), len(met), twice, len(unmet), stray)
