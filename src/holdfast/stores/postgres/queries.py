"""What the store reads, as flows."""

import json
import sys
from collections.abc import Sequence

from holdfast.core.events import Event, open_leaf
from holdfast.core.state import RunRow
from holdfast.ports import InboxMessage, Letter, Message
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Row
from holdfast.stores.postgres.line import Line, Tour, reading
from holdfast.stores.postgres.payloads import loaded
from holdfast.stores.postgres.values import Texts

__all__ = [
    "cause_text",
    "inbox",
    "mail",
    "next_wake",
    "read",
    "read_log",
    "ready",
    "row",
    "rows",
    "standing",
    "unread",
]

_ALL = 2**62
_STUCK = frozenset({"diverged", "in_doubt"})


def row(run: str) -> Flow[RunRow | None]:
    """Return a run's row."""
    (found,) = yield [(sql.ROW, (run,))]
    return RunRow(*found[0]) if found else None


def rows(
    *,
    prefix: str,
    status: Sequence[str],
    agents: Sequence[str],
    after: tuple[int, str] | None,
    limit: int,
) -> Flow[list[RunRow]]:
    """Return rows, newest first."""
    conditions, values = ["TRUE"], list[object]()
    if prefix:
        # The range lets PostgreSQL use the index; the comparison is what counts.
        conditions.append("id >= %s AND starts_with(id, %s)")
        values += [prefix, prefix]
        if before := _next_prefix(prefix):
            conditions.append("id < %s")
            values.append(before)
    for column, wanted in (("status", status), ("agent", agents)):
        if wanted:
            conditions.append(f"{column} = ANY(%s)")
            values.append(Texts(list(wanted)))
    if status and _STUCK.issuperset(status):
        conditions.append(sql.STUCK)  # in letters, for its partial index
    if after:
        conditions.append("(created_at, id) < (%s, %s)")
        values += after
    statement = sql.ROWS.replace("@CONDITIONS", " AND ".join(conditions))
    (found,) = yield [(statement, (*values, limit))]
    return [RunRow(*fields) for fields in found]


def ready(agents: Sequence[str], *, now: int, lease_now: int | None, tour: Tour) -> Flow[bool]:
    """Tell whether a claim would find something."""
    names = sorted(set(agents))
    asked = Texts(names)
    (((certain, perhaps),),) = yield [(sql.READY, (lease_now, asked, now, asked))]
    if certain or not perhaps:
        return bool(certain)
    found = yield reading(names, tour, limit=1)
    line = Line(found, now)
    numbers, _ = line.choose(1)
    tour.note(names, line.lanes())
    return bool(numbers)


def next_wake(agents: Sequence[str], after: int) -> Flow[int]:
    """Return the earliest time at which a run that nobody holds wants to wake."""
    (((at,),),) = yield [(sql.NEXT_WAKE, (Texts(sorted(set(agents))), after))]
    return int(at)


def read(run: str, after: int, until: int, limit: int) -> Flow[list[Event]]:
    """Return a part of a stream."""
    (found,) = yield [(sql.EVENTS, (run, after, until or _ALL, limit or _ALL))]
    return (yield from _events(found))


def read_log(after: int, limit: int) -> Flow[list[tuple[int, Event]]]:
    """Return a part of the log, as far as it has positions."""
    (found,) = yield [(sql.LOG, (after, after, limit, after, limit))]
    events = yield from _events([fields[1:] for fields in found])
    return [(pos, event) for (pos, *_), event in zip(found, events, strict=True)]


def unread(run: str, after: int) -> Flow[list[InboxMessage]]:
    """Return a run's unread messages."""
    (found,) = yield [(sql.UNREAD, (run, after))]
    return (yield from _messages(found))


def standing(prefix: str, after: str, limit: int) -> Flow[list[Row]]:
    """Return epoch, worker and row of runs by id, behind an id."""
    values: list[object] = [prefix, after, prefix]
    below = _next_prefix(prefix) if prefix else ""
    statement = sql.STANDING_BELOW if below else sql.STANDING
    (found,) = yield [(statement, [*values, *([below] if below else []), limit])]
    return found


def inbox(run: str, after: int, limit: int) -> Flow[list[Letter]]:
    """Return the messages that have ever arrived for a run, with ``n > after``."""
    (found,) = yield [(sql.INBOX, (run, after, limit))]
    messages = yield from _messages([fields[:-1] for fields in found])
    return [
        Letter(unread.n, unread.message, taken or 0)
        for (*_, taken), unread in zip(found, messages, strict=True)
    ]


def mail(worker: str, after: int) -> Flow[tuple[int, list[InboxMessage]]]:
    """Return the unread messages to what a worker holds, and the largest number of all."""
    (((latest,),),) = yield [(sql.LATEST, ())]
    if latest <= after:
        return latest, []
    (found,) = yield [(sql.MAIL, (after, worker))]
    messages = yield from _messages(found)
    return max([latest, *(message.n for message in messages[-1:])]), messages


def cause_text(message: Message) -> str:
    """Return a message's causes as its row has them."""
    return json.dumps(message.cause, separators=(",", ":"))


def _events(found: Sequence[Row]) -> Flow[list[Event]]:
    payloads = yield from loaded([(form, stored) for *_, form, stored in found])
    return [
        open_leaf(leaf, payload=payload, salt=salt)
        for (leaf, salt, *_), payload in zip(found, payloads, strict=True)
    ]


def _messages(found: Sequence[Row]) -> Flow[list[InboxMessage]]:
    payloads = yield from loaded([(form, stored) for *_, form, stored, _, _, _ in found])
    messages = []
    for (n, run, name, topic, _, _, at, sender, cause), payload in zip(
        found, payloads, strict=True
    ):
        links = tuple(c if isinstance(c, int) else (c[0], c[1]) for c in json.loads(cause))
        message = Message(run, name, topic, payload or b"", at, sender, links)
        messages.append(InboxMessage(n, message))
    return messages


def _next_prefix(prefix: str) -> str:
    """Return the smallest string that is larger than all with this prefix, empty for none."""
    if prefix[-1] == chr(sys.maxunicode):
        return ""
    last = chr(ord(prefix[-1]) + 1)
    return prefix[:-1] + ("\ue000" if "\ud800" <= last <= "\udfff" else last)  # no surrogate
