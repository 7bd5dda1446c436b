"""Writers and a follower under load, the recorded history of it, and its judge.

Writers append to runs of their own and claim them anew when nobody can tell what became of an
append; all calls and answers are recorded with their times. The history must be linearizable: each
event names its place, so the log is the only order possible, and it must agree with what came
before what in time.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from holdfast.core import events as ev
from holdfast.errors import StoreError
from holdfast.stores.postgres import PostgresStore
from holdfast.testing.harness import EVERYTHING
from holdfast.testing.model import check_stream
from holdfast.testing.script import Script

RUNS = 12
LEASE_US = 600_000_000
AGENTS = ["agent:test"]


@dataclass
class Call:
    """An append or a claim, when it was made and answered; ``answered`` is 0 for an error."""

    run: str
    place: int
    """The seq of the event, or the epoch claimed."""
    called: float
    answered: float = 0.0
    leaf: bytes = b""


@dataclass
class History:
    appends: list[Call] = field(default_factory=list)
    claims: list[Call] = field(default_factory=list)
    followed: list[tuple[int, ev.Event]] = field(default_factory=list)
    over: bool = False

    def acknowledged(self, since=0.0):
        """Count the appends made since then that were acknowledged."""
        return sum(call.answered > 0 and call.called > since for call in self.appends)

    def stands_still(self):
        """Whether the last append of each writer was not, so that all wait, or claim anew."""
        last = {call.run: call for call in self.appends}
        return not any(call.answered for call in last.values())

    async def write(self, store, run):
        """Append to one run until it is over; after an error, claim it anew and look."""
        script = None
        while not self.over or script is None:
            if script is None:
                script = await self.claim(store, run)
                continue
            call = Call(run, script.state.seq + 1, time.monotonic())
            self.appends.append(call)
            change = script.change((ev.StreamEmitted(1), b"1"))
            call.leaf = change.events[0].leaf
            try:
                await store.append(change)
                call.answered = time.monotonic()
            except StoreError:
                script = None
            await asyncio.sleep(0.002)

    async def claim(self, store, run):
        call = Call(run, 0, time.monotonic())
        try:
            now = time.time_ns() // 1000
            claims = await store.claim(
                f"w-{run}", now=now, lease_us=LEASE_US, agents=AGENTS, limit=1, run=run
            )
            if not claims:
                await store.release(f"w-{run}")  # the answer to the last claim was lost
                return None
            events = await store.read(run)
        except StoreError:
            await asyncio.sleep(0.05)
            return None
        call.answered, call.place = time.monotonic(), claims[0].epoch
        self.claims.append(call)
        assert [event.seq for event in events] == [*range(1, claims[0].row.seq + 1)]
        return Script(events, at=time.time_ns() // 1000, epoch=claims[0].epoch)

    async def follow(self, store):
        """Read the log behind what was seen, as a follower does."""
        while not self.over:
            after = self.followed[-1][0] if self.followed else 0
            with contextlib.suppress(StoreError):
                self.followed += await store.read_log(after, limit=500)
            await asyncio.sleep(0.02)


async def judge(history, store):
    """Check all that must hold, against the store as it is in the end."""
    log = await store.read_log(0, limit=EVERYTHING)
    assert [pos for pos, _ in log] == [*range(1, len(log) + 1)]
    assert log[: len(history.followed)] == history.followed, "a follower saw another log"
    positions = {event.leaf: pos for pos, event in log}
    for n in range(RUNS):
        events = await store.read(f"r{n}")
        assert check_stream(events) == await store.row(f"r{n}")
        assert [event for _, event in log if event.run == f"r{n}"] == events
    acknowledged = [call for call in history.appends if call.answered]
    lost = [call for call in acknowledged if call.leaf not in positions]
    assert not lost, f"{len(lost)} acknowledged events are lost: {lost[:3]}"
    check_times(acknowledged, lambda call: positions[call.leaf])
    for n in range(RUNS):
        check_times([c for c in history.claims if c.run == f"r{n}"], lambda call: call.place)
    return len(acknowledged)


def check_times(calls, place):
    """Whatever was answered before another call was made has the smaller place."""
    answered = sorted(calls, key=lambda call: call.answered)
    highest, n = 0, 0
    for call in sorted(calls, key=lambda call: call.called):
        while n < len(answered) and answered[n].answered < call.called:
            highest = max(highest, place(answered[n]))
            n += 1
        assert place(call) > highest, f"{call} stands before what was answered before it was made"


async def until(holds):
    """Wait until something holds."""
    while not holds():  # noqa: ASYNC110 - whatever it is, nobody tells
        await asyncio.sleep(0.01)


async def more(history, tasks, appends=20 * RUNS):
    """Wait for so many more acknowledged appends; what ended meanwhile has failed."""
    enough = history.acknowledged() + appends
    while history.acknowledged() < enough:
        await asyncio.sleep(0.01)
        ended = [task for task in tasks if task.done()]
        assert not ended, [task.result() for task in ended]


async def under_load(url, disaster, times=1):
    """Write and follow, let the disaster come so many times, and judge.

    ``disaster(history)`` is awaited while there is load; what it returns is returned.
    """
    history, told = History(), []
    stores = [await PostgresStore.open(url) for _ in range(2)]
    for n in range(RUNS):
        await stores[0].create(Script.begin(f"r{n}", at=time.time_ns() // 1000).new())
    tasks = [asyncio.create_task(history.write(stores[n % 2], f"r{n}")) for n in range(RUNS)]
    tasks.append(asyncio.create_task(history.follow(stores[1])))
    for _ in range(times):
        await more(history, tasks)
        told.append(await disaster(history))
    await more(history, tasks)
    history.over = True
    await asyncio.gather(*tasks)
    acknowledged = await judge(history, stores[0])
    for store in stores:
        await store.close()
    print(f"{acknowledged} acknowledged, {len(history.appends) - acknowledged} not; {told}")  # noqa: T201 - for pytest -s
    return told
