"""The conformance suite sees every store that breaks a promise.

*Goal*: no test of the suite is one that cannot fail. *Method*: each fault is the memory store with
one thing done as somebody might get it wrong. It must be seen by the directed test named beside it,
every directed test must have such a fault; the subtler ones must be seen by the random walk too.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast.core.state import ENDED
from holdfast.errors import Conflict
from holdfast.ports import Append, InboxMessage
from holdfast.retention import Ended
from holdfast.stores.lanes import Room
from holdfast.stores.memory import MemoryStore
from holdfast.testing import streams
from holdfast.testing.conformance import StoreConformance, store_machine

FAULTS: list[tuple[type[MemoryStore], str]] = []
WALKED: list[type[MemoryStore]] = []


def seen_by(*tests: str, walk: bool = False) -> Callable[[type[MemoryStore]], type[MemoryStore]]:
    def register(fault: type[MemoryStore]) -> type[MemoryStore]:
        FAULTS.extend((fault, f"test_{test}") for test in tests)
        WALKED.extend([fault] if walk else [])
        return fault

    return register


# Leases.


@seen_by(
    "a_zombie_writes_nothing",
    "an_epoch_that_nobody_was_given_writes_nothing",
    "epochs_outlive_the_process",
    walk=True,
)
class NoFence(MemoryStore):
    def _check(self, run, epoch, expected_seq):
        epoch = self._runs[run].epoch if run in self._runs else epoch
        super()._check(run, epoch, expected_seq)

    def _verify(self, change):
        pass


@seen_by("a_zombie_writes_nothing")
class ConflictBeforeFence(MemoryStore):
    def _check(self, run, epoch, expected_seq):
        if run in self._runs and self._runs[run].row.seq != expected_seq:
            raise Conflict
        super()._check(run, epoch, expected_seq)


@seen_by("an_append_that_races_a_takeover_comes_before_it_or_is_fenced")
class ChecksBeforeItQueues(MemoryStore):
    def append(self, change):
        self._check(change.run, change.epoch, change.expected_seq)

        async def later():
            await asyncio.sleep(0)
            self._write(change)

        return asyncio.ensure_future(later())


@seen_by("a_new_run_is_claimed_at_epoch_one", "a_worker_that_leaves_gives_back_all_it_has")
class NoEpoch(MemoryStore):
    async def claim(self, worker, **facts):
        claims = await super().claim(worker, **facts)
        for claimed in claims:
            self._runs[claimed.row.run].epoch -= 1
        return [replace(claimed, epoch=claimed.epoch - 1) for claimed in claims]


@seen_by("of_two_workers_that_claim_at_once_one_wins", "workers_that_claim_at_once_share_the_runs")
class LooksBeforeItLeases(MemoryStore):
    async def claim(self, worker, **facts):
        claims = await super().claim(worker, **facts)
        for claimed in claims:
            self._runs[claimed.row.run].worker = ""
        await asyncio.sleep(0)
        for claimed in claims:
            self._runs[claimed.row.run].worker = worker
        return claims


@seen_by("a_worker_that_was_away_too_long_owns_nothing", walk=True)
class NeverFrees(MemoryStore):
    async def claim(self, worker, **facts):
        leases, self._leases = self._leases, {}
        claims = await super().claim(worker, **facts)
        self._leases = leases | self._leases
        return claims


@seen_by("a_worker_that_was_away_too_long_owns_nothing", walk=True)
class RenewsTheDead(MemoryStore):
    async def renew(self, worker, *, now, lease_us):
        self._leases[worker] = now + lease_us
        return True


@seen_by("a_lease_that_holds_is_not_taken_and_a_renewed_one_holds_longer")
class ClaimDoesNotRenew(MemoryStore):
    async def claim(self, worker, *, now, **facts):
        until = self._leases.get(worker, 0)
        claims = await super().claim(worker, now=now, **facts)
        if until > now:
            self._leases[worker] = until
        return claims


@seen_by("a_worker_that_leaves_gives_back_all_it_has", walk=True)
class ReleaseForgets(MemoryStore):
    async def release(self, worker):
        pass


@seen_by("a_run_that_is_asked_for_need_not_be_ready")
class TakesTheHeldByName(MemoryStore):
    async def claim(self, worker, *, run="", **facts):
        if run in self._runs:
            self._runs[run].worker = ""
        return await super().claim(worker, run=run, **facts)


@seen_by("a_run_that_is_asked_for_need_not_be_ready")
class NamedMustBeReady(MemoryStore):
    async def claim(self, worker, *, run="", **facts):
        held = self._runs.get(run)
        if held and self._ready_since(held, facts["now"]) is None:
            return []
        return await super().claim(worker, run=run, **facts)


@seen_by("a_claim_is_for_the_family_asked_for", walk=True)
class FamilyIsAPrefix(MemoryStore):
    async def claim(self, worker, *, family="", **facts):
        everybody, self._runs = (
            self._runs,
            {name: run for name, run in self._runs.items() if name.startswith(family)},
        )
        claims = await super().claim(worker, **facts)
        self._runs = everybody
        return claims


@seen_by("a_claim_is_for_the_agents_asked_for")
class ClaimsForAnyAgent(MemoryStore):
    async def claim(self, worker, *, agents, **facts):
        every = {run.row.agent for run in self._runs.values()}
        return await super().claim(worker, agents=[*every, *agents], **facts)


# Readiness.


@seen_by("a_message_that_races_a_release_wakes_the_run", walk=True)
class LosesWakeUps(MemoryStore):
    def _write(self, change):
        super()._write(replace(change, seen=len(self._known)))


@seen_by("a_message_that_the_run_has_seen_does_not_wake_it")
class WakesForEveryMessage(MemoryStore):
    def _write(self, change):
        super()._write(replace(change, seen=0))


@seen_by("a_run_that_has_ended_is_never_claimed", walk=True)
class ClaimsTheEnded(MemoryStore):
    async def claim(self, worker, **facts):
        rows = {name: run.row for name, run in self._runs.items()}
        for run in self._runs.values():
            if run.row.status in ENDED:
                run.row = run.row._replace(status="idle")
        claims = await super().claim(worker, **facts)
        for name, run in self._runs.items():
            run.row = rows[name]
        return claims


@seen_by("a_run_released_in_the_middle_is_ready", walk=True)
class WantsARunParked(MemoryStore):
    def _ready_since(self, held, now):
        since = super()._ready_since(held, now)
        return None if held.row.status == "running" and not held.worker else since


@seen_by("those_ready_the_longest_come_first")
class LatestFirst(MemoryStore):
    def _ready_since(self, held, now):
        since = super()._ready_since(held, now)
        return None if since is None else -since


@seen_by("a_run_wakes_at_its_time_and_not_before", "a_run_begins_at_its_time", walk=True)
class WakesLate(MemoryStore):
    def _ready_since(self, held, now):
        return super()._ready_since(held, now - 1)


@seen_by("a_run_wakes_at_its_time_and_not_before")
class WakesForTheHeld(MemoryStore):
    async def next_wake(self, agents, *, after=0):
        rows = [run.row for run in self._runs.values() if run.row.agent in agents]
        return min((row.wake_at for row in rows if row.wake_at > after), default=0)


@seen_by("a_worker_learns_whether_a_claim_is_worth_it")
class ReadyWithoutTheLost(MemoryStore):
    async def ready(self, agents, *, now):
        leases, self._leases = self._leases, {}
        ready = await super().ready(agents, now=now)
        self._leases = leases
        return ready


@seen_by("a_worker_gets_the_mail_of_what_it_holds", walk=True)
class MailOfEverybody(MemoryStore):
    async def mail(self, worker, *, after):
        largest, _ = await super().mail(worker, after=after)
        mail = [unread for run in self._runs for unread in await self.unread(run, after=after)]
        return largest, sorted(mail, key=lambda unread: unread.n)


# Messages.


@seen_by("a_message_arrives_once_for_ever")
class ForgetsConsumedIds(MemoryStore):
    def _write(self, change):
        for n in change.consume:
            message = self._inboxes[change.run][n]
            self._known.discard((message.to, message.id))
            self._known.add((message.to, f"once {n}"))
        super()._write(change)


@seen_by("an_append_is_all_or_nothing")
class ConsumesNothing(MemoryStore):
    def _write(self, change):
        super()._write(replace(change, consume=()))


@seen_by("messages_keep_the_order_of_their_sender")
class LatestMessageFirst(MemoryStore):
    async def unread(self, run, *, after=0):
        return (await super().unread(run, after=after))[::-1]


@seen_by("the_same_schedule_gives_the_log_of_the_memory_store", walk=True)
class RenumbersTheUnread(MemoryStore):
    async def unread(self, run, *, after=0):
        unread = await super().unread(run)
        return [InboxMessage(n, m.message) for n, m in enumerate(unread, 1) if n > after]


@seen_by("creating_twice_is_once")
class DropsMessagesOfAnOldRun(MemoryStore):
    async def create(self, new, deliver=()):
        return new.row.run not in self._runs and await super().create(new, deliver)


@seen_by("a_message_waits_for_its_run")
class DropsMessagesWithoutARun(MemoryStore):
    def _deliver(self, message):
        return message.to in self._runs and super()._deliver(message)


@seen_by("creating_twice_is_once")
class ReplacesTheRun(MemoryStore):
    def _create(self, new):
        taken = self._runs.pop(new.row.run, None)
        super()._create(new)
        return taken is None


# Appends and transactions.


@seen_by("an_append_is_all_or_nothing", walk=True)
class DeliversBeforeItChecks(MemoryStore):
    def append(self, change):
        for message in change.deliver:
            self._deliver(message)
        return super().append(change)


@seen_by("an_append_is_all_or_nothing")
class CreatesBeforeItChecks(MemoryStore):
    def append(self, change):
        for new in change.create:
            self._create(new)
        return super().append(change)


@seen_by("an_append_counts_when_it_is_called")
class AppendsWhenAwaited(MemoryStore):
    def append(self, change):
        append = super().append

        class Later:
            def __await__(self):
                return append(change).__await__()

        return Later()


@seen_by(
    "changes_take_effect_in_the_order_of_the_calls",
    "what_is_built_on_a_failed_change_fails_too",
    walk=True,
)
class AppendsInAnyOrder(MemoryStore):
    def append(self, change):
        async def later():
            for _ in range(change.expected_seq % 3):
                await asyncio.sleep(0)
            await super(AppendsInAnyOrder, self).append(change)

        return asyncio.ensure_future(later())


@seen_by("a_run_that_does_not_exist_has_nothing")
class RememberWhoAsked(MemoryStore):
    def _check(self, run, epoch, expected_seq):
        if run not in self._runs:
            raise KeyError(run)
        super()._check(run, epoch, expected_seq)


@seen_by("a_transaction_commits_both_or_neither", walk=True)
class LeavesRowsOfAFailedBody(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        failures = []

        def forgiving(transaction):
            try:
                return body(transaction)
            except Exception as error:  # noqa: BLE001 - forgiving is the fault
                failures.append(error)
                return Append(run, epoch, expected_seq, (), self._runs[run].row)

        await super().transact(run, epoch, expected_seq, forgiving)
        if failures:
            raise failures[0]


@seen_by("a_zombie_writes_nothing")
class EntersTheBodyFirst(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        with self._tables.transaction() as transaction:
            change = body(transaction)
            self._check(run, epoch, expected_seq)
            self._verify(change)
        self._write(change)


@seen_by("what_was_written_outlives_the_process")
class ForgetsTheTables(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        changes = []

        def undone(transaction):
            changes.append(body(transaction))
            raise KeyError

        with pytest.raises(KeyError):
            await super().transact(run, epoch, expected_seq, undone)
        self._write(changes[0])


@seen_by("a_body_executes_with_parameters_and_reads_rows")
class AnswersInText(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        def spoiled(transaction):
            self._tables.connection.text_factory = bytes
            return body(transaction)

        await super().transact(run, epoch, expected_seq, spoiled)


@seen_by("a_body_cannot_end_its_transaction")
class LetsTheBodyCommit(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        def free(transaction):
            self._tables.connection.set_authorizer(None)
            return body(transaction)

        await super().transact(run, epoch, expected_seq, free)


@seen_by("a_body_that_hides_the_end_of_its_transaction_writes_nothing")
class BelievesTheBody(MemoryStore):
    async def transact(self, run, epoch, expected_seq, body):
        self._check(run, epoch, expected_seq)
        with suppress(sqlite3.OperationalError), self._tables.transaction() as transaction:
            change = body(transaction)
            transaction.over = False
        self._write(change)


# Reads.


@seen_by("payloads_come_back_byte_for_byte", walk=True)
class EmptyIsNone(MemoryStore):
    async def read(self, run, **facts):
        events = await super().read(run, **facts)
        return [replace(event, payload=event.payload or None) for event in events]


@seen_by("read_returns_the_part_that_was_asked_for")
class UntilIsExclusive(MemoryStore):
    async def read(self, run, *, until=0, **facts):
        return await super().read(run, until=max(until - 1, 0), **facts)


@seen_by("a_run_released_in_the_middle_is_ready", walk=True)
class KeepsTheOldTime(MemoryStore):
    def _write(self, change):
        before = self._runs[change.run].row.updated_at
        super()._write(change)
        if not change.release:
            self._runs[change.run].row = change.row._replace(updated_at=before)


@seen_by("who_follows_the_log_misses_nothing", walk=True)
class LogSkips(MemoryStore):
    async def read_log(self, after, *, limit):
        page = await super().read_log(after, limit=limit + 1)
        return page[1:] if len(page) > limit else page


@seen_by("who_follows_the_log_misses_nothing")
class LogRepeats(MemoryStore):
    async def read_log(self, after, *, limit):
        return await super().read_log(max(after - 1, 0), limit=limit)


@seen_by("an_append_is_all_or_nothing")
class LogLacksChildren(MemoryStore):
    def _write(self, change):
        super()._write(change)
        children = {new.row.run for new in change.create}
        self._log = [event for event in self._log if event.run not in children]


@seen_by("rows_come_newest_first_and_page_by_page", walk=True)
class PrefixIsAPattern(MemoryStore):
    async def rows(self, *, prefix="", limit=100, **facts):
        rows = await super().rows(limit=10**6, **facts)
        like = prefix.replace("%", "").lower()
        return [row for row in rows if row.run.lower().startswith(like)][:limit]


@seen_by("rows_come_newest_first_and_page_by_page")
class PagesOverlap(MemoryStore):
    async def rows(self, *, after=None, **facts):
        return await super().rows(after=after and (after[0], after[1] + "\0"), **facts)


@seen_by("who_waits_for_a_change_is_told")
class TellsOne(MemoryStore):
    def _tell(self, *, ready=True):
        waiting = self._waiting
        self._waiting = {kind: [*waiting[kind]][:1] for kind in (False, True)}
        super()._tell(ready=ready)
        self._waiting = waiting


@seen_by("workers_are_known_while_their_leases_hold")
class WorkersStayKnown(MemoryStore):
    async def workers(self, *, now):
        return await super().workers(now=min(now, 0))


# Queues.


@seen_by("a_higher_priority_comes_first", "the_same_schedule_gives_the_claims_of_the_memory_store")
class NothingIsUrgent(MemoryStore):
    def _lanes(self, agents, now, family=""):
        lanes = super()._lanes(agents, now, family)
        for lane in lanes:
            lane.priority = 0
        return lanes


def with_room(**methods):
    """Return a store whose claims judge the room in queues otherwise."""
    kind = type("OtherRoom", (Room,), methods)

    class Store(MemoryStore):
        def _room(self, now):
            room = super()._room(now)
            room.__class__ = kind
            return room

    return Store


@seen_by("keys_take_turns_however_much_one_has_to_do")
class NoTurns(with_room(share=lambda _room, _lane: 0)):
    pass


@seen_by("a_queue_lets_so_many_be_held", "what_is_due_and_has_no_room_waits_in_line")
class NeverFull(with_room(is_full=lambda _room, _queue, _key: False)):
    pass


@seen_by("a_queue_lets_so_many_begin_in_a_period")
class NoRate(with_room(may_begin=lambda _room, _queue: True)):
    pass


@seen_by("what_is_due_and_has_no_room_waits_in_line")
class WakesForThePast(MemoryStore):
    async def next_wake(self, agents, *, after=0):
        return await super().next_wake(agents, after=min(after, 0))


@seen_by("nobody_waits_for_the_time_of_a_run_that_is_ready")
class WakesTheReady(MemoryStore):
    def _is_ready_before(self, _held, _wake_at):
        return False


@seen_by("what_is_paused_is_not_claimed")
class NothingPauses(MemoryStore):
    def _is_paused(self, row):
        return row is None


@seen_by("a_run_that_is_held_when_it_is_paused_goes_on_until_it_is_released")
class PauseTakesTheLease(MemoryStore):
    async def pause(self, pause):
        self._runs[pause.name].epoch += 1
        return await super().pause(pause)


@seen_by("a_provider_is_left_alone_for_its_time_and_then_one_tries")
class AllTryAtOnce(MemoryStore):
    async def probe(self, provider, *, now, rest_us):  # noqa: ARG002 - the port's signature
        return self._rests.get(provider, now + 1) <= now


@seen_by("a_provider_is_left_alone_for_its_time_and_then_one_tries")
class TriesTooEarly(MemoryStore):
    async def probe(self, provider, *, now, rest_us):
        return await super().probe(provider, now=now + 5, rest_us=rest_us)


@seen_by("queues_tell_their_limits_and_what_is_in_them")
class EmptyQueuesAreNotTold(MemoryStore):
    async def queues(self, *, now):
        return [queue for queue in await super().queues(now=now) if queue.ready or queue.held]


# Copies.


@seen_by("a_snapshot_shows_one_moment")
class SnapshotMoves(MemoryStore):
    @asynccontextmanager
    async def snapshot(self, *, now):
        held = MemoryStore.snapshot

        class Moving:
            def __getattr__(_, name):  # noqa: N805 - the outer self is the store
                async def ask(*args, **facts):
                    async with held(self, now=now) as snapshot:
                        return await getattr(snapshot, name)(*args, **facts)

                return ask

        yield Moving()


@seen_by("a_snapshot_tells_who_holds_a_run")
class NoLeaseEnds(MemoryStore):
    def _holder(self, held, _now):
        return held.worker


@seen_by("a_run_of_another_store_is_claimed_once_it_is_whole")
class ClaimsHalfARun(MemoryStore):
    async def receive(self, part):
        await super().receive(part)
        self._runs[part.run].worker = ""


@seen_by("a_run_of_another_store_is_claimed_once_it_is_whole", "a_run_comes_back_longer", walk=True)
class EpochsBeginAnew(MemoryStore):
    async def receive(self, part):
        await super().receive(part)
        self._runs[part.run].epoch = 0


@seen_by("a_part_in_the_wrong_place_is_refused")
class TakesAnyPart(MemoryStore):
    async def receive(self, part):
        if held := self._runs.get(part.run):
            held.worker = ""
        await super().receive(part)


@seen_by("an_inbox_comes_as_it_stood", walk=True)
class ConsumedMessagesComeUnread(MemoryStore):
    async def receive(self, part):
        inbox = [replace(letter, taken=0) for letter in part.inbox]
        await super().receive(replace(part, inbox=inbox))


# Retention.


@seen_by("runs_that_ended_before_a_time_are_told")
class OldInNoOrder(MemoryStore):
    async def ended(self, **facts):
        return (await super().ended(**facts))[::-1]


@seen_by("runs_that_ended_before_a_time_are_told")
class TellsOfOperators(MemoryStore):
    async def ended(self, *, before, after="", limit):
        found = await super().ended(before=before, after=after, limit=limit)
        return [Ended(run, 3, 9) for run in self._runs if run.startswith("$")] + found


@seen_by(
    "a_collection_takes_payloads_and_salts_and_nothing_else", "a_sweep_leaves_what_others_have"
)
class CollectsAll(MemoryStore):
    async def collect(self, runs, told):
        await super().collect(runs, told)
        for held in self._runs.values():
            held.events = [replace(event, payload=None, salt=None) for event in held.events]


@seen_by("a_collection_takes_payloads_and_salts_and_nothing_else")
class KeepsSalts(MemoryStore):
    async def collect(self, runs, told):
        salts = {run: [event.salt for event in self._runs[run].events] for run in runs}
        await super().collect(runs, told)
        for run in runs:
            pairs = zip(self._runs[run].events, salts[run], strict=True)
            self._runs[run].events = [replace(event, salt=salt) for event, salt in pairs]


@seen_by("a_collection_takes_payloads_and_salts_and_nothing_else")
class CollectsMail(MemoryStore):
    async def collect(self, runs, told):
        await super().collect(runs, told)
        self._inboxes.clear()


@seen_by("a_collection_that_nothing_tells_of_is_refused")
class CollectsInSilence(MemoryStore):
    async def collect(self, runs, told):
        self._runs[told] = self._runs.get(told) or self._runs[runs[0]]
        await super().collect(runs, told)


@seen_by("what_was_swept_can_be_stored_again")
class RemembersWhatWasSwept(MemoryStore):
    swept = False

    async def sweep(self):
        self.swept = True
        return await super().sweep()

    def append(self, change):
        if self.swept:
            change = replace(change, events=[replace(e, payload=None) for e in change.events])
        return super().append(change)


@pytest.mark.parametrize(
    ("fault", "test"), FAULTS, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_fault_is_seen_by_the_test(fault, test, monkeypatch):
    monkeypatch.setattr(streams, "PATIENCE_S", 0.1)
    store = fault()

    async def open_store():
        return store

    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the fault makes of it
        getattr(StoreConformance, test)(StoreConformance(), open_store)
    sound = MemoryStore()

    async def open_sound_store():
        return sound

    getattr(StoreConformance, test)(StoreConformance(), open_sound_store)


@pytest.mark.parametrize("fault", WALKED, ids=lambda fault: fault.__name__)
def test_the_fault_is_seen_by_the_random_walk(fault):
    async def make_store():
        return fault()

    quick = settings(phases=[Phase.generate], max_examples=300, database=None, print_blob=False)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the fault makes of it
        run_state_machine_as_test(store_machine(make_store), settings=quick)


def test_every_directed_test_has_a_fault_that_it_sees():
    tests = {name for name in dir(StoreConformance) if name.startswith("test_")}
    assert tests == {test for _, test in FAULTS}
