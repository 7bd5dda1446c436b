"""The scripted model's mind: what comes next in a conversation, by rules instead of weights.

It finds the ticket (the first user message that holds a JSON object with ``id``, ``kind`` and
``order``), sees which of its tool calls have been answered, and asks for the next ones. A plan is a
list of stages; the calls of one stage are asked for in parallel, and a stage begins when each call
before it has an answer. Every plan begins with ``lookup_order`` and ``lookup_payment``, whose
answers must be JSON with ``shipping_cents`` and ``cents`` in them, at any depth. Tools:
``lookup_order(order)``, ``lookup_payment(order)``, ``refund(order, cents, reason)``,
``ship_replacement(order)``, ``return_label(order)``, ``send_email(to, template, order)``,
``note(ticket, text)``.

An answer that begins with ``error`` is no answer: the model asks for the same again, under a new
id, as models do. After `ERRORS_MAX` of them it gives up on that tool and says so at the end.

Invariants: pure; the same messages and tools get the same reply, tool call ids included; a tool
that is not offered is never called; no conversation grows for ever.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ERRORS_MAX",
    "Call",
    "Message",
    "Reply",
    "TranscriptError",
    "calls_needed",
    "digest",
    "reply",
    "ticket_of",
]

ERRORS_MAX = 8

Message = Mapping[str, Any]


class TranscriptError(Exception):
    """The messages are not a conversation that a provider accepts."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call that the model asks for; the id is empty as long as it is only planned."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says: text, tool calls, or both; without calls it has finished."""

    content: str | None
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the conversation shows: each tool's last answer, and how many errors it gave."""

    answers: Mapping[str, str]
    errors: Mapping[str, int]

    def settled(self, name: str) -> bool:
        return name in self.answers or self.errors.get(name, 0) >= ERRORS_MAX

    def number(self, name: str, key: str) -> list[int]:
        """Return every integer under ``key`` in a tool's answer, in order."""
        try:
            answer = json.loads(self.answers.get(name, "null"))
        except ValueError:
            return []
        return list(_integers(answer, key))


