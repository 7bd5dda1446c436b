"""Schedules: an agent is started at times that a cron expression names, once for each.

A schedule is durable by the runs it makes. Whoever works keeps one run ahead: the next tick's,
created with its id (``NAME@TICK``) and its start, so it waits in the store like any delayed run and
begins wherever a worker is at that time. Two workers that create it create one, for they give it
one id. Ticks that passed while nobody worked are made up for once: the run that was waiting begins
late, whatever has passed since; if it had begun, one is created for the latest tick.

Nothing is remembered beside the runs: the latest of them says how far a schedule has come.
"""

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from holdfast.core.limits import QUEUE_NAME_CHARS_MAX, check_name
from holdfast.core.specs import agent_spec
from holdfast.errors import UsageError
from holdfast.ports import Store
from holdfast.runtime.births import Place

__all__ = ["Schedule", "Schedules", "schedule"]

_TICK = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Schedule:
    """When an agent is to be started, and with what; made by ``hf.schedule``."""

    name: str
    cron: str
    agent: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    tz: str = "UTC"
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        check_name("schedule", self.name, QUEUE_NAME_CHARS_MAX)
        spec = agent_spec(self.agent)
        spec.encode_input(self.args, self.kwargs)
        if self.place.start_at is not None or self.place.delay_s:
            raise UsageError(f"schedule {self.name!r}: its ticks say when; its place must not")
        try:
            zone = ZoneInfo(self.tz)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            raise UsageError(f"schedule {self.name!r}: no time zone {self.tz!r}") from None
        try:
            next(CronSim(self.cron, dt.datetime(2024, 1, 1, tzinfo=zone)))
        except (CronSimError, StopIteration) as error:
            raise UsageError(
                f"schedule {self.name!r}: {self.cron!r} is no cron expression ({error})."
                " Hint: five fields, minute hour day month weekday"
            ) from None

    def after(self, at: int) -> int:
        """Return the first tick after a time; both in µs."""
        return self._seek(at, reverse=False)

    def until(self, at: int) -> int:
        """Return the last tick that is not after a time; both in µs."""
        return self._seek(at + 1_000_000, reverse=True)

    def run_id(self, tick: int) -> str:
        """Return the id of a tick's run."""
        return f"{self.name}@{_utc(tick).strftime(_TICK)}"

    def tick_of(self, run: str) -> int:
        """Return the tick that a run is for, 0 when it is none of this schedule's."""
        name, _, text = run.rpartition("@")
        try:
            tick = dt.datetime.strptime(text, _TICK).replace(tzinfo=dt.UTC)
        except ValueError:
            return 0
        return round(tick.timestamp() * 1e6) if name == self.name else 0

    def _seek(self, at: int, *, reverse: bool) -> int:
        from_ = _utc(at // 1_000_000 * 1_000_000).astimezone(ZoneInfo(self.tz))
        return round(next(CronSim(self.cron, from_, reverse=reverse)).timestamp() * 1e6)


def schedule(
    cron: str,
    agent: Callable[..., Any],
    *args: Any,
    name: str = "",
    tz: str = "UTC",
    place: Place | None = None,
    **kwargs: Any,
) -> Schedule:
    """Have an agent started at times; for ``hf.App(schedules=…)``, or at the top of a module.

    ::

        nightly = hf.schedule("0 2 * * *", report, "all", tz="Europe/Berlin")

    Each tick is one run, ``NAME@TICK``, however many workers there are; ticks that passed while
    there was none are made up for by one. Times of day that do not exist, or exist twice, when
    clocks are changed are as in Debian's cron.

    Args:
        cron: Minute, hour, day of the month, month, day of the week.
        agent: The agent.
        args: Its input.
        name: What the schedule, and so its runs, are called; the agent's name if empty.
        tz: The time zone that the expression is meant in.
        place: Where the runs stand in line.
        kwargs: Its input by name.

    Raises:
        UsageError: no such expression or zone.
        CodecError: the input does not fit the agent.
    """
    name = name or agent_spec(agent).name
    return Schedule(name, cron, agent, args, kwargs, tz, place or Place())


class Schedules:
    """Keeps one run ahead for each schedule.

    Args:
        schedules: The schedules, of different names.
        store: Where their runs are.
        start: Starts a schedule's run under an id, at a time (µs, 0 for at once).
    """

    def __init__(
        self,
        schedules: Iterable[Schedule],
        store: Store,
        start: Callable[[Schedule, str, int], Awaitable[object]],
    ) -> None:
        self._schedules: dict[str, Schedule] = {}
        for one in schedules:
            if self._schedules.setdefault(one.name, one) is not one:
                raise UsageError(f"two schedules have one name: {one.name!r}")
        self._store = store
        self._start = start

    async def keep(self, now: int) -> int:
        """Create the runs that are due or next; return when to be called again, 0 for never.

        Raises:
            StoreError: the store cannot be written now.
        """
        ticks = [await self._keep(one, now) for one in self._schedules.values()]
        return min(ticks, default=0)

    async def _keep(self, one: Schedule, now: int) -> int:
        latest = await self._store.rows(prefix=f"{one.name}@", limit=1)
        reached = one.tick_of(latest[0].run) if latest else 0
        missed = one.until(now)
        begun = bool(latest) and latest[0].status not in ("waiting", "pending")
        if reached and reached < missed and begun:
            await self._start(one, one.run_id(missed), 0)
        tick = one.after(now)
        await self._start(one, one.run_id(tick), tick)
        return tick


def _utc(at: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at / 1e6, dt.UTC)
