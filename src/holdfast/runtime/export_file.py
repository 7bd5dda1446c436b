"""The file in which runs travel from store to store: written, and read back with every check.

A gzip stream of JSON lines, so ``zcat FILE | jq`` shows all there is. Bytes are base64; ``null``
stands for a salt and a payload that there are not. Version 1::

    {"format":"holdfast export","v":1}
    {"run":ID,"epoch":E,"events":N,"head":HASH}          for each run, by id:
    {"leaf":TEXT,"salt":B64,"payload":B64}               N times; TEXT is the leaf, byte for byte
    {"message":ID,"topic":…,"at":…,"sender":…,"cause":[…],"payload":B64,"taken":0}
    {"stray":ID}                                         for each id with messages and no run:
    {"message":…}
    {"end":{"runs":R,"events":N,"messages":M},"sha256":HEX}

Runs on behalf of subjects travel sealed: payloads as the store keeps them, without salts. Such a
file is of version 2, and before the first event or message of a subject's stands::

    {"subject":ID,"key":B64,"erased":RUN}                the key as the vault has wrapped it

The runs that tell of erasures and collections come last, for they stand behind what is gone.

A message's ``taken`` is the number of events behind which it had been consumed, 0 while it is
unread. ``sha256`` is of all lines before the last, as they are inside the gzip stream. The same
runs give the same bytes.

Invariant: what ``Reader`` hands out is a valid stream, folded and checked against its leaves, and
no more than ``PART_BYTES`` and one event of it is in memory.
"""

import gzip
import hashlib
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.core.events import Event, commitment, open_leaf
from holdfast.core.limits import PAYLOAD_BYTES_MAX
from holdfast.core.state import RunState, apply
from holdfast.errors import StoreRefused
from holdfast.ports import Letter, Message, Part, Standing
from holdfast.stores.subjects import is_of
from holdfast.subjects import Subject

__all__ = ["Reader", "Writer"]

FORMAT, VERSION, WITH_SUBJECTS = "holdfast export", 1, 2
PART_EVENTS, PART_BYTES = 500, 4_000_000
_LINE_BYTES_MAX = 2 * PAYLOAD_BYTES_MAX
_LEVEL = 6


class Writer:
    """Writes one export to an open file.

    Args:
        file: The file.
        subjects: Whether there may be some.
    """

    def __init__(self, file: BinaryIO, *, subjects: bool = False) -> None:
        self._zip = gzip.GzipFile(
            filename="", fileobj=file, mode="wb", mtime=0, compresslevel=_LEVEL
        )
        self._hash = hashlib.sha256()
        self.counts = {"runs": 0, "events": 0, "messages": 0}
        self._line({"format": FORMAT, "v": WITH_SUBJECTS if subjects else VERSION})

    def run(self, standing: Standing) -> None:
        """Begin a run; its events follow, then its messages."""
        row = standing.row
        self._line({"run": row.run, "epoch": standing.epoch, "events": row.seq, "head": row.head})
        self.counts["runs"] += 1

    def subject(self, subject: Subject) -> None:
        """Write a subject, before the first that is on its behalf."""
        key = b64encode(subject.key).decode()
        self._line({"subject": subject.id, "key": key, "erased": subject.erased})

    def event(self, event: Event) -> None:
        """Write the run's next event."""
        leaf, salt, payload = event.leaf.decode(), _text(event.salt), _text(event.payload)
        self._line({"leaf": leaf, "salt": salt, "payload": payload})
        self.counts["events"] += 1

    def stray(self, run: str) -> None:
        """Begin the messages to a run that there is not."""
        self._line({"stray": run})

    def letter(self, letter: Letter) -> None:
        """Write the next message of an inbox."""
        message = letter.message
        self._line(
            {
                "message": message.id,
                "topic": message.topic,
                "at": message.at,
                "sender": message.sender,
                "cause": message.cause,
                "payload": _text(message.payload),
                "taken": letter.taken,
            }
        )
        self.counts["messages"] += 1

    def end(self) -> None:
        """Write the checksum; without it a file is torn."""
        self._line({"end": self.counts, "sha256": self._hash.hexdigest()})
        self._zip.close()

    def _line(self, facts: dict[str, Any]) -> None:
        line = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._hash.update(line)
        self._zip.write(line)


