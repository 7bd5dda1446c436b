"""Where the demo strikes: for each ticket a deed at which the desk's process is killed.

An *ambush* waits for one deed. The shop does the deed and holds its answer back; then the process
is killed at once, *in the window* between the deed and its record, or the answer is let through and
the process is killed a moment later, wherever it is by then. One ambush pauses the process instead
and lets it wake up when another has taken its runs over.

Invariants: pure, the same tickets and seed give the same ambushes; each ticket has one that kills,
which comes before its work is done; no deed has two.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.cli.demo.tickets import Ticket

__all__ = ["WINDOW_KILLS_MIN", "Ambush", "plan"]

WINDOW_KILLS_MIN = 8
WINDOW_SHARE = 0.6
LATER_MS_MAX = 40
WEIGHTS = {"refund": 4, "replacement": 2, "return_label": 2, "email": 1}
"""How likely each deed is to be chosen: mostly those that a desk can find out about by itself."""


@dataclass(frozen=True, slots=True)
class Ambush:
    """What happens when the shop has done a deed.

    Attributes:
        kind, order: The deed, as the shop's ledger calls it.
        then: ``kill`` in the window, kill ``later``, or ``pause``.
        delay_s: How long after the answer was let through, if later.
    """

    ticket: str
    kind: str
    order: str
    then: Literal["kill", "later", "pause"]
    delay_s: float = 0.0


def plan(tickets: Sequence[Ticket], seed: int) -> list[Ambush]:
    """Return the ambushes for a desk's tickets."""
    chance = random.Random(f"{seed}|ambushes")  # noqa: S311 - reproducible, not secret
    paused = _to_pause(tickets, chance)
    ambushes = [] if paused is None else [_at(paused, "refund", "pause")]
    for ticket in tickets:
        kinds = ["email"] if ticket is paused else _kinds(ticket)
        (kind,) = chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        # Nothing but the summary may be left to do after the e-mail: no time to kill later.
        if kind == "email" or chance.random() < WINDOW_SHARE:
            ambushes.append(_at(ticket, kind, "kill"))
        else:
            ambushes.append(
                _at(ticket, kind, "later", delay_s=chance.uniform(0, LATER_MS_MAX) / 1000)
            )
    return ambushes + _more(tickets, ambushes, chance)


def _to_pause(tickets: Sequence[Ticket], chance: random.Random) -> Ticket | None:
    """Choose whose process is paused, early on: at a refund, which can be looked up.

    Its e-mail must come later, to be killed at: for a late parcel the two are asked for at once.
    """
    fit = [ticket for ticket in tickets if "refund" in _kinds(ticket) and ticket.kind != "late"]
    early = fit[: max(1, len(fit) // 2)]
    return chance.choice(early) if early else None


def _more(
    tickets: Sequence[Ticket], ambushes: Sequence[Ambush], chance: random.Random
) -> list[Ambush]:
    """Return further ambushes for a desk that has too few tickets for the kills it should see."""
    lacking = WINDOW_KILLS_MIN - sum(ambush.then == "kill" for ambush in ambushes)
    taken = {(ambush.kind, ambush.order) for ambush in ambushes}
    free = [
        (ticket, kind)
        for ticket in tickets
        for kind in _kinds(ticket)
        if (kind, ticket.order) not in taken
    ]
    chosen = chance.sample(free, min(max(lacking, 0), len(free)))
    return [_at(ticket, kind, "kill") for ticket, kind in chosen]


def _kinds(ticket: Ticket) -> list[str]:
    return [action.kind for action in ticket.wanted]


def _at(
    ticket: Ticket, kind: str, then: Literal["kill", "later", "pause"], *, delay_s: float = 0.0
) -> Ambush:
    return Ambush(ticket.id, kind, ticket.order, then, delay_s)