def digest(messages: Sequence[Message]) -> str:
    """Return what identifies a conversation: the same messages, the same digest."""
    text = json.dumps(messages, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def reply(messages: Sequence[Message], offered: Sequence[str], *, parallel: bool = True) -> Reply:
    """Return the next reply of the model.

    Args:
        messages: The conversation in OpenAI's form.
        offered: The names of the tools that may be called.
        parallel: Whether a reply may hold more than one call.

    Raises:
        TranscriptError: A tool call without an answer, an answer without its call, or no ticket.
    """
    facts = _facts(messages)
    ticket = ticket_of(messages)
    stages = _plan(ticket, facts)
    for number, stage in enumerate(stages):
        wanted = [call for call in stage if call.name in offered and not facts.settled(call.name)]
        if wanted:
            prefix = digest(messages)
            calls = tuple(
                Call(call.name, call.arguments, _call_id(prefix, place, call.name))
                for place, call in enumerate(wanted)
            )
            text = f"Let me look at order {ticket['order']} first." if number == 0 else None
            return Reply(text, calls if parallel else calls[:1])
    return Reply(_summary(ticket, stages, facts), ())


def calls_needed(kind: str) -> int:
    """Return how many replies a ticket of this kind takes when every tool answers at once."""
    ticket = {"id": "", "kind": kind, "order": "", "customer": "", "email": ""}
    return len(_plan(ticket, _Facts({}, {}))) + 1


def _plan(ticket: Mapping[str, Any], facts: _Facts) -> list[list[Call]]:
    order, kind = ticket["order"], ticket["kind"]
    paid = facts.number("lookup_payment", "cents")
    shipping = sum(facts.number("lookup_order", "shipping_cents")[:1])

    def refund(cents: int, reason: str) -> Call:
        return Call("refund", {"order": order, "cents": cents, "reason": reason})

    def email(template: str) -> Call:
        return Call(
            "send_email", {"to": ticket.get("email", ""), "template": template, "order": order}
        )

    replacement = Call("ship_replacement", {"order": order})
    label = Call("return_label", {"order": order})
    note = Call("note", {"ticket": ticket["id"], "text": f"{kind}: handled by the desk"})
    plans: dict[str, list[list[Call]]] = {
        "damaged": [
            [refund(shipping, "shipping fee of a damaged delivery"), replacement],
            [note, email("replacement_shipped")],
        ],
        "lost": [[refund(sum(paid), "parcel lost")], [note, email("refund_issued")]],
        "wrong_item": [[replacement, label], [note, email("replacement_and_label")]],
        "return": [[label], [note, email("return_label")]],
        "late": [[refund(sum(paid) // 10, "late delivery"), email("apology")], [note]],
        "charged_twice": [
            [refund(sum(paid[1:2]), "charged twice")],
            [email("refund_issued")],
            [note],
        ],
        "question": [[email("tracking"), note]],
    }
    lookups = [Call("lookup_order", {"order": order}), Call("lookup_payment", {"order": order})]
    return [lookups, *plans.get(kind, [[note]])]


def _facts(messages: Sequence[Message]) -> _Facts:
    answers: dict[str, str] = {}
    errors: Counter[str] = Counter()
    open_calls: dict[str, str] = {}
    for place, message in enumerate(messages):
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id", "")
            if call_id not in open_calls:
                raise TranscriptError(
                    f"messages[{place}]: a message with role 'tool' must answer a preceding tool "
                    f"call; got tool_call_id {call_id!r}"
                )
            name, text = open_calls.pop(call_id), _text(message)
            if text.lstrip(' "').lower().startswith("error"):
                errors[name] += 1
            else:
                answers[name] = text
            continue
        _check_all_answered(open_calls)
        for call in message.get("tool_calls") or ():
            open_calls[call["id"]] = call["function"]["name"]
    _check_all_answered(open_calls)
    return _Facts(answers, errors)


def _check_all_answered(open_calls: Mapping[str, str]) -> None:
    if open_calls:
        raise TranscriptError(
            "an assistant message with 'tool_calls' must be followed by tool messages responding "
            f"to each 'tool_call_id'; no answer to {', '.join(open_calls)}"
        )


def ticket_of(messages: Sequence[Message]) -> Mapping[str, Any]:
    """Return the ticket that a conversation is about.

    Raises:
        TranscriptError: no user message holds one.
    """
    for message in messages:
        text = _text(message)
        start = text.find("{")
        if message.get("role") != "user" or start < 0:
            continue
        try:
            found, _ = json.JSONDecoder().raw_decode(text, start)
        except ValueError:
            continue
        if {"id", "kind", "order"} <= found.keys():
            return dict(found)
    raise TranscriptError(
        "no user message holds a ticket; expected a JSON object with id, kind and order"
    )


def _text(message: Message) -> str:
    """Return a message's text, which may come in one piece or in parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def _integers(value: Any, key: str) -> list[int]:
    if isinstance(value, list):
        return [number for item in value for number in _integers(item, key)]
    if not isinstance(value, dict):
        return []
    own = value.get(key)
    inner = [number for item in value.values() for number in _integers(item, key)]
    return [own, *inner] if isinstance(own, int) else inner


def _summary(ticket: Mapping[str, Any], stages: list[list[Call]], facts: _Facts) -> str:
    parts = []
    for call in (call for stage in stages[1:] for call in stage):
        done = call.name in facts.answers
        if call.name == "refund":
            what = f"refund of {call.arguments['cents'] / 100:.2f} EUR"
        elif call.name == "send_email":
            what = f"e-mail '{call.arguments['template']}'"
        else:
            what = call.name.replace("_", " ")
        parts.append(what if done else f"{what} (not possible)")
    return f"Ticket {ticket['id']} about order {ticket['order']} is done: {', '.join(parts)}."


def _call_id(prefix: str, place: int, name: str) -> str:
    return f"call_{hashlib.sha256(f'{prefix}|{place}|{name}'.encode()).hexdigest()[:24]}"
