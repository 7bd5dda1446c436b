"""Conformance of copies: what a snapshot shows, and how runs of another store are taken in."""

from holdfast.core import events as ev
from holdfast.core.state import fold
from holdfast.errors import Conflict
from holdfast.ports import INCOMING, Letter, Part, Snapshot, Standing, Store
from holdfast.testing.harness import (
    EVERYTHING,
    LATE,
    NOTE,
    NOW,
    agree,
    begin,
    claim,
    hold,
    letter,
    on_a_store,
    park,
    refused,
)
from holdfast.testing.script import Script

__all__ = ["CopyConformance", "copy_everything"]


class CopyConformance:
    """Snapshots, which stand still, and the parts of runs that come from another store."""

    @on_a_store
    async def test_a_snapshot_shows_one_moment(self, store: Store) -> None:
        names = ["r", "r/x", "s"]
        scripts = [await hold(store, name) for name in reversed(names)][::-1]
        await store.deliver([letter("r", "m1"), letter("r", "m2"), letter("none", "m3")])
        first = (await store.unread("r"))[0]
        received = (ev.MessageReceived("receive#1", "topic", "m1"), b"1")
        await store.append(scripts[0].change(received, consume=[first.n]))
        async with store.snapshot(now=NOW) as snapshot:
            before = await _everything(snapshot)
            await store.append(scripts[1].change(NOTE, deliver=[letter("r", "m4")]))
            await begin(store, "t")
            await store.deliver([letter("other", "m5")])
            agree("the snapshot, once more", await _everything(snapshot), before)
            tail = await snapshot.runs(prefix="r", after="r", limit=1)
            agree("a page", [standing.row.run for standing in tail], ["r/x"])
            agree("events", await snapshot.events("r", after=1, limit=1), scripts[0].events[1:2])
        runs, inboxes = before
        agree("runs", [standing.row.run for standing in runs], names)
        letters = [(one.message.id, one.message.payload, one.taken) for one in inboxes["r"]]
        agree("the inbox", letters, [("m1", b"", 2), ("m2", b"1", 0)])
        agree("strays", [one.message.id for one in inboxes["none"]], ["m3"])

    @on_a_store
    async def test_a_snapshot_tells_who_holds_a_run(self, store: Store) -> None:
        held, parked = await hold(store, "r1"), await hold(store, "r2")
        await park(store, parked)
        for now, worker in ((LATE - 2, "ann"), (LATE, "")):
            async with store.snapshot(now=now) as snapshot:
                found = await snapshot.runs(limit=9)
            standing = [Standing(s.state.row(), 1, w) for s, w in ((held, worker), (parked, ""))]
            agree("who holds what", found, standing)

    @on_a_store
    async def test_a_run_of_another_store_is_claimed_once_it_is_whole(self, store: Store) -> None:
        script = _stream("r")
        first, last = _parts(script)
        await store.receive(first)
        agree("what is to come", [c.row.run for c in await store.held(INCOMING)], ["r"])
        for name in ("", "r"):
            agree("a claim too early", await claim(store, "ann", LATE, run=name), [])
        agree("renew", [c.row.run for c in await store.held(INCOMING)], ["r"])
        await store.receive(last)
        agree("the stream", await store.read("r"), script.events)
        [claimed] = await claim(store, "ann")
        agree("the claim", (claimed.row, claimed.epoch), (script.state.row(), 8))
        script.epoch = 8
        await store.append(script.change(NOTE))
        log = [event for _, event in await store.read_log(0, limit=EVERYTHING)]
        agree("the log", log, script.events)

    @on_a_store
    async def test_a_part_in_the_wrong_place_is_refused(self, store: Store) -> None:
        first, last = _parts(_stream("r"))
        await refused(Conflict, store.receive(last))
        await store.receive(first)
        await refused(Conflict, store.receive(first))
        await store.receive(last)
        await refused(Conflict, store.receive(last))
        script = await hold(store, "mine")
        more = Script(script.events, at=NOW)
        more.add(*NOTE)
        part = Part("mine", 1, more.events[1:], more.state.row(), 0, last=True)
        await refused(Conflict, store.receive(part))
        agree("the run", await store.read("mine"), script.events)
        await store.release("ann")
        other = Script.begin("mine", seed=1)
        other.add(*NOTE)
        foreign = Part("mine", 1, other.events[1:], other.state.row(), 0, last=True)
        await refused(Conflict, store.receive(foreign))
        agree("the run", await store.read("mine"), script.events)

    @on_a_store
    async def test_a_run_comes_back_longer(self, store: Store) -> None:
        script = await hold(store)
        await store.release("ann")
        await store.deliver([letter("r", "m1"), letter("r", "m2")])
        away = Script(script.events, at=NOW)
        away.add(ev.MessageReceived("receive#1", "topic", "m1"), b"1")
        taken = Letter(1, letter("r", "m1", payload=b""), 2)
        row = away.state.row()
        await store.receive(Part("r", 1, away.events[1:], row, 0, [taken], last=True))
        agree("the stream", await store.read("r"), away.events)
        agree("unread", [m.message.id for m in await store.unread("r")], ["m2"])
        [claimed] = await claim(store, "bob")
        agree("the claim", (claimed.row, claimed.epoch), (row, 2))

    @on_a_store
    async def test_an_inbox_comes_as_it_stood(self, store: Store) -> None:
        script = _stream("r")
        script.add(ev.RunParked("waiting"))
        await store.deliver([letter("r", "m1"), letter("r", "m2")])
        theirs = [
            Letter(n, letter("r", f"m{n}", payload=b"" if taken else b"1"), taken)
            for n, taken in ((1, 2), (2, 0), (3, 0), (4, 3))
        ]
        events = script.events
        await store.receive(Part("r", 0, events, script.state.row(), 7, theirs, last=True))
        agree("unread", [m.message.id for m in await store.unread("r")], ["m2", "m3"])
        again = await store.deliver([letter("r", f"m{n}") for n in (1, 2, 3, 4)])
        agree("delivered again", again, [False] * 4)
        async with store.snapshot(now=NOW) as snapshot:
            inbox = await snapshot.inbox("r", after=0, limit=9)
        found = {one.message.id: (one.message.payload, one.taken) for one in inbox}
        agree("the inbox", found, {m.message.id: (m.message.payload, m.taken) for m in theirs})
        agree("runs with unread messages", len(await claim(store, "ann")), 1)