class Reader:
    """Reads an export once, from its beginning to its end.

    Args:
        path: The file.

    Every method raises StoreRefused, which names the line, for what is torn, altered or foreign.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._hash = hashlib.sha256()
        self.counts = {"runs": 0, "events": 0, "messages": 0}

    def parts(self) -> Iterator[Part | list[Letter] | Subject]:
        """Yield each run in parts, the last of which has its inbox; and messages without a run.

        A subject comes before the first part or message that is on its behalf.
        """
        try:
            yield from self._parts()
        except StoreRefused as error:
            if str(self._path) in str(error):
                raise
            raise self._refusal(str(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise self._refusal(f"not an export ({type(error).__name__}: {error})") from None

    def _parts(self) -> Iterator[Part | list[Letter] | Subject]:
        lines = self._lines()
        self._begin(next(lines, {}))
        facts = next(lines, {})
        while "end" not in facts:
            if "run" in facts:
                self.counts["runs"] += 1
                facts = yield from self._run(facts, lines)
            elif "stray" in facts:
                letters, facts = yield from self._letters(facts["stray"], lines)
                yield letters
            else:
                raise self._refusal(f"expected a run or the end, found {list(facts)[:3]}")
        if facts["end"] != self.counts:
            raise self._refusal(f"the file says {facts['end']}, it holds {self.counts}")
        if next(lines, None) is not None:
            raise self._refusal("something stands behind the end")

    def _run(
        self, head: dict[str, Any], lines: Iterator[dict[str, Any]]
    ) -> Generator[Part | Subject, None, dict[str, Any]]:
        """Yield a run's parts and return the line behind them."""
        run, state, size = head["run"], RunState(), 0
        events: list[Event] = []
        while state.seq < head["events"]:
            facts = yield from self._past_subjects(lines)
            event = self._event(run, facts, state)
            events.append(event)
            size += len(event.leaf) + len(event.payload or b"")
            if (len(events) >= PART_EVENTS or size >= PART_BYTES) and state.seq < head["events"]:
                yield Part(run, state.seq - len(events), events, state.row(), state.epoch)
                events, size = [], 0
        if not events or state.head != head["head"] or head["epoch"] < state.epoch:
            raise self._refusal(
                f"run {run!r} ends with {state.head[:12]}… at epoch {state.epoch}, expected"
                f" {head['head'][:12]}… at most at epoch {head['epoch']}"
            )
        letters, behind = yield from self._letters(run, lines)
        first = state.seq - len(events)
        yield Part(run, first, events, state.row(), head["epoch"], letters, last=True)
        return behind

    def _event(self, run: str, facts: dict[str, Any], state: RunState) -> Event:
        try:
            payload, salt = _bytes(facts["payload"]), _bytes(facts["salt"])
            event = open_leaf(facts["leaf"].encode(), payload=payload, salt=salt)
            if event.run != run:
                raise self._refusal(f"an event of run {event.run!r} among those of {run!r}")
            if event.committed and payload is not None and event.sub:
                if salt is not None or not is_of(event.sub, payload):
                    raise self._refusal(f"a payload that is not sealed for {event.sub!r}")
            elif event.committed and payload is not None:
                if salt is None or commitment(salt, payload) != event.committed:
                    raise self._refusal("the payload is not the one that the leaf commits to")
            elif payload is not None:
                raise self._refusal("a payload that the leaf does not know of")
            apply(state, event)
        except AttributeError as error:
            raise self._refusal(f"not an event: {error}") from None
        self.counts["events"] += 1
        return event

    @staticmethod
    def _past_subjects(
        lines: Iterator[dict[str, Any]],
    ) -> Generator[Subject, None, dict[str, Any]]:
        """Yield the subjects that stand here and return the line behind them."""
        while "subject" in (facts := next(lines, {})):
            key = b64decode(facts["key"], validate=True)
            yield Subject(str(facts["subject"]), key, str(facts["erased"]))
        return facts

    def _letters(
        self, run: str, lines: Iterator[dict[str, Any]]
    ) -> Generator[Subject, None, tuple[list[Letter], dict[str, Any]]]:
        letters: list[Letter] = []
        while "message" in (facts := (yield from self._past_subjects(lines))):
            cause = tuple(c if isinstance(c, int) else (c[0], c[1]) for c in facts["cause"])
            values = facts["message"], facts["topic"], _bytes(facts["payload"]) or b""
            message = Message(run, *values, facts["at"], facts["sender"], cause)
            letters.append(Letter(len(letters) + 1, message, facts["taken"]))
            self.counts["messages"] += 1
        return letters, facts

    def _begin(self, facts: dict[str, Any]) -> None:
        if facts.get("format") != FORMAT:
            raise self._refusal("not an export of holdfast")
        if facts.get("v") not in (VERSION, WITH_SUBJECTS):
            raise self._refusal(
                f"an export of version {facts.get('v')}; this release of holdfast knows versions up"
                f" to {WITH_SUBJECTS}. Hint: upgrade holdfast"
            )

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            with gzip.open(self._path) as file:
                while line := file.readline(_LINE_BYTES_MAX):
                    self._number += 1
                    facts = self._parse(line)
                    if "end" in facts and facts.get("sha256") != self._hash.hexdigest():
                        raise self._refusal("the checksum is another: the file was altered")
                    self._hash.update(line)
                    yield facts
        except gzip.BadGzipFile:
            raise self._refusal("not an export of holdfast, or altered") from None
        except (EOFError, zlib.error):
            raise self._refusal("the file is torn: it ends too early, or was altered") from None
        except OSError as error:
            raise StoreRefused(f"{self._path}: cannot be read: {error.strerror}.") from error

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            facts = json.loads(line)
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            raise self._refusal(f"not a line of an export: {line[:60]!r}")
        return facts

    def _refusal(self, why: str) -> StoreRefused:
        return StoreRefused(f"{self._path}, line {self._number}: {why}. Nothing is taken from it.")


def _text(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text, validate=True)
