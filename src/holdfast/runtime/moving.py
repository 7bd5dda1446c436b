"""Runs move between stores: out of a snapshot into a file, and from a file into any store.

An export is taken from one moment, so what one run has sent and another not yet received is in it
once. A run that a worker is just advancing is refused: what the worker does next would be done
again by whoever takes the copy on. An import is checked as a whole before anything is written, is
taken up where it stopped, and changes nothing when it is repeated.

Invariant: of a stream that is there and the file's, one begins with the other, event for event, or
the import is refused. So a run may move on, be carried on, and move back; the longer one stands.
"""

import os
from collections.abc import AsyncIterator, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from holdfast.core.state import ENDED
from holdfast.errors import RunUnknown, StoreRefused, UsageError
from holdfast.ports import INCOMING, Letter, Part, Snapshot, Standing, Store
from holdfast.retention import COLLECTED_RUNS
from holdfast.runtime.births import ERASED_RUNS
from holdfast.runtime.export_file import Reader, Writer
from holdfast.stores.vault import is_sealed, sealed_for
from holdfast.subjects import Subject

__all__ = ["Exported", "Imported", "export_runs", "import_runs"]

_PAGE = 200
_EVENTS_MAX, _PAGE_BYTES = 256, 1_000_000
"""Events are read in pages that grow while they stay small: each may be of the largest size."""
_SHOWN_MAX = 5


@dataclass(slots=True)
class Exported:
    """What an export holds; ``unended`` counts runs that may yet be carried on."""

    runs: int = 0
    events: int = 0
    messages: int = 0
    unended: int = 0


@dataclass(slots=True)
class Imported:
    """What an import has come to: ``there`` counts the runs which the store had already."""

    runs: int = 0
    there: int = 0
    events: int = 0
    messages: int = 0


