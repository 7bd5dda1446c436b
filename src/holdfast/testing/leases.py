"""Conformance of claims: who may advance a run, and when it wants to be advanced."""

import asyncio

from holdfast.core import events as ev
from holdfast.errors import Fenced
from holdfast.ports import Store, Transaction
from holdfast.testing.harness import (
    LATE,
    LEASE_US,
    NOTE,
    NOW,
    agree,
    append,
    begin,
    claim,
    everything,
    hold,
    letter,
    on_a_store,
    on_two_stores,
    park,
    refused,
    transact,
)
from holdfast.testing.script import Script

__all__ = ["LeaseConformance"]


class LeaseConformance:
    """Leases and epochs, readiness, and the wake-ups that must not be lost."""

    @on_a_store
    async def test_a_new_run_is_claimed_at_epoch_one(self, store: Store) -> None:
        script = await begin(store)
        [claimed] = await claim(store, "ann")
        agree("the claim", (claimed.row, claimed.epoch), (script.state.row(), 1))

    @on_two_stores
    async def test_of_two_workers_that_claim_at_once_one_wins(self, one: Store, two: Store) -> None:
        await begin(one)
        for run in ("", "r"):
            calls = [claim(one, "ann", run=run), claim(two, "bob", run=run)]
            answers = await asyncio.gather(*calls)
            agree("runs claimed", sum(map(len, answers)), 1)
            await one.release("ann")
            await two.release("bob")

    @on_a_store
    async def test_workers_that_claim_at_once_share_the_runs(self, store: Store) -> None:
        names = {(await begin(store, f"r{n}")).run for n in range(9)}
        calls = [claim(store, f"w{n}", limit=2) for n in range(6)]
        claims = [claimed.row.run for answer in await asyncio.gather(*calls) for claimed in answer]
        agree("runs claimed", sorted(claims), sorted(names))

    @on_a_store
    async def test_a_lease_that_holds_is_not_taken_and_a_renewed_one_holds_longer(
        self, store: Store
    ) -> None:
        await hold(store)
        agree("a claim in time", await claim(store, "bob", LATE - 2), [])
        agree("renew", await store.renew("ann", now=LATE - 2, lease_us=LEASE_US), expected=True)
        agree("a claim after renew", await claim(store, "bob", LATE), [])
        agree("the owner's own claim", await claim(store, "ann", LATE), [])
        late = LATE + LEASE_US - 1
        agree("a claim after the owner's own", await claim(store, "bob", late), [])
        agree("runs claimed late", len(await claim(store, "bob", late + LEASE_US)), 1)

    @on_a_store
    async def test_an_epoch_that_nobody_was_given_writes_nothing(self, store: Store) -> None:
        """As from a worker that goes on while an older copy of the store is put back."""
        script = await hold(store)
        above = Script(script.events, at=NOW, epoch=script.epoch + 1).change(NOTE)
        before = await everything(store)
        await refused(Fenced, store.append(above))
        await refused(Fenced, transact(store, above))
        agree("everything", await everything(store), before)

    @on_two_stores
    async def test_a_zombie_writes_nothing(self, one: Store, two: Store) -> None:
        zombie = await hold(one)
        await one.deliver([letter("r", "m1")])
        [unread] = await one.unread("r")
        [claimed] = await claim(two, "bob", LATE)
        agree("the later epoch", claimed.epoch, zombie.epoch + 1)

        change = zombie.change(
            NOTE,
            deliver=[letter("other", "m2")],
            create=[Script.begin("r/child").new()],
            consume=[unread.n],
            release=True,
        )
        owner = Script(await two.read("r"), at=LATE, epoch=claimed.epoch)
        for _ in range(2):
            before = await everything(one, "other")
            await refused(Fenced, one.append(change))
            entered: list[Transaction] = []
            await refused(Fenced, transact(one, change, entered.append))
            agree("bodies begun", entered, [])
            agree("everything", await everything(one, "other"), before)
            agree("the zombie's renew", await renew(one, "ann", LATE), expected=False)
            agree("runs that anybody could claim", await claim(one, "cyd", LATE), [])
            await two.append(owner.change(NOTE))  # then the length is another one too

    @on_two_stores
    async def test_an_append_that_races_a_takeover_comes_before_it_or_is_fenced(
        self, one: Store, two: Store
    ) -> None:
        script, now = await hold(one), NOW
        for n in range(8):
            now += LEASE_US + 1
            change = script.change(NOTE)
            calls = [append(one, change), claim(two, f"w{n}", now)]
            results = await asyncio.gather(*calls[:: 1 - n % 2 * 2], return_exceptions=True)
            answer, claims = results[:: 1 - n % 2 * 2]
            assert isinstance(claims, list), claims
            row = claims[0].row
            assert answer is None or isinstance(answer, Fenced), answer
            agree("the length that was claimed", row.seq, change.expected_seq + (answer is None))
            script = Script(await one.read("r"), at=now, epoch=claims[0].epoch)
            agree("the row", row, script.state.row())

    @on_a_store
    async def test_a_worker_that_was_away_too_long_owns_nothing(self, store: Store) -> None:
        await hold(store)
        agree("renew", await renew(store, "ann", LATE), expected=False)
        [claimed] = await claim(store, "bob", LATE)
        agree("epoch", claimed.epoch, 2)
        await store.release("bob")
        [again] = await claim(store, "cyd", LATE)
        agree("the epoch of the same run", again.epoch, 3)
        [own] = await claim(store, "cyd", LATE + LEASE_US + 1)
        agree("its own run, after it was away", own.epoch, 4)

    @on_a_store
    async def test_a_worker_that_leaves_gives_back_all_it_has(self, store: Store) -> None:
        for name in ("r1", "r2"):
            await begin(store, name)
        agree("runs claimed", len(await claim(store, "ann")), 2)
        await store.release("ann")
        claims = await claim(store, "bob")
        agree(
            "runs and epochs", sorted((c.row.run, c.epoch) for c in claims), [("r1", 2), ("r2", 2)]
        )

    @on_a_store
    async def test_a_claim_is_for_the_agents_asked_for(self, store: Store) -> None:
        await begin(store, "r1", agent="agent:one")
        await begin(store, "r2", agent="agent:two")
        [claimed] = await claim(store, "ann", agents=["agent:two", "agent:three"])
        agree("the run claimed", claimed.row.run, "r2")

    @on_a_store
    async def test_a_claim_is_for_the_family_asked_for(self, store: Store) -> None:
        for name in ("a", "a/x", "a/x/y", "ab", "A/x", "a0", "a."):
            await begin(store, name)
        await store.append((await hold(store, "a/z")).change(NOTE))
        await store.release("ann")
        await park(store, await hold(store, "a/parked"))
        agree("a family of none", await claim(store, "ann", family="none"), [])
        claims = await claim(store, "ann", family="a/x")
        agree("a smaller family", sorted(c.row.run for c in claims), ["a/x", "a/x/y"])
        claims = await claim(store, "ann", family="a")
        agree("the family", sorted(c.row.run for c in claims), ["a", "a/z"])

    @on_a_store
    async def test_those_ready_the_longest_come_first(self, store: Store) -> None:
        timer, message = await hold(store, "timer"), await hold(store, "message")
        await park(store, timer, wake_at=NOW + 3)
        await park(store, message)
        for name, at in (("r5", 5), ("r2", 2), ("r8", 8), ("r1", 1)):
            await begin(store, name, at=NOW + at)
        await store.deliver([letter("message", "m1", at=NOW + 6)])
        order = [(await claim(store, "ann", NOW + 9, limit=1))[0].row.run for _ in range(6)]
        agree("the order of claims", order, ["r1", "r2", "timer", "r5", "message", "r8"])

    @on_a_store
    async def test_a_run_wakes_at_its_time_and_not_before(self, store: Store) -> None:
        for name, wake_at in (("r1", NOW + 7), ("r2", NOW + 5), ("r3", 0)):
            await park(store, await hold(store, name), wake_at=wake_at)
        agree("next_wake", await store.next_wake(["agent:test"]), NOW + 5)
        agree("next_wake of others", await store.next_wake(["agent:other"]), 0)
        agree("a claim too early", await claim(store, "ann", NOW + 4), [])
        [claimed] = await claim(store, "ann", NOW + 5)
        agree("the run claimed", claimed.row.run, "r2")
        agree("next_wake", await store.next_wake(["agent:test"]), NOW + 7)

    @on_a_store
    async def test_nobody_waits_for_the_time_of_a_run_that_is_ready(self, store: Store) -> None:
        for name, wake_at in (("r1", NOW + 5), ("r2", NOW + 7)):
            await park(store, await hold(store, name), wake_at=wake_at)
        await store.deliver([letter("r1", "m1", at=NOW + 1)])
        agree("next_wake", await store.next_wake(["agent:test"], after=NOW), NOW + 7)

    @on_a_store
    async def test_a_worker_learns_whether_a_claim_is_worth_it(self, store: Store) -> None:
        async def ready(now: int, agent: str = "agent:test") -> bool:
            return await store.ready([agent], now=now)

        agree("ready without a run", await ready(NOW), expected=False)
        script = await begin(store)
        agree("ready", await ready(NOW), expected=True)
        agree("ready of others", await ready(NOW, "agent:other"), expected=False)
        [claimed] = await claim(store, "ann")
        script.epoch = claimed.epoch
        agree("ready while it is held", await ready(LATE - 2), expected=False)
        agree("ready when the lease is over", await ready(LATE), expected=True)
        await park(store, script, wake_at=NOW + 5)
        agree("ready too early", await ready(NOW + 4), expected=False)
        agree("ready in time", await ready(NOW + 5), expected=True)
        await store.deliver([letter("r", "m1")])
        agree("ready by a message", await ready(NOW), expected=True)
        [claimed] = await claim(store, "ann")
        script.epoch = claimed.epoch
        await store.append(script.change(ev.RunSucceeded(), release=True))
        agree("ready at the end", await ready(NOW + 5), expected=False)

    @on_a_store
    async def test_a_worker_gets_the_mail_of_what_it_holds(self, store: Store) -> None:
        scripts = [await hold(store, name) for name in ("r1", "r2")]
        await hold(store, "r3", worker="bob")
        agree("mail", await store.mail("ann", after=0), (0, []))
        await store.deliver([letter("r2", "m1"), letter("r1", "m2"), letter("r3", "m3")])
        of_r1, of_r2, of_r3 = [(await store.unread(f"r{n}"))[0] for n in (1, 2, 3)]
        agree("mail", await store.mail("ann", after=0), (of_r3.n, [of_r2, of_r1]))
        agree("later mail", await store.mail("ann", after=of_r2.n), (of_r3.n, [of_r1]))
        await store.append(scripts[0].change(NOTE, consume=[of_r1.n]))
        agree("mail that is unread", await store.mail("ann", after=0), (of_r3.n, [of_r2]))
        await park(store, scripts[1], seen=of_r2.n)
        agree("mail of what is held", await store.mail("ann", after=0), (of_r3.n, []))
        await store.deliver([letter("r1", "m4")])
        [later] = await store.unread("r1")
        agree("the next mail", await store.mail("ann", after=of_r3.n), (later.n, [later]))

    @on_two_stores
    async def test_a_message_that_races_a_release_wakes_the_run(
        self, one: Store, two: Store
    ) -> None:
        script = await hold(one)
        for n in range(6):
            looked = await one.unread("r")
            seen = max((unread.n for unread in looked), default=0)
            race = [park(one, script, seen=seen), two.deliver([letter("r", f"m{n}")])]
            if n % 3 == 0:
                await race[0]
                await race[1]
            elif n % 3 == 1:
                await race[1]
                await race[0]
            else:
                await asyncio.gather(*race)
            [claimed] = await claim(one, "ann")
            script.epoch = claimed.epoch

    @on_a_store
    async def test_a_message_that_the_run_has_seen_does_not_wake_it(self, store: Store) -> None:
        script = await hold(store)
        await store.deliver([letter("r", "m1"), letter("r", "m2")])
        first, second = await store.unread("r")
        await park(store, script, seen=second.n, consume=[second.n])
        agree("a claim", await claim(store, "ann"), [])
        agree("the inbox", await store.unread("r"), [first])
        await store.deliver([letter("r", "m1")])
        agree("a claim after a known message", await claim(store, "ann"), [])
        await store.deliver([letter("r", "m3")])
        agree("runs claimed after a new one", len(await claim(store, "ann")), 1)

    @on_a_store
    async def test_a_run_released_in_the_middle_is_ready(self, store: Store) -> None:
        script = await hold(store)
        script.at = NOW + 5
        await store.append(script.change(NOTE))
        agree("the row", await store.row("r"), script.state.row())
        await store.append(script.change(release=True))
        [claimed] = await claim(store, "bob")
        agree("the claim", (claimed.row, claimed.epoch), (script.state.row(), 2))

    @on_a_store
    async def test_a_run_that_has_ended_is_never_claimed(self, store: Store) -> None:
        ends: list[ev.Body] = [ev.RunSucceeded(), ev.RunFailed(), ev.RunCancelled()]
        for n, end in enumerate(ends):
            script = await hold(store, f"r{n}")
            await store.append(script.change(end, release=True))
            await store.deliver([letter(script.run, "m1")])
            agree("a claim of it", await claim(store, "ann", run=script.run), [])
        agree("a claim", await claim(store, "ann"), [])

    @on_a_store
    async def test_a_run_that_is_asked_for_need_not_be_ready(self, store: Store) -> None:
        await park(store, await hold(store))
        await begin(store, "ready")
        agree("a claim of none", await claim(store, "ann", run="none"), [])
        [claimed] = await claim(store, "ann", run="r")
        agree("the claim", (claimed.row.run, claimed.epoch), ("r", 2))
        agree("a claim of one that is held", await claim(store, "bob", run="r"), [])

    @on_two_stores
    async def test_epochs_outlive_the_process(self, one: Store, two: Store) -> None:
        script = await hold(one)
        await one.close()  # a store may know that its workers are gone, and not wait for the lease
        await two.append(script.change(NOTE))
        [claimed] = await claim(two, "bob", LATE - 2) or await claim(two, "bob", LATE)
        agree("the claim", (claimed.row, claimed.epoch), (script.state.row(), 2))
        await refused(Fenced, append(two, script.change(NOTE)))

    @on_a_store
    async def test_workers_are_known_while_their_leases_hold(self, store: Store) -> None:
        async def known(now: int) -> list[tuple[str, int, int, int, str]]:
            found = await store.workers(now=now)
            return [(w.worker, w.since, w.expires_at, w.runs, w.about) for w in found]

        agree("workers of a new store", await known(NOW), [])
        await store.register("bob", about='{"a":1}', now=NOW, lease_us=LEASE_US)
        await hold(store, "r1")
        await hold(store, "r2", now=NOW + 2)
        ann = ("ann", NOW, NOW + 2 + LEASE_US, 2, "")
        agree("workers", await known(NOW + 2), [ann, ("bob", NOW, NOW + LEASE_US, 0, '{"a":1}')])
        agree("a renewal", await renew(store, "bob", NOW + 4), expected=True)
        bob = ("bob", NOW, NOW + 4 + LEASE_US, 0, '{"a":1}')
        agree("workers, later", await known(NOW + LEASE_US + 3), [bob])
        await store.release("bob")
        agree("workers in the end", await known(LATE + 4), [])


async def renew(store: Store, worker: str, now: int) -> bool:
    """Renew with the usual lease."""
    return await store.renew(worker, now=now, lease_us=LEASE_US)
