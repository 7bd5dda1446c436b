"""A tick is one run, whoever is there, and whoever was not.

*Goal*: each tick of a schedule starts one run across workers, in the zone's own time; ticks missed
are made up for by one run. *Method*: a clock that the test sets, several workers on one store.
"""

import asyncio
import datetime as dt

import pytest

import holdfast as hf
from holdfast.stores.memory import MemoryStore

MINUTE = 60_000_000


def at(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp() * 1e6)


class Clock:
    at = at("2026-11-25T12:00:30+00:00")

    def now(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def begun():
    return []


@pytest.fixture
def app(clock, begun):
    @hf.step
    async def note(text: str) -> None:
        begun.append(text)

    @hf.agent
    async def report(what: str) -> str:
        await note(what)
        return what

    store = MemoryStore()

    def make(cron="*/10 * * * *", **facts):
        one = hf.schedule(cron, report, "all", name="nightly", **facts)
        return hf.App(store, schedules=[one], clock=clock)

    return make


def work(*apps):
    async def main():
        for app in apps:
            async with app:
                await app.worker(linger_s=0).run(until_idle=True)
        async with apps[0]:
            rows = await apps[0].store.rows()
        return {row.run.removeprefix("nightly@"): row.status for row in rows}

    return asyncio.run(main())


def test_each_tick_is_one_run_however_many_workers(app, clock, begun):
    assert work(app(), app()) == {"2026-11-25T12:10:00Z": "waiting"}
    for n in range(1, 4):
        clock.at += 10 * MINUTE
        runs = work(app(), app(), app())
        assert list(runs.values()).count("succeeded") == n
        assert list(runs.values()).count("waiting") == 1
    assert begun == ["all"] * 3


def test_ticks_that_were_missed_are_made_up_for_once(app, clock, begun):
    work(app())
    clock.at += 65 * MINUTE  # six ticks, of which the first was waiting
    runs = work(app(), app())
    assert runs == {"2026-11-25T12:10:00Z": "succeeded", "2026-11-25T13:10:00Z": "waiting"}
    assert begun == ["all"]


def test_ticks_missed_behind_one_that_had_begun_are_made_up_for_by_the_latest(app, clock, begun):
    work(app())
    clock.at += 10 * MINUTE

    async def somebody_else():
        async with app() as other:
            worker = other.worker(linger_s=0)
            worker.schedules = None  # it dies before it has looked ahead
            await worker.run(until_idle=True)
            for row in await other.store.rows(status=["waiting"]):
                raise AssertionError(row)

    asyncio.run(somebody_else())
    clock.at += 60 * MINUTE
    runs = work(app(), app())
    assert runs == {
        "2026-11-25T12:10:00Z": "succeeded",
        "2026-11-25T13:10:00Z": "succeeded",
        "2026-11-25T13:20:00Z": "waiting",
    }
    assert begun == ["all"] * 2


def test_a_schedule_that_is_new_makes_up_for_nothing(app, begun):
    assert list(work(app()).values()) == ["waiting"]
    assert begun == []


@pytest.mark.parametrize(
    ("cron", "tz", "now", "tick"),
    [
        ("0 2 * * *", "Europe/Berlin", "2026-11-25T12:00+00:00", "2026-11-26T01:00+00:00"),
        ("0 2 * * *", "Europe/Berlin", "2026-07-01T12:00+00:00", "2026-07-02T00:00+00:00"),
        # Clocks go forward at 02:00: half past two does not exist and falls to three.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00", "2026-03-29T01:00+00:00"),
        ("0 9 * * 1-5", "America/New_York", "2026-11-27T15:00+00:00", "2026-11-30T14:00+00:00"),
        ("0 0 1 * *", "UTC", "2026-12-31T23:59:59+00:00", "2027-01-01T00:00+00:00"),
    ],
)
def test_ticks_are_in_the_time_of_their_zone(app, cron, tz, now, tick):
    (one,) = app(cron, tz=tz)._schedules  # noqa: SLF001 - as it was made
    assert one.after(at(now)) == at(tick)
    assert one.until(at(tick)) == at(tick)
    assert one.until(at(tick) - 1) < at(tick)
    assert one.tick_of(one.run_id(at(tick))) == at(tick)


def test_a_tick_in_the_hour_that_comes_twice_is_two_runs_at_most_and_no_id_twice(app):
    (one,) = app("30 * * * *", tz="Europe/Berlin")._schedules  # noqa: SLF001 - as it was made
    tick, ticks = at("2026-10-24T23:00+00:00"), []
    for _ in range(5):
        tick = one.after(tick)
        ticks.append(one.run_id(tick))
    assert len(set(ticks)) == 5
    assert ticks == sorted(ticks)


def test_a_schedule_that_cannot_be_is_refused(app):
    for wrong, said in (
        ({"cron": "61 * * * *"}, "no cron expression"),
        ({"cron": "nonsense"}, "no cron expression"),
        ({"tz": "Mars/Olympus"}, "no time zone"),
        ({"place": hf.Place(delay_s=5)}, "its ticks say when"),
    ):
        with pytest.raises(hf.UsageError, match=said):
            app(**wrong)
    with pytest.raises(hf.CodecError):
        hf.schedule("0 2 * * *", _counted, "x", name="n")
    twice = [hf.schedule("0 2 * * *", _counted, n, name="n") for n in (1, 2)]

    async def main():
        async with hf.App(MemoryStore(), schedules=twice) as one:
            one.worker()

    with pytest.raises(hf.UsageError, match="two schedules"):
        asyncio.run(main())


@hf.agent
async def _counted(n: int) -> int:
    return n


def test_a_worker_that_runs_on_wakes_for_the_next_tick(app, clock, begun):
    async def main():
        async with app() as one, one.working():
            await until(lambda: len(one.store.inner._runs) == 1)  # noqa: SLF001 - the first is ahead
            for n in range(1, 4):
                clock.at += 10 * MINUTE
                await until(lambda n=n: len(begun) == n and len(one.store.inner._runs) == n + 1)  # noqa: SLF001 - as above

    asyncio.run(main())


async def until(holds):
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come to that")
