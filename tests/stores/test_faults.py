"""The conformance suite sees a store that breaks a promise.

*Goal*: no promise of the port is tested by a test that cannot fail. *Method*: each fault is the
memory store with one method spoiled, as somebody might get it wrong. Every fault must be seen by a
directed test, and by the random walk unless it is of a kind that the walk does not look for.
"""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast.errors import Conflict
from holdfast.ports import InboxMessage
from holdfast.stores.memory import MemoryStore
from holdfast.testing.conformance import StoreConformance, store_machine


class NoFence(MemoryStore):
    def _check(self, run, epoch, expected_seq):
        super()._check(run, self._runs[run].epoch if run in self._runs else epoch, expected_seq)

    def _verify(self, change):
        super()._verify(replace(change, events=(), row=self._runs[change.run].row)) if False else None


class ConflictBeforeFence(MemoryStore):
    def _check(self, run, epoch, expected_seq):
        if run in self._runs and self._runs[run].row.seq != expected_seq:
            raise Conflict
        super()._check(run, epoch, expected_seq)


class NoEpoch(MemoryStore):
    async def claim(self, worker, **facts):
        claims = await super().claim(worker, **facts)
        for claimed in claims:
            self._runs[claimed.row.run].epoch -= 1
        return [replace(claimed, epoch=claimed.epoch - 1) for claimed in claims]


class DeliversBeforeItChecks(MemoryStore):
    async def append(self, change):
        for message in change.deliver:
            self._deliver(message)
        await super().append(change)


class CreatesBeforeItChecks(MemoryStore):
    async def append(self, change):
        for new in change.create:
            self._create(new)
        await super().append(change)


class LosesWakeUps(MemoryStore):
    def _write(self, change):
        super()._write(replace(change, seen=10**6))


class WakesForEveryMessage(MemoryStore):
    def _write(self, change):
        super()._write(replace(change, seen=0))


class ClaimsTheEnded(MemoryStore):
    async def claim(self, worker, **facts):
        rows = {name: run.row for name, run in self._runs.items()}
        for run in self._runs.values():
            if run.row.status in ("succeeded", "failed", "cancelled"):
                run.row = run.row._replace(status="idle")
        claims = await super().claim(worker, **facts)
        for name, run in self._runs.items():
            run.row = rows[name]
        return claims


class NeverFrees(MemoryStore):
    async def claim(self, worker, **facts):
        leases, self._leases = self._leases, {}
        claims = await super().claim(worker, **facts)
        self._leases = leases | self._leases
        return claims


class RenewsTheDead(MemoryStore):
    async def renew(self, worker, *, now, lease_us):
        self._leases[worker] = now + lease_us
        return True


class ClaimDoesNotRenew(MemoryStore):
    async def claim(self, worker, **facts):
        until = self._leases.get(worker, 0)
        claims = await super().claim(worker, **facts)
        if until > facts["now"]:
            self._leases[worker] = until
        return claims


class ReleaseForgets(MemoryStore):
    async def release(self, worker):
        pass


class TakesTheHeldByName(MemoryStore):
    async def claim(self, worker, *, run="", **facts):
        if run in self._runs:
            self._runs[run].worker = ""
        return await super().claim(worker, run=run, **facts)


class NamedMustBeReady(MemoryStore):
    async def claim(self, worker, *, run="", **facts):
        held = self._runs.get(run)
        if held and self._ready_since(held, facts["now"]) is None:
            return []
        return await super().claim(worker, run=run, **facts)


class LatestFirst(MemoryStore):
    def _ready_since(self, held, now):
        since = super()._ready_since(held, now)
        return None if since is None else -since


class WakesLate(MemoryStore):
    def _ready_since(self, held, now):
        return super()._ready_since(held, now - 1)


class WakesForTheHeld(MemoryStore):
    async def next_wake(self, agents):
        waiting = [r.row.wake_at for r in self._runs.values() if r.row.wake_at]
        return min(waiting, default=0)


class ForgetsConsumedIds(MemoryStore):
    def _write(self, change):
        for n in change.consume:
            message = self._inboxes[change.run][n]
            self._known.discard((message.to, message.id))
            self._known.add((message.to, f"{n}"))
        super()._write(change)


class ConsumesNothing(MemoryStore):
    def _write(self, change):
        super()._write(replace(change, consume=()))


class LatestMessageFirst(MemoryStore):
    async def unread(self, run, *, after=0):
        return (await super().unread(run, after=after))[::-1]


class RenumbersTheUnread(MemoryStore):
    async def unread(self, run, *, after=0):
        unread = await super().unread(run)
        return [InboxMessage(n, m.message) for n, m in enumerate(unread, 1) if n > after]


