"""Subjects in a store file: who they are, which runs hold payloads of theirs, how one is erased.

An erasure is one transaction: the key's bytes are overwritten where they stand (rows of
``subject_key`` are equally long and are never moved), payloads and chunks under it are dropped with
``secure_delete``, and the run that tells of it is created. What the transaction cannot reach is the
write-ahead log, where older pages linger until it is cut to nothing: ``scrub`` does that behind the
commit, and whoever opens the file next does it if that was cut off, for ``subject.scrubbed`` stays
0 until it is done.
"""

import json
from collections.abc import Sequence
from typing import Any

import apsw

from holdfast.core.events import Event
from holdfast.core.state import ENDED
from holdfast.ports import Part
from holdfast.stores.payloads import CHUNKED, GONE, inflate, load, parse_node, parse_root
from holdfast.stores.subjects import check_erasable, check_open, check_unused, is_of, without
from holdfast.stores.vault import WRAPPED_BYTES
from holdfast.subjects import Erasure, Subject

__all__ = ["KNOWN", "LISTED", "Subjects", "scrub", "subject_of"]

KNOWN = """
SELECT id, key, erased FROM subject JOIN subject_key ON subject = n WHERE id = ?"""
LISTED = """
SELECT id, key, erased FROM subject JOIN subject_key ON subject = n
WHERE id > ? ORDER BY id LIMIT ?"""
_HOLDERS = """
SELECT run.n, run.id, status FROM subject_run JOIN run ON run.n = subject_run.run
WHERE subject = ?"""
_UNREAD = """
SELECT inbox.n, inbox.run, form, payload, status FROM inbox LEFT JOIN run ON run.id = inbox.run
WHERE taken IS NULL AND payload IS NOT NULL AND (form = 2 OR substr(payload, 1, 1) = x'01')"""
_DESTROYED = bytes(WRAPPED_BYTES)


def subject_of(id_: str, key: bytes, erased: str) -> Subject:
    """Return a subject from a row of KNOWN or LISTED."""
    return Subject(id_, b"" if key == _DESTROYED else key, erased)


def scrub(connection: apsw.Connection) -> bool:
    """Cut the write-ahead log to nothing if an erasure wants it; tell whether none does any more.

    No transaction may be open.
    """
    wanted = connection.execute("SELECT 1 FROM subject WHERE scrubbed = 0 LIMIT 1").fetchall()
    if not wanted:
        return True
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except (apsw.BusyError, apsw.LockedError):
        return False  # somebody still reads what was before
    connection.execute("UPDATE subject SET scrubbed = 1 WHERE scrubbed = 0")
    return True


class Subjects:
    """The writes, on the connection of the writer, inside whatever transaction is open there."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._noted: set[tuple[str, int]] = set()
        """(subject, run's number), of those seen lately."""

    def forget(self) -> None:
        """Forget what the transaction that was undone has told."""
        self._noted.clear()

    def _all(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self._execute(statement, values).fetchall()

    def add(self, subject: Subject) -> Subject:
        """Keep a subject unless there is one of that id; return the one that there is."""
        if not self._all(KNOWN, (subject.id,)):
            values = (subject.id, subject.erased)
            self._execute("INSERT INTO subject (id, erased, scrubbed) VALUES (?, ?, 1)", values)
            number = self._connection.last_insert_rowid()
            key = subject.key or _DESTROYED
            self._execute("INSERT INTO subject_key (subject, key) VALUES (?, ?)", (number, key))
        return subject_of(*self._all(KNOWN, (subject.id,))[0])

    def check_open(self, events: Sequence[Event]) -> None:
        """Check that none of the events is on behalf of a subject that was erased."""
        for sub in {event.sub for event in events if event.sub}:
            for row in self._all(KNOWN, (sub,)):
                check_open(subject_of(*row))

    def note(self, number: int, events: Sequence[Event]) -> None:
        """Note for whom a run holds payloads."""
        for event in events:
            if event.sub and (event.sub, number) not in self._noted:
                statement = """
                INSERT INTO subject_run SELECT n, ? FROM subject WHERE id = ?
                ON CONFLICT DO NOTHING"""
                self._execute(statement, (number, event.sub))
                self._noted.add((event.sub, number))

    def without_erased(self, part: Part) -> Sequence[Event]:
        """Return the events of a part, without the payloads that were erased here."""
        gone = {
            sub
            for sub in {event.sub for event in part.events if event.sub}
            for row in self._all(KNOWN, (sub,))
            if not subject_of(*row).key
        }
        if not gone:
            return part.events
        return without(gone, part.events)

    def erase(self, subject: str) -> Erasure:
        """Destroy a subject's key, payloads and unread messages, or raise and change nothing."""
        found = self._all(KNOWN, (subject,))
        check_erasable(subject, subject_of(*found[0]) if found else None)
        ((number,),) = self._all("SELECT n FROM subject WHERE id = ?", (subject,))
        holders = self._all(_HOLDERS, (number,))
        unread = [row for row in self._all(_UNREAD) if self._is_of(subject, row)]
        alive = [(run, status) for _, run, status in holders]
        alive += [(run, status) for _, run, _, _, status in unread if status is not None]
        check_unused(subject, [(run, status) for run, status in alive if status not in ENDED])
        self._execute("PRAGMA secure_delete = ON")
        self._execute("UPDATE subject_key SET key = ? WHERE subject = ?", (_DESTROYED, number))
        payloads = sum(self._drop_events(subject, run) for run, _, _ in holders)
        for n, _, form, stored, _ in unread:
            self._drop_chunks(form, stored)
            self._execute(
                "UPDATE inbox SET taken = 0, form = ?, payload = NULL WHERE n = ?", (GONE, n)
            )
        return Erasure(len(holders), payloads, len(unread), scrubbed=False)

    def erased(self, subject: str, run: str) -> None:
        """Note which run tells of an erasure."""
        self._execute("UPDATE subject SET erased = ?, scrubbed = 0 WHERE id = ?", (run, subject))

    def _is_of(self, subject: str, row: tuple[Any, ...]) -> bool:
        _, _, form, stored, _ = row
        return is_of(subject, load(form, stored, self._fetch))

    def _drop_events(self, subject: str, run: int) -> int:
        statement = "SELECT pos, leaf, form, payload FROM event WHERE run = ? AND payload NOTNULL"
        dropped = 0
        for pos, leaf, form, stored in self._all(statement, (run,)):
            if json.loads(leaf).get("sub") == subject:
                self._drop_chunks(form, stored)
                self._execute(
                    "UPDATE event SET salt = NULL, form = ?, payload = NULL WHERE pos = ?",
                    (GONE, pos),
                )
                dropped += 1
        return dropped

    def _drop_chunks(self, form: int, stored: bytes) -> None:
        """Remove the chunks of a payload that is under the key, which no other's can share."""
        if form != CHUNKED:
            return
        height, _, numbers = parse_root(stored)
        while numbers:
            below: list[int] = []
            for number in numbers:
                if height:
                    below += parse_node(self._fetch(number))
                self._execute("DELETE FROM chunk WHERE n = ?", (number,))
            numbers, height = below, height - 1

    def _fetch(self, number: int) -> bytes:
        """Return a chunk; empty when an earlier payload of the subject has taken it along."""
        found = self._all("SELECT form, data FROM chunk WHERE n = ?", (number,))
        return inflate(*found[0]) if found else b""
