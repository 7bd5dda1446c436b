"""A Hypothesis machine that walks a store through random schedules and compares every answer.

Workers claim runs, append to them with right and wrong epochs and lengths, alone and several at
once, send and consume messages, create children, park, wake, lose their leases and come back; the
store is closed and opened in between. ``StoreModel`` says what each call must answer. After every
step the log behind the last known position, every inbox and every row are compared.

Two rules keep a schedule free of what the contract leaves open: the clock shows even µs and leases
end at odd ones, so nobody claims in the very µs in which a lease ends; and what is in flight at the
same time never delivers one message id or creates one run twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.errors import StoreError
from holdfast.ports import Append, Claim, Message, Store, Transaction
from holdfast.testing.copies import copy_everything
from holdfast.testing.harness import EVERYTHING, Boom, agree
from holdfast.testing.model import StoreModel, check_stream
from holdfast.testing.plans import (
    AGENTS,
    MESSAGE_IDS,
    RUN_IDS,
    STATUSES,
    Plan,
    payloads,
    plans,
    realise,
    recipients,
    values,
)
from holdfast.testing.script import Script

__all__ = ["store_machine"]

T = TypeVar("T")

_LEASE_US = 10_001
_WORKERS = ("ann", "bob", "cyd")

_workers = st.sampled_from(_WORKERS)
_agents = st.sampled_from([AGENTS, AGENTS, AGENTS[:1], AGENTS[1:]])
_runs = st.sampled_from(RUN_IDS)
_picks = st.integers(0, 20)
"""Which of the things at hand, counted round and round."""
_letters = st.lists(st.tuples(recipients, st.sampled_from(MESSAGE_IDS), values), max_size=4)


def store_machine(
    make_store: Callable[[], Awaitable[Store]],
    reopen: Callable[[Store], Awaitable[Store]] | None = None,
) -> type[RuleBasedStateMachine]:
    """Return a state machine that tests a kind of store; ``run_state_machine_as_test`` runs it.

    Args:
        make_store: Returns an open, empty store.
        reopen: Closes a store and returns one with the same data; without it none is reopened.
    """
    facts = {
        "make_store": staticmethod(make_store),
        "reopen_store": staticmethod(reopen) if reopen else None,
    }
    return type("StoreMachine", (_StoreMachine,), facts)


class _StoreMachine(RuleBasedStateMachine):
    make_store: ClassVar[Callable[[], Awaitable[Store]]]
    reopen_store: ClassVar[Callable[[Store], Awaitable[Store]] | None]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = StoreModel()
        self.now = 1_000_000
        self.store = self.wait(type(self).make_store())

    def wait(self, call: Awaitable[T]) -> T:
        # Not runner.run: it installs a signal handler each time, which takes longer than the call.
        return self.runner.get_loop().run_until_complete(call)

    def teardown(self) -> None:
        try:
            for name, run in self.model.runs.items():
                events = self.wait(self.store.read(name))
                agree(f"read({name!r})", events, run.events)
                agree(f"row({name!r})", self.wait(self.store.row(name)), check_stream(events))
        finally:
            self.wait(self.store.close())
            self.runner.close()

    @invariant()
    def nothing_else_has_changed(self) -> None:
        self.wait(self.compare())

    async def compare(self) -> None:
        """Learn what the store has chosen and check that nothing else is otherwise."""
        self.model.learn_log(await self.store.read_log(self.model.position, limit=EVERYTHING))
        lost = [events for events in self.model.writing.values() if events]
        assert not lost, f"the log lacks {lost}"
        for run in [*self.model.unread.keys() | self.model.arriving.keys()]:
            self.model.learn_unread(run, await self.store.unread(run))
        rows = await self.store.rows(limit=EVERYTHING)
        agree("rows()", rows, self.model.rows(limit=EVERYTHING))

    # Runs and messages from outside.

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        for run in RUN_IDS[:count]:
            self.create_run(Script.begin(run, agent=AGENTS[0], at=self.now), [])

    @rule(run=_runs, agent=st.sampled_from(AGENTS), payload=payloads, letters=_letters)
    def create(
        self, run: str, agent: str, payload: bytes | None, letters: list[tuple[str, str, bytes]]
    ) -> None:
        script = Script.begin(run, agent=agent, at=self.now, payload=payload)
        self.create_run(script, self.messages(letters))

    def create_run(self, script: Script, messages: list[Message]) -> None:
        created = self.wait(self.store.create(script.new(), messages))
        agree("create", created, self.model.create(script.new()))
        self.model.deliver(messages)

    @rule(letters=_letters)
    def deliver(self, letters: list[tuple[str, str, bytes]]) -> None:
        messages = self.messages(letters)
        arrived = self.wait(self.store.deliver(messages))
        agree("deliver", arrived, self.model.deliver(messages))

    def messages(self, letters: list[tuple[str, str, bytes]]) -> list[Message]:
        return [Message(to, id_, "topic", payload, self.now) for to, id_, payload in letters]

    # Leases.

    @rule(by=st.sampled_from([2, 2, 1_000, _LEASE_US // 2 * 2, 10 * _LEASE_US + 10]))
    def advance(self, by: int) -> None:
        self.now += by

    @rule(worker=_workers, agents=_agents, limit=st.integers(1, 6))
    def claim(self, worker: str, agents: Sequence[str], limit: int) -> None:
        self.race([(worker, limit)], agents)

    @rule(worker=_workers)
    def claim_when_the_next_wakes(self, worker: str) -> None:
        self.now = max(self.now, self.model.next_wake(AGENTS, self.now))
        self.race([(worker, 6)], AGENTS)

    @rule(order=st.permutations(_WORKERS), agents=_agents, limit=st.integers(1, 3))
    def claim_all_at_once(self, order: list[str], agents: Sequence[str], limit: int) -> None:
        self.race([(worker, limit) for worker in order], agents)

    @rule(worker=_workers, pick=_picks)
    def claim_one(self, worker: str, pick: int) -> None:
        self.race([(worker, 1)], AGENTS, run=self.pick(pick))

    @rule(worker=_workers, pick=_picks)
    def claim_a_family(self, worker: str, pick: int) -> None:
        self.race([(worker, 3)], AGENTS, family=self.pick(pick))

    def race(
        self,
        claimants: list[tuple[str, int]],
        agents: Sequence[str],
        *,
        run: str = "",
        family: str = "",
    ) -> list[Claim]:
        ready = self.wait(self.store.ready(agents, now=self.now))
        assert ready in self.model.ready(self.now, agents), f"ready({agents}) is {ready}"
        facts: dict[str, Any] = {"now": self.now, "lease_us": _LEASE_US, "agents": agents}
        facts |= {"run": run, "family": family}

        async def main() -> list[list[Claim]]:
            calls = [self.store.claim(worker, limit=limit, **facts) for worker, limit in claimants]
            return await asyncio.gather(*calls)

        answers = self.wait(main())
        self.model.expire(self.now)
        claimable = self.model.claimable(self.now, agents, run, family)
        for (worker, limit), claims in zip(claimants, answers, strict=True):
            given = {claim.row.run for claim in claims}
            assert given <= claimable, f"{worker} was given {given} of {claimable}"
            assert len(claims) <= limit, f"{worker} was given {claims}, above {limit}"
            self.model.claimed(worker, claims, self.now, _LEASE_US)
        count = min(sum(limit for _, limit in claimants), len(claimable))
        agree("runs claimed", sum(map(len, answers)), count)
        return answers[-1]

    @rule(worker=_workers, late=st.booleans())
    def renew(self, worker: str, late: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        self.now += late * (_LEASE_US + 1)
        holds = any(run.worker == worker for run in self.model.runs.values())
        renewed = self.wait(self.store.renew(worker, now=self.now, lease_us=_LEASE_US))
        expected = self.model.renew(worker, self.now, _LEASE_US)
        if holds:  # a worker with nothing to lose may be told either
            agree(f"renew({worker!r})", renewed, expected)

    @rule(worker=_workers)
    def release(self, worker: str) -> None:
        self.wait(self.store.release(worker))
        self.model.free(worker)

    # Changes.

    @rule(worker=_workers, links=st.lists(plans, min_size=1, max_size=3))
    def work(self, worker: str, links: list[Plan]) -> None:
        """A worker claims as many runs as there are plans, and advances those that it is given."""
        claims = self.race([(worker, len(links))], AGENTS)
        for claimed, plan in zip(claims, links, strict=False):
            self.bring_one(claimed.row.run, plan)

    @rule(pick=_picks, plan=plans)
    def change(self, pick: int, plan: Plan) -> None:
        self.bring_one(self.pick(pick), plan)

    def bring_one(self, run: str, plan: Plan) -> None:
        change = self.realise(plan, self.script(run))
        ledger = list(self.model.ledger)
        answer = self.wait(self.bring(plan, change, ledger))
        expected = self.model.refusal(change) or (Boom if plan.way == "raise" else None)
        agree(f"{change}", answer, expected)
        if answer is None:
            self.carry_out(plan, change)

    @rule(
        chains=st.lists(st.tuples(_picks, st.lists(plans, min_size=1, max_size=3)), max_size=3),
        letters=_letters,
        late=st.booleans(),
    )
    def change_at_once(
        self,
        chains: list[tuple[int, list[Plan]]],
        letters: list[tuple[str, str, bytes]],
        late: bool,  # noqa: FBT001 - Hypothesis names it
    ) -> None:
        """Changes of several runs are under way together, those of one run built on each other."""
        brought = [
            pair
            for run, links in {self.pick(pick): links for pick, links in chains}.items()
            for pair in self.chain(run, links)
        ]
        messages = self.messages(letters)

        async def main() -> list[Any]:
            calls: list[Coroutine[Any, Any, Any]] = [self.bring(p, c) for p, c in brought]
            calls.insert(len(calls) if late else 0, self.store.deliver(messages))
            return await asyncio.gather(*calls, self.store.read_log(self.model.position, limit=3))

        *answers, seen = self.wait(main())
        arrived = answers.pop(len(brought) if late else 0)
        broken: set[str] = set()
        for (plan, change), answer in zip(brought, answers, strict=True):
            expected = self.model.refusal(change) or (Boom if plan.way == "raise" else None)
            if change.run in broken:
                refused = answer is not None and issubclass(answer, StoreError)
                assert refused, f"{change} went through, although nothing is before it"
                continue
            agree(f"{change}", answer, expected)
            if expected:
                broken.add(change.run)
            else:
                self.carry_out(plan, change)
        agree("deliver", arrived, self.model.deliver(messages))
        self.model.learn_log(seen)

    def chain(self, run: str, links: list[Plan]) -> list[tuple[Plan, Append]]:
        """Realise plans one upon the other, up to one that gives up the lease.

        Behind one that is wrong all are right, so that nothing but their place makes them fail.
        """
        script, consumed, brought = self.script(run), set[int](), list[tuple[Plan, Append]]()
        for link in links:
            sound = all(plan.sound for plan, _ in brought)
            plan = link if sound else replace(link, way="append", lag=0, slip=0)
            change = self.realise(plan, script, consumed, prefix=f"{run}:")
            consumed |= set(change.consume)
            brought.append((plan, change))
            if change.release:
                break
        return brought

    async def bring(
        self, plan: Plan, change: Append, ledger: list[int] | None = None
    ) -> type[Exception] | None:
        """Bring a change to the store and return what kind of error it met."""

        def body(transaction: Transaction) -> Append:
            transaction.execute("CREATE TABLE IF NOT EXISTS ledger (n INTEGER)")
            rows = [n for (n,) in transaction.execute("SELECT n FROM ledger ORDER BY n")]
            if ledger is not None:
                agree("the ledger", rows, sorted(ledger))
            transaction.execute("INSERT INTO ledger (n) VALUES (?)", (change.row.seq,))
            count = transaction.execute("SELECT count(*) FROM ledger")
            agree("the ledger's length", count, [(len(rows) + 1,)])
            if plan.way == "raise":
                raise Boom
            return change

        try:
            if plan.way == "append":
                await self.store.append(change)
            else:
                await self.store.transact(change.run, change.epoch, change.expected_seq, body)
        except (StoreError, Boom) as error:
            return type(error)
        return None

    def carry_out(self, plan: Plan, change: Append) -> None:
        self.model.apply(change)
        if plan.way == "transact":
            self.model.ledger.append(change.row.seq)

    def realise(
        self,
        plan: Plan,
        script: Script,
        consumed: set[int] | None = None,
        prefix: str = "",
    ) -> Append:
        unread = [n for n in self.model.unread[script.run] if n not in (consumed or ())]
        largest = self.model.largest(script.run)
        return realise(plan, script, unread, largest=largest, prefix=prefix)

    def script(self, run: str) -> Script:
        held = self.model.runs[run]
        return Script(held.events, at=self.now, epoch=held.epoch)

    def pick(self, number: int) -> str:
        names = list(self.model.runs)
        return names[number % len(names)]

    # Questions.

    @rule(pick=_picks, after=st.integers(0, 5), until=st.integers(0, 5), limit=st.integers(0, 3))
    def ask_about_a_run(self, pick: int, after: int, until: int, limit: int) -> None:
        names = [*self.model.runs, *RUN_IDS]
        run = names[pick % len(names)]
        held = self.model.runs.get(run)
        events = held.events[after : until or None][: limit or None] if held else []
        answer = self.wait(self.store.read(run, after=after, until=until, limit=limit))
        agree(f"read({run!r}, {after=}, {until=}, {limit=})", answer, events)
        agree(f"row({run!r})", self.wait(self.store.row(run)), held.row if held else None)
        numbers = [n for n in self.model.unread[run] if n > after]
        unread = self.wait(self.store.unread(run, after=after))
        agree(f"unread({run!r}, {after=})", [message.n for message in unread], numbers)

    @rule(worker=_workers, after=st.integers(0, 8))
    def ask_for_mail(self, worker: str, after: int) -> None:
        mail = self.wait(self.store.mail(worker, after=after))
        agree(f"mail({worker!r}, {after=})", mail, self.model.mail(worker, after))

    @rule(
        prefix=st.sampled_from(["", "", "a", "a%", "a_", "A", "é", "😀", "it's"]),
        status=st.lists(st.sampled_from(STATUSES), max_size=3),
        agents=st.lists(st.sampled_from(AGENTS), max_size=2),
        after=st.none() | _picks,
        limit=st.integers(1, 5),
    )
    def ask_about_all(
        self, prefix: str, status: list[str], agents: list[str], after: int | None, limit: int
    ) -> None:
        row = None if after is None else self.model.runs[self.pick(after)].row
        facts: dict[str, Any] = {
            "prefix": prefix,
            "status": status,
            "agents": agents,
            "after": (row.created_at, row.run) if row else None,
            "limit": limit,
        }
        agree(f"rows({facts})", self.wait(self.store.rows(**facts)), self.model.rows(**facts))
        for some in (AGENTS, AGENTS[:1]):
            wake_at = self.wait(self.store.next_wake(some, after=self.now))
            agree(f"next_wake({some})", wake_at, self.model.next_wake(some, self.now))

    @rule(stretch=st.integers(1, 4))
    def copy_everything(self, stretch: int) -> None:
        """Another store that is given all of it has the same streams, epochs and inboxes."""
        self.wait(self.compare_with_a_copy(stretch))

    async def compare_with_a_copy(self, stretch: int) -> None:
        other = await type(self).make_store()
        try:
            await copy_everything(self.store, other, now=self.now, stretch=stretch)
            async with other.snapshot(now=self.now) as copied:
                for name, run in self.model.runs.items():
                    [found] = await copied.runs(prefix=name, limit=1)
                    agree(f"the copy of {name!r}", (found.row, found.epoch), (run.row, run.epoch))
                    agree(f"its events {name!r}", await other.read(name), run.events)
            for name, unread in self.model.unread.items():
                messages = [message.message for message in await other.unread(name)]
                agree(f"the copy of inbox {name!r}", messages, [*unread.values()])
        finally:
            await other.close()

    @precondition(lambda self: self.reopen_store is not None)
    @rule()
    def reopen(self) -> None:
        opener = type(self).reopen_store
        assert opener is not None
        self.store = self.wait(opener(self.store))
        self.now += _LEASE_US + 1  # a store may know that the workers are gone, or wait for this
