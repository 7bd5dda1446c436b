"""Subjects of the reference store: the part of ``memory.py`` that an erasure takes."""

from typing import Any

from holdfast.core.events import Event
from holdfast.core.state import ENDED
from holdfast.ports import Message, NewRun
from holdfast.stores.subjects import check_erasable, check_unused, is_of, without
from holdfast.subjects import Erasure, Subject

__all__ = ["SubjectsInMemory"]


class SubjectsInMemory:
    """What a ``MemoryStore`` knows of subjects; its other dictionaries are described there."""

    _subjects: dict[str, Subject]
    _log: list[Event]
    _runs: dict[str, Any]
    _inboxes: Any

    async def subject(self, subject: str) -> Subject | None:
        return self._subjects.get(subject)

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:
        return [known for id_, known in sorted(self._subjects.items()) if id_ > after][:limit]

    async def add_subject(self, subject: Subject) -> Subject:
        return self._subjects.setdefault(subject.id, subject)

    async def erase(self, subject: str, told: NewRun) -> Erasure:
        check_erasable(subject, self._subjects.get(subject))
        holders = {event.run for event in self._log if event.sub == subject}
        unread = [(run, n) for run, n, message in self._unread() if is_of(subject, message.payload)]
        rows = [self._runs[run].row for run in {*holders, *dict(unread)} & self._runs.keys()]
        check_unused(subject, [(r.run, r.status) for r in rows if r.status not in ENDED])
        payloads = sum(e.sub == subject and e.payload is not None for e in self._log)
        self._log = without({subject}, self._log)
        for run in holders:
            self._runs[run].events = without({subject}, self._runs[run].events)
        for run, n in unread:
            del self._inboxes[run][n]
        created = self._create(told)
        assert created, f"{told.row.run} is taken"
        self._subjects[subject] = Subject(subject, b"", told.row.run)
        self._tell()
        return Erasure(len(holders), payloads, len(unread), scrubbed=True)

    def _unread(self) -> list[tuple[str, int, Message]]:
        inboxes = self._inboxes.items()
        return [(run, n, message) for run, inbox in inboxes for n, message in inbox.items()]

    def _create(self, new: NewRun) -> bool:
        raise NotImplementedError

    def _tell(self, *, ready: bool = True) -> None:
        raise NotImplementedError