class DropsMessagesOfAnOldRun(MemoryStore):
    async def create(self, new, deliver=()):
        return await super().create(new, deliver) if new.row.run not in self._runs else False


class DropsMessagesWithoutARun(MemoryStore):
    def _deliver(self, message):
        return message.to in self._runs and super()._deliver(message)


class ReplacesTheRun(MemoryStore):
    def _create(self, new):
        taken = self._runs.pop(new.row.run, None)
        super()._create(new)
        return taken is None


class LeavesRowsOfAFailedBody(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        def swallowing(transaction):
            try:
                return body(transaction)
            except Exception as error:
                failed.append(error)
                return replace(nothing, run=run, epoch=epoch, expected_seq=expected_seq)

        failed = []
        held = self._runs[run]
        from holdfast.ports import Append

        nothing = Append(run, epoch, expected_seq, (), held.row)
        await super().transact(run, epoch, expected_seq, swallowing)
        if failed:
            raise failed[0]


class EntersTheBodyFirst(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        with self._transaction() as transaction:
            change = body(transaction)
            self._check(run, epoch, expected_seq)
            self._verify(change)
        self._write(change)


class TransactsWithoutTables(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        self._check(run, epoch, expected_seq)
        changes = []
        try:
            with self._transaction() as transaction:
                changes.append(body(transaction))
                raise KeyError
        except KeyError:
            pass
        self._write(changes[0])


class LetsTheBodyCommit(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        def free(transaction):
            self._tables.set_authorizer(None)
            return body(transaction)

        await super().transact(run, epoch, expected_seq, free)


class AppendsInAnyOrder(MemoryStore):
    async def append(self, change):
        for _ in range(change.expected_seq % 3):
            await asyncio.sleep(0)
        await super().append(change)


class NullIsEmpty(MemoryStore):
    async def read(self, run, **facts):
        events = await super().read(run, **facts)
        return [replace(e, payload=e.payload or None) for e in events]


class LosesSalts(MemoryStore):
    async def read(self, run, **facts):
        return [replace(e, salt=None) for e in await super().read(run, **facts)]


class KeepsTheOldRow(MemoryStore):
    def _write(self, change):
        row = self._runs[change.run].row
        super()._write(change)
        if not change.release:
            self._runs[change.run].row = change.row._replace(updated_at=row.updated_at)


class LogSkips(MemoryStore):
    async def read_log(self, after, *, limit):
        page = await super().read_log(after, limit=limit + 1)
        return page[1:] if len(page) > limit else page


class LogRepeats(MemoryStore):
    async def read_log(self, after, *, limit):
        return await super().read_log(max(after - 1, 0), limit=limit)


class LogLacksChildren(MemoryStore):
    def _write(self, change):
        super()._write(change)
        for new in change.create:
            self._log = [event for event in self._log if event.run != new.row.run]


class PrefixIsAPattern(MemoryStore):
    async def rows(self, *, prefix="", limit=100, **facts):
        rows = await super().rows(limit=10**6, **facts)
        like = prefix.replace("%", "").lower()
        return [row for row in rows if row.run.lower().startswith(like)][:limit]


class OldestFirst(MemoryStore):
    async def rows(self, **facts):
        return (await super().rows(**facts))[::-1]


class PagesOverlap(MemoryStore):
    async def rows(self, *, after=None, **facts):
        return await super().rows(after=after and (after[0], after[1] + "\0"), **facts)


class UntilIsExclusive(MemoryStore):
    async def read(self, run, *, until=0, **facts):
        return await super().read(run, until=max(until - 1, 0), **facts)


class NeverTells(MemoryStore):
    def _tell(self):
        pass


ALL = [c for c in MemoryStore.__subclasses__()]


@pytest.mark.parametrize("fault", ALL, ids=lambda f: f.__name__)
def test_directed(fault):
    seen = []
    for name in dir(StoreConformance):
        if name.startswith("test_"):
            store = fault()

            async def open_store(store=store):
                return store

            try:
                getattr(StoreConformance, name)(StoreConformance(), open_store)
            except Exception as e:
                seen.append(name)
    print("DIRECTED", fault.__name__, seen)
    assert seen


@pytest.mark.parametrize("fault", ALL, ids=lambda f: f.__name__)
def test_machine(fault):
    async def make():
        return fault()

    with pytest.raises(Exception):
        run_state_machine_as_test(
            store_machine(make),
            settings=settings(phases=[Phase.generate], derandomize=True, deadline=None, database=None),
        )