async def export_runs(store: Store, path: Path, runs: Sequence[str] = (), *, now: int) -> Exported:
    """Write runs, and those that they have started, to a file; all that a store has, without any.

    Raises:
        UsageError: the file exists, or a worker holds one of the runs.
        RunUnknown: there is no such run.
    """
    exported = Exported()
    with _new_file(path) as file:
        async with store.snapshot(now=now) as snapshot:
            await _refuse_held(snapshot, runs)
            writer = Writer(file, subjects=bool(await store.subjects(limit=1)))
            copying = _Copying(store, snapshot, writer)
            async for standing in _standing(snapshot, runs):
                if standing.row.run.startswith((COLLECTED_RUNS, ERASED_RUNS)):
                    continue
                await copying.run(standing)
                exported.unended += standing.row.status not in ENDED
            await copying.told(every=not runs)
            if not runs:
                await copying.strays()
            writer.end()
    exported.runs, exported.events, exported.messages = writer.counts.values()
    return exported


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Make a file for its owner alone, which has its name once it is whole and on disk."""
    if path.exists():
        raise UsageError(f"{path} exists. Hint: name a file that does not")
    part = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


async def import_runs(store: Store, path: Path) -> Imported:
    """Take in what a file holds and the store has not.

    Raises:
        StoreRefused: the file is torn, altered or foreign, or the store has one of its runs
            otherwise; nothing was written.
        Conflict: a worker of this store holds a run that the file has more of.
    """
    half = {claim.row.run for claim in await store.held(INCOMING)}
    gone: set[str] = set()
    for part in Reader(path).parts():
        if isinstance(part, Part):
            await _compare(store, part)
        elif isinstance(part, Subject):
            await _compare_subject(store, part)
    imported, begun = Imported(), ""
    for part in Reader(path).parts():
        if isinstance(part, Subject):
            if not (await store.add_subject(part)).key:
                gone.add(part.id)
            continue
        if not isinstance(part, Part):
            arrived = await store.deliver([letter.message for letter in _without(gone, part)])
            imported.messages += sum(arrived)
            continue
        row = await store.row(part.run)
        known = row.seq if row else 0
        left = [event for event in part.events if event.seq > known]
        if left or (part.last and (part.run == begun or part.run in half)):
            begun = part.run
            behind, inbox = part.row.seq - len(left), _without(gone, part.inbox)
            await store.receive(replace(part, events=left, expected_seq=behind, inbox=inbox))
            imported.events += len(left)
            imported.messages += len(part.inbox)
            imported.runs += part.last
        else:
            imported.there += part.last
    return imported


async def _compare(store: Store, part: Part) -> None:
    """Refuse a part of a run that the store has otherwise."""
    mine = await store.read(part.run, after=part.expected_seq, until=part.row.seq)
    for event, own in zip(part.events, mine, strict=False):
        if event.leaf != own.leaf:
            raise StoreRefused(
                f"run {part.run!r} is there already and is another one from event {event.seq} on:"
                f" the file has {event.hash[:12]}…, the store {own.hash[:12]}…. Nothing was"
                " changed. Hint: import into another store.",
                run=part.run,
                seq=event.seq,
            )


async def _compare_subject(store: Store, subject: Subject) -> None:
    """Refuse a subject that the store has with another key, or has not erased as the file has."""
    known = await store.subject(subject.id)
    if known is None or not known.key or known.key == subject.key:
        return
    if subject.key:
        why, hint = "has another key here", "import into another store"
    else:
        why, hint = "was erased where the file comes from", "erase it here too, then import"
    raise StoreRefused(f"subject {subject.id!r} {why}. Nothing was changed. Hint: {hint}.")


def _without(gone: Container[str], letters: Sequence[Letter]) -> list[Letter]:
    """Return messages without the unread ones of subjects that were erased."""
    return [
        letter
        for letter in letters
        if not is_sealed(letter.message.payload) or sealed_for(letter.message.payload) not in gone
    ]


async def _refuse_held(snapshot: Snapshot, runs: Sequence[str]) -> None:
    held: list[Standing] = []
    async for standing in _standing(snapshot, runs):
        if standing.worker and standing.row.status not in ENDED:
            held.append(standing)
            if len(held) > _SHOWN_MAX:
                break
    if not held:
        return
    shown = ", ".join(f"{s.row.run!r} (by {s.worker})" for s in held[:_SHOWN_MAX])
    half = any(standing.worker == INCOMING for standing in held)
    hint = "import the file again first" if half else "drain the workers first, or holdfast pause"
    raise UsageError(
        f"held, and so not to be copied: {shown}{' and more' if len(held) > _SHOWN_MAX else ''}."
        f" Hint: {hint}"
    )


async def _standing(snapshot: Snapshot, runs: Sequence[str]) -> AsyncIterator[Standing]:
    """Yield runs and the families they have started, each once; all there are, without any."""
    if not runs:
        async for standing in _page(snapshot, ""):
            yield standing
        return
    for run in sorted(set(runs)):
        if any(run.startswith(f"{other}/") for other in runs):
            continue  # it comes with its family
        found = await snapshot.runs(prefix=run, limit=1)
        if not found or found[0].row.run != run:
            raise RunUnknown(f"there is no run {run!r}. Hint: holdfast ls")
        yield found[0]
        async for standing in _page(snapshot, f"{run}/"):
            yield standing


async def _page(snapshot: Snapshot, prefix: str) -> AsyncIterator[Standing]:
    after = ""
    while page := await snapshot.runs(prefix=prefix, after=after, limit=_PAGE):
        for standing in page:
            yield standing
        after = page[-1].row.run


class _Copying:
    """Writes runs of a snapshot, each subject before the first that is on its behalf."""

    def __init__(self, store: Store, snapshot: Snapshot, writer: Writer) -> None:
        self._store = store
        self._snapshot = snapshot
        self._writer = writer
        self._written: set[str] = set()
        """Subjects and runs."""
        self._told: list[str] = []
        """Runs that tell why payloads are gone."""
        self._gone = False
        """Whether a payload was not there, for whatever reason."""

    async def run(self, standing: Standing) -> None:
        """Write a run and its inbox."""
        snapshot, writer = self._snapshot, self._writer
        run, seq, limit = standing.row.run, 0, 1
        self._written.add(run)
        writer.run(standing)
        while seq < standing.row.seq:
            size = 0
            for event in await snapshot.events(run, after=seq, limit=limit):
                await self._subject(event.sub)
                self._gone = self._gone or event.withheld != ""
                writer.event(event)
                seq, size = event.seq, size + len(event.payload or b"")
            limit = min(2 * limit, _EVENTS_MAX) if size < _PAGE_BYTES else 1
        await self._inbox(run)

    async def told(self, *, every: bool) -> None:
        """Write the runs that tell why payloads are gone, behind all those that lack some."""
        kinds = [ERASED_RUNS] if every else []
        if every or self._gone:
            kinds.append(COLLECTED_RUNS)
        for kind in kinds:
            async for standing in _page(self._snapshot, kind):
                self._told.append(standing.row.run)
        for run in self._told:
            found = await self._snapshot.runs(prefix=run, limit=1)
            if found and found[0].row.run == run and run not in self._written:
                await self.run(found[0])

    async def strays(self) -> None:
        """Write the messages to runs that there are not."""
        after = ""
        while page := await self._snapshot.strays(after=after, limit=_PAGE):
            for run in page:
                self._writer.stray(run)
                await self._inbox(run)
            after = page[-1]

    async def _inbox(self, run: str) -> None:
        async for letter in _letters(self._snapshot, run):
            if is_sealed(letter.message.payload):
                await self._subject(sealed_for(letter.message.payload))
            self._writer.letter(letter)

    async def _subject(self, sub: str) -> None:
        if not sub or f"$subject {sub}" in self._written:
            return
        self._written.add(f"$subject {sub}")
        subject = await self._store.subject(sub)
        if subject is None:
            raise StoreRefused(f"subject {sub!r} is unknown, yet there are payloads of it")
        self._writer.subject(subject)
        if subject.erased:
            self._told.append(subject.erased)


async def _letters(snapshot: Snapshot, run: str) -> AsyncIterator[Letter]:
    after = 0
    while page := await snapshot.inbox(run, after=after, limit=_PAGE):
        for letter in page:
            yield letter
        after = page[-1].n