async def copy_everything(store: Store, other: Store, *, now: int, stretch: int) -> None:
    """Copy all that a store has into an empty one, so many events at a time."""
    async with store.snapshot(now=now) as snapshot:
        for standing in await snapshot.runs(limit=EVERYTHING):
            run, seq = standing.row.run, 0
            inbox = await snapshot.inbox(run, after=0, limit=EVERYTHING)
            events = await snapshot.events(run, after=0, limit=EVERYTHING)
            while seq < standing.row.seq:
                row = fold(events[: seq + stretch]).row()
                last = row.seq == standing.row.seq
                letters = inbox if last else ()
                some = events[seq : seq + stretch]
                await other.receive(Part(run, seq, some, row, standing.epoch, letters, last))
                seq = row.seq
        for run in await snapshot.strays(after="", limit=EVERYTHING):
            inbox = await snapshot.inbox(run, after=0, limit=EVERYTHING)
            await other.deliver([letter.message for letter in inbox])


def _stream(run: str) -> Script:
    script = Script.begin(run)
    script.epoch = 7
    script.add(*NOTE)
    script.add(ev.StreamEmitted(2), b'"two"')
    return script


def _parts(script: Script) -> tuple[Part, Part]:
    events = script.events
    first = Part(script.run, 0, events[:2], fold(events[:2]).row(), 7)
    return first, Part(script.run, 2, events[2:], script.state.row(), 7, last=True)


async def _everything(snapshot: Snapshot) -> tuple[list[Standing], dict[str, list[Letter]]]:
    runs = await snapshot.runs(limit=EVERYTHING)
    names = [standing.row.run for standing in runs]
    names += await snapshot.strays(after="", limit=EVERYTHING)
    for standing in runs:
        events = await snapshot.events(standing.row.run, after=0, limit=EVERYTHING)
        agree(f"the row of {standing.row.run!r}", standing.row, fold(events).row())
    inboxes = {name: await snapshot.inbox(name, after=0, limit=EVERYTHING) for name in names}
    return runs, inboxes
