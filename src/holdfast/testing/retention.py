"""Conformance of retention: which payloads go, and that nothing goes with them."""

from dataclasses import replace

from holdfast.core import events as ev
from holdfast.errors import UsageError
from holdfast.ports import Store
from holdfast.retention import COLLECTED_RUNS
from holdfast.runtime.births import collection_run
from holdfast.testing.harness import NOW, agree, hold, letter, on_a_store, on_two_stores, refused
from holdfast.testing.script import Script, conversation

__all__ = ["RetentionConformance", "ended", "tell"]

LARGE = conversation(400)
TOLD = f"{COLLECTED_RUNS}{NOW + 1}"


class RetentionConformance:
    """Collections of payloads, and sweeps of what they leave."""

    @on_a_store
    async def test_runs_that_ended_before_a_time_are_told(self, store: Store) -> None:
        for name, at in (("s", NOW), ("r", NOW), ("late", NOW + 1)):
            await ended(store, name, at=at)
        await hold(store, "alive")
        await tell(store)
        old = await store.ended(before=NOW + 1, limit=9)
        agree("old ones", [one.run for one in old], ["r", "s"])
        agree("their payloads", [one.payloads for one in old], [3, 3])
        page = await store.ended(before=NOW + 2, after="late", limit=1)
        agree("a page", [one.run for one in page], ["r"])

    @on_a_store
    async def test_a_collection_takes_payloads_and_salts_and_nothing_else(
        self, store: Store
    ) -> None:
        script = await ended(store, "r")
        alive, other = await hold(store, "alive"), await ended(store, "other")
        await store.append(alive.change((ev.StreamEmitted(1), LARGE)))
        await store.deliver([letter("r", "m1", payload=LARGE)])
        row = await store.row("r")
        await tell(store)
        await store.collect(["r", "alive", TOLD], TOLD)
        left = [replace(event, payload=None, salt=None) for event in script.events]
        agree("what is left", await store.read("r"), left)
        agree("why", [e.withheld for e in left], ["collected" if e.committed else "" for e in left])
        agree("the row", await store.row("r"), row)
        for one in (alive, other):
            agree("another run", await store.read(one.run), one.events)
        agree("the inbox", [m.message.payload for m in await store.unread("r")], [LARGE])
        told = await store.read(TOLD)
        agree("what tells of it", [e.withheld for e in told], [""] * len(told))
        agree("old ones", [e.payloads for e in await store.ended(before=NOW + 1, limit=9)], [3, 0])

    @on_a_store
    async def test_a_collection_that_nothing_tells_of_is_refused(self, store: Store) -> None:
        script = await ended(store, "r")
        await refused(UsageError, store.collect(["r"], TOLD))
        agree("the stream", await store.read("r"), script.events)

    @on_two_stores
    async def test_a_sweep_leaves_what_others_have(self, store: Store, other: Store) -> None:
        await ended(store, "r", payload=LARGE)
        alive = await hold(other, "alive")
        await other.append(alive.change((ev.StreamEmitted(1), LARGE)))
        await store.deliver([letter("r", "m1", payload=LARGE[:-2])])
        await tell(store)
        await store.collect(["r"], TOLD)
        await store.sweep()
        agree("the other run", await store.read("alive"), alive.events)
        agree("the inbox", [m.message.payload for m in await store.unread("r")], [LARGE[:-2]])

    @on_two_stores
    async def test_what_was_swept_can_be_stored_again(self, store: Store, other: Store) -> None:
        alive = [await hold(one, f"alive {n}") for n, one in enumerate((store, other))]
        await ended(store, "r1", payload=LARGE)
        await ended(other, "r2", payload=LARGE)
        await tell(store)
        await store.collect(["r1", "r2"], TOLD)
        await store.sweep()
        for one, script, edited in zip((store, other), alive, (1, -1), strict=True):
            payload = conversation(400, edited=edited)
            await one.append(script.change((ev.StreamEmitted(1), payload)))
            agree("the stream", await store.read(script.run), script.events)


async def ended(store: Store, run: str, *, at: int = NOW, payload: bytes = b"1") -> Script:
    """Carry a run to its end, with three payloads, the second one as given."""
    script = await hold(store, run, worker=f"worker of {run}", now=at)
    emitted, over = (ev.StreamEmitted(1), payload), (ev.RunSucceeded(), b"1")
    await store.append(script.change(ev.TurnStarted(1), emitted, over, release=True))
    return script


async def tell(store: Store) -> None:
    """Create the run that tells of a collection."""

    class Zeros:
        def bytes(self, n: int) -> bytes:
            return bytes(n)

    await store.create(collection_run(NOW + 1, b"null", now=NOW + 1, entropy=Zeros()))
