"""A store whose payloads of subjects are encrypted: a wrapper around any store.

Below it, an event or message on behalf of a subject has a sealed payload and no salt; above it,
both are as they were recorded. The store itself knows subjects by id and wrapped key and sees no
plaintext, so that it has nothing more to erase than what it was given.

Without the vault, an event of a subject is read as ``sealed``, without its payload, and whatever
would write or deliver for a subject fails with ``VaultMissing``.

Invariant: whoever writes for a subject has read something of it before (a run its first event, a
message the one that it came with), so its key is in memory when an append begins; no append waits.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from holdfast.core.events import Event
from holdfast.core.limits import SALT_BYTES
from holdfast.core.state import RunRow
from holdfast.errors import StoreError, SubjectErased, VaultMissing
from holdfast.ports import (
    Append,
    Claim,
    InboxMessage,
    Message,
    NewRun,
    Part,
    Pause,
    QueueInfo,
    QueueLimits,
    Rest,
    Snapshot,
    Store,
    Transaction,
    WorkerInfo,
)
from holdfast.retention import Ended, Swept
from holdfast.stores.vault import KEY_BYTES, SubjectKey, Vault, is_sealed, place, sealed_for
from holdfast.subjects import Erasure, Subject

__all__ = ["VaultedStore"]


class VaultedStore:
    """Keeps the contract of ``holdfast.ports.Store``; see the module.

    Args:
        store: The store below.
        vault: Has the key of the subjects' keys.
    """

    def __init__(self, store: Store, vault: Vault) -> None:
        self.inner = store
        """The store below: it gives and takes payloads as they are kept."""
        self.url = store.url
        self.signed = store.signed
        self._vault = vault
        self._keys: dict[str, SubjectKey] = {}
        """By subject, of those that this process has met; some 300 bytes each."""

    async def create(self, new: NewRun, deliver: Sequence[Message] = ()) -> bool:
        for sub in {event.sub for event in new.events} | {message.sub for message in deliver}:
            if sub:
                await self._key(sub, create=True)
        return await self.inner.create(self._sealed_run(new), self._sealed_messages(deliver))

    def append(self, change: Append) -> Awaitable[None]:
        try:
            return self.inner.append(self._sealed_change(change))
        except StoreError as error:
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
            answer.exception()  # nobody has to await it
            return answer

    async def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        await self.inner.transact(
            run, epoch, expected_seq, lambda transaction: self._sealed_change(body(transaction))
        )

    async def deliver(self, messages: Sequence[Message]) -> list[bool]:
        for sub in {message.sub for message in messages if message.sub}:
            await self._key(sub)
        return await self.inner.deliver(self._sealed_messages(messages))

    async def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_us: int,
        agents: Sequence[str],
        limit: int,
        run: str = "",
        family: str = "",
    ) -> list[Claim]:
        return await self.inner.claim(
            worker, now=now, lease_us=lease_us, agents=agents, limit=limit, run=run, family=family
        )

    async def pause(self, pause: Pause) -> bool:
        return await self.inner.pause(pause)

    async def resume(self, kind: str, name: str) -> bool:
        return await self.inner.resume(kind, name)

    async def pauses(self) -> list[Pause]:
        return await self.inner.pauses()

    async def rest(self, provider: str, *, now: int, rest_us: int) -> None:
        await self.inner.rest(provider, now=now, rest_us=rest_us)

    async def rests(self, *, now: int) -> list[Rest]:
        return await self.inner.rests(now=now)

    async def probe(self, provider: str, *, now: int, rest_us: int) -> bool:
        return await self.inner.probe(provider, now=now, rest_us=rest_us)

    async def limit(self, limits: QueueLimits) -> None:
        await self.inner.limit(limits)

    async def queues(self, *, now: int) -> list[QueueInfo]:
        return await self.inner.queues(now=now)

    async def register(self, worker: str, *, about: str, now: int, lease_us: int) -> None:
        await self.inner.register(worker, about=about, now=now, lease_us=lease_us)

    async def workers(self, *, now: int) -> list[WorkerInfo]:
        return await self.inner.workers(now=now)

    async def renew(self, worker: str, *, now: int, lease_us: int) -> bool:
        return await self.inner.renew(worker, now=now, lease_us=lease_us)

    async def release(self, worker: str) -> None:
        await self.inner.release(worker)

    async def read(
        self, run: str, *, after: int = 0, until: int = 0, limit: int = 0
    ) -> list[Event]:
        events = await self.inner.read(run, after=after, until=until, limit=limit)
        return [await self._opened(event) if event.sub else event for event in events]

    async def read_log(self, after: int, *, limit: int) -> list[tuple[int, Event]]:
        found = await self.inner.read_log(after, limit=limit)
        return [(pos, await self._opened(e) if e.sub else e) for pos, e in found]

    async def unread(self, run: str, *, after: int = 0) -> list[InboxMessage]:
        return await self._opened_mail(await self.inner.unread(run, after=after))

    async def mail(self, worker: str, *, after: int) -> tuple[int, list[InboxMessage]]:
        latest, messages = await self.inner.mail(worker, after=after)
        return latest, await self._opened_mail(messages)

    async def row(self, run: str) -> RunRow | None:
        return await self.inner.row(run)

    async def rows(self, **facts: Any) -> list[RunRow]:
        return await self.inner.rows(**facts)

    async def ready(self, agents: Sequence[str], *, now: int) -> bool:
        return await self.inner.ready(agents, now=now)

    async def held(self, worker: str) -> list[Claim]:
        return await self.inner.held(worker)

    async def next_wake(self, agents: Sequence[str], *, after: int = 0) -> int:
        return await self.inner.next_wake(agents, after=after)

    async def changed(self, timeout_s: float, *, ready: bool = False) -> None:
        await self.inner.changed(timeout_s, ready=ready)

    def snapshot(self, *, now: int) -> AbstractAsyncContextManager[Snapshot]:
        return self.inner.snapshot(now=now)

    async def receive(self, part: Part) -> None:
        await self.inner.receive(part)

    async def subject(self, subject: str) -> Subject | None:
        return await self.inner.subject(subject)

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:
        return await self.inner.subjects(after=after, limit=limit)

    async def add_subject(self, subject: Subject) -> Subject:
        return await self.inner.add_subject(subject)

    async def erase(self, subject: str, told: NewRun) -> Erasure:
        try:
            return await self.inner.erase(subject, told)
        finally:
            self._keys.pop(subject, None)

    async def ended(self, *, before: int, after: str = "", limit: int) -> list[Ended]:
        return await self.inner.ended(before=before, after=after, limit=limit)

    async def collect(self, runs: Sequence[str], told: str) -> None:
        await self.inner.collect(runs, told)

    async def sweep(self) -> Swept:
        return await self.inner.sweep()

    async def close(self) -> None:
        await self.inner.close()

    # Keys

    async def _key(self, sub: str, *, create: bool = False) -> SubjectKey:
        """Return a subject's key, once the store and the vault were asked for it."""
        if (key := self._keys.get(sub)) is not None:
            return key
        known = await self.inner.subject(sub)
        if known is None and create:
            new = os.urandom(KEY_BYTES)
            fresh = not await self.inner.subjects(limit=1)
            wrapped = self._vault.wrap(sub, new, create=fresh)
            known = await self.inner.add_subject(Subject(sub, wrapped))
        if known is None:
            raise StoreError(f"{self.url}: there is no subject {sub!r}, yet a payload of it.")
        if not known.key:
            raise SubjectErased(
                f"subject {sub!r} was erased by {known.erased}; nothing may be recorded under it"
                " any more. Hint: give the person a new pseudonym.",
                subject=sub,
            )
        key = self._keys[sub] = SubjectKey(sub, self._vault.unwrap(sub, known.key))
        return key

    def _held_key(self, sub: str) -> SubjectKey:
        key = self._keys.get(sub)
        if key is None:
            raise VaultMissing(f"subject {sub!r}: its key is not at hand. Nothing was written.")
        return key

    # On the way down

    def _sealed_change(self, change: Append) -> Append:
        events = self._sealed_events(change.events)
        deliver = self._sealed_messages(change.deliver)
        create = change.create and [self._sealed_run(new) for new in change.create]
        if events is change.events and deliver is change.deliver and not create:
            return change
        return replace(change, events=events, deliver=deliver, create=create)

    def _sealed_run(self, new: NewRun) -> NewRun:
        events = self._sealed_events(new.events)
        return new if events is new.events else NewRun(new.row, events)

    def _sealed_events(self, events: Sequence[Event]) -> Sequence[Event]:
        if not any(event.sub for event in events):
            return events
        return [self._sealed(event) for event in events]

    def _sealed(self, event: Event) -> Event:
        if not event.sub or event.payload is None:
            return event
        assert event.salt is not None
        where = place("event", event.run, event.seq)
        sealed = self._held_key(event.sub).seal(event.payload, event.salt, where)
        return replace(event, payload=sealed, salt=None)

    def _sealed_messages(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not any(message.sub for message in messages):
            return messages
        return [self._sealed_message(message) for message in messages]

    def _sealed_message(self, message: Message) -> Message:
        if not message.sub:
            return message
        where, salt = place("inbox", message.to, message.id), os.urandom(SALT_BYTES)
        sealed = self._held_key(message.sub).seal(message.payload, salt, where)
        return replace(message, payload=sealed, sub="")

    # On the way up

    async def _opened(self, event: Event) -> Event:
        gone = event.payload is None
        if not event.committed or (event.payload is not None and not is_sealed(event.payload)):
            return event
        try:
            key = await self._key(event.sub)
        except VaultMissing:
            return replace(event, payload=None, sealed=not gone, collected=gone)
        except SubjectErased:  # perhaps between the two reads
            return replace(event, payload=None)
        if event.payload is None:
            return replace(event, collected=True)
        payload, salt = key.open(event.payload, place("event", event.run, event.seq))
        return replace(event, payload=payload, salt=salt)

    async def _opened_mail(self, messages: list[InboxMessage]) -> list[InboxMessage]:
        return [
            InboxMessage(unread.n, await self._opened_message(unread.message))
            if is_sealed(unread.message.payload)
            else unread
            for unread in messages
        ]

    async def _opened_message(self, message: Message) -> Message:
        sub = sealed_for(message.payload)
        key = await self._key(sub)
        payload, _ = key.open(message.payload, place("inbox", message.to, message.id))
        return replace(message, payload=payload, sub=sub)
