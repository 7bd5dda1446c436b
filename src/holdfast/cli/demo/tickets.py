"""The desk's tickets, the shop's records they are about, and the deeds a correct desk does.

``tickets.json`` holds 24 of them; a larger desk gets them again under new ids. The wanted deeds are
written there by hand and not computed by the planner's rules, so that the comparison at the end
does not compare the rules with themselves.

What an agent is given is `Ticket.message`, one JSON object with ``id, kind, customer, email,
subject, body, order``: the first user message of the conversation, after `DESK_POLICY` as its
system message. A model that knows only these two and the tools' answers arrives at exactly the
wanted deeds.

Invariants: ids, orders, payments and shipments are distinct however many tickets are asked for; the
same count gives the same tickets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from holdfast.cli.demo.ledger import Action

__all__ = [
    "DESK_POLICY",
    "Ticket",
    "load_tickets",
    "read_messages",
    "wanted_actions",
    "wanted_notes",
    "write_messages",
]

DESK_POLICY = """\
You work at the support desk of a small mail-order shop. Each conversation is one ticket.
First look up its order and its payment, both at once. Then do what the kind of the ticket
calls for, and nothing else:
- damaged: refund the order's shipping fee and ship a replacement; e-mail template
  replacement_shipped.
- lost: refund the whole payment; template refund_issued.
- wrong_item: ship a replacement and issue a return label; template replacement_and_label.
- return: issue a return label; template return_label.
- late: refund a tenth of the payment; template apology.
- charged_twice: refund the second payment; template refund_issued.
- question: refund and ship nothing; template tracking.
For every ticket write one note and send the customer one e-mail with the template named above.
Independent deeds may be asked for at once. Amounts are integer cents. When all is done, sum up
in one or two sentences what was done."""

_SHIPPED = "tickets.json"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One customer's request and everything the demo knows about it.

    Attributes:
        records: What the shop has on file: ``order`` (an object), ``payments`` and ``shipments``
            (lists of objects).
        wanted: The deeds that the shop's ledger should hold for it in the end.
    """

    id: str
    kind: str
    customer: str
    email: str
    subject: str
    body: str
    order: str
    records: Mapping[str, Any]
    wanted: tuple[Action, ...]

    def message(self) -> dict[str, str]:
        """Return what the desk is told: no records, no wanted deeds."""
        return {
            "id": self.id,
            "kind": self.kind,
            "customer": self.customer,
            "email": self.email,
            "subject": self.subject,
            "body": self.body,
            "order": self.order,
        }


def load_tickets(count: int | None = None) -> list[Ticket]:
    """Return the first ``count`` tickets; all that are shipped when it is None.

    More than are shipped repeat them as ``T-1001-2``, ``T-1001-3`` and so on, each with an order of
    its own.

    Raises:
        ValueError: count < 1.
    """
    shipped = json.loads(files("holdfast.cli.demo").joinpath(_SHIPPED).read_text(encoding="utf-8"))
    count = len(shipped) if count is None else count
    if count < 1:
        raise ValueError(f"tickets: got {count}; expected at least 1")
    return [
        _ticket(shipped[index % len(shipped)], index // len(shipped) + 1) for index in range(count)
    ]


def wanted_actions(ticket: Ticket) -> list[Action]:
    """Return the deeds that the shop's ledger should hold for a ticket, no more and no fewer."""
    return list(ticket.wanted)


def wanted_notes(ticket: Ticket) -> list[Action]:
    """Return the notes that the desk itself should keep about a ticket: one, in whatever words."""
    return [Action("note", ticket.order, {"ticket": ticket.id})]


def write_messages(path: Path, tickets: Sequence[Ticket]) -> None:
    """Write the tickets' messages as one JSON list, the file a desk is started with."""
    text = json.dumps([ticket.message() for ticket in tickets], ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read_messages(path: Path) -> list[dict[str, str]]:
    """Read what `write_messages` wrote."""
    messages: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return messages


def _ticket(shipped: Mapping[str, Any], round_: int) -> Ticket:
    suffix = "" if round_ == 1 else f"-{round_}"
    order = shipped["order"] + suffix
    records = shipped["records"]
    return Ticket(
        id=shipped["id"] + suffix,
        kind=shipped["kind"],
        customer=shipped["customer"],
        email=shipped["email"],
        subject=shipped["subject"],
        body=shipped["body"],
        order=order,
        records={
            "order": {**records["order"], "id": order},
            "payments": [_renamed(payment, suffix) for payment in records["payments"]],
            "shipments": [_renamed(shipment, suffix) for shipment in records["shipments"]],
        },
        wanted=tuple(
            Action(action["kind"], order, action["details"]) for action in shipped["wanted"]
        ),
    )


def _renamed(record: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    return {**record, "id": record["id"] + suffix, "order": record["order"] + suffix}
