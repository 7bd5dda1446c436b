"""Leases runs, advances them, gives them back.

A worker claims ready runs of the agents it knows, keeps its leases alive by one heartbeat, and
hands a run back when it has ended or parked. Any worker can carry on any run. A worker that cannot
renew its leases in time stops acting before they end, by its own monotonic clock.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.specs import AgentSpec
from holdfast.core.state import ENDED, RunRow
from holdfast.errors import (
    Conflict,
    Fenced,
    StoreError,
    StoreUnavailable,
    UsageError,
    VaultMissing,
)
from holdfast.ports import Append, Claim
from holdfast.runtime.hosting import Ending, RunnerSettings
from holdfast.runtime.runner import Runner
from holdfast.runtime.schedules import Schedules

__all__ = ["Worker", "WorkerSettings"]

_LOG = logging.getLogger("holdfast")
LET_GO_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker behaves. All durations are in seconds."""

    lease_s: float = 15.0
    poll_s: float = 1.0
    """How long a wake-up that no hint announced may go unnoticed."""
    runs_max: int = 500
    """How many runs are in memory at once."""
    only_run: str = ""
    """Advance this run and those it starts, ready or not."""

    def __post_init__(self) -> None:
        if not 0 < self.poll_s <= self.lease_s / 3:
            raise UsageError(
                f"a worker needs 0 < poll_s <= lease_s / 3, not poll_s={self.poll_s},"
                f" lease_s={self.lease_s}"
            )


@dataclass(slots=True)
class Worker:
    """Advances runs until it is stopped.

    Args:
        agents: The agents it knows.
        settings: What its runners share.
        worker_settings: How it behaves.
    """

    agents: Iterable[AgentSpec]
    settings: RunnerSettings
    worker_settings: WorkerSettings = field(default_factory=WorkerSettings)
    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What `holdfast workers` shows of it, besides its agents."""
    schedules: Schedules | None = None
    endings: dict[str, Ending] = field(default_factory=dict)
    """The last ending of each run that left memory, while ``only_run`` is set."""
    _by_uri: dict[str, AgentSpec] = field(init=False, default_factory=dict)
    _runners: dict[str, Runner] = field(init=False, default_factory=dict)
    _starting: set[str] = field(init=False, default_factory=set)
    _draining: bool = field(init=False, default=False)
    _stopped: bool = field(init=False, default=False)
    _lease_ends: float = field(init=False, default=0.0)
    _lease_ends_at: int = field(init=False, default=0)
    _tick: int = field(init=False, default=0)
    """When the schedules want to be kept next, -1 for never."""
    _claimed_at: int = field(init=False, default=0)
    """The time of the last claim, or of the look that found none worth it."""
    _troubles: set[str] = field(init=False, default_factory=set)
    """What has been told of errors since the last claim: each once, not at every try."""
    _trouble_of_store: str = field(init=False, default="")
    """What the store said when a lease could not be taken or renewed last, empty when it could."""
    _registered: bool = field(init=False, default=False)
    _pauses: frozenset[tuple[str, str]] = field(init=False, default=frozenset())
    _diverged: list[str] = field(init=False, default_factory=list)
    """Diverged runs that have not been tried with this worker's code."""
    _mail_seen: int = field(init=False, default=0)
    _left: "asyncio.Future[None] | None" = field(init=False, default=None)
    _claim_lost: bool = field(init=False, default=False)
    """Whether a claim failed, and nobody knows if it was made."""
    _blind_s: float = field(init=False, default=0.0)
    _blind_until: float = field(init=False, default=0.0)
    """Until when nothing is claimed, since a claim has brought a run that is sealed here."""
    _failures: dict[str, int] = field(init=False, default_factory=dict)
    """How often each run has left memory with an error, one time after the other."""
    _letting_go: "dict[str, asyncio.Task[None]]" = field(init=False, default_factory=dict)
    """Run → who gives it back after a while, for such runs."""

    def __post_init__(self) -> None:
        for spec in self.agents:
            if self._by_uri.setdefault(spec.uri, spec) is not spec:
                raise UsageError(f"two agents have one name: {spec.name!r}")
        self.name = self.name or f"worker-{self.settings.entropy.bytes(6).hex()}"

    @property
    def idle(self) -> bool:
        """Whether no run is in memory."""
        return not self._runners and not self._starting

    def statistics(self) -> dict[str, int]:
        """Return how many runs are in memory."""
        return {"runs": len(self._runners)}

    def runs(self) -> list[str]:
        """Return the runs in memory."""
        return sorted(self._runners)

    def not_ready(self) -> str:
        """Return why this worker claims no run now, empty while it does."""
        if self._stopped:
            return "it has stopped"
        if self._draining:
            return "it drains"
        if not self._registered:
            return "it begins"
        return self._trouble_of_store

    async def run(self, *, until_idle: bool = False) -> None:
        """Advance runs until ``drain`` is called or, ``until_idle``, until none could go on."""
        heartbeat = asyncio.get_running_loop().create_task(self._heartbeat())
        try:
            await self._register()
            self._diverged = await self._find_diverged()
            while not (self._draining and self.idle):
                await self._heed_pauses()
                await self._keep_schedules()
                claimed = await self._claim()
                if until_idle and not claimed and self.idle and await self._nothing_left():
                    return
                if not claimed:
                    await self._rest()
                    await self._collect_mail()
        finally:
            self._stopped = True
            heartbeat.cancel()
            for task in self._letting_go.values():
                task.cancel()
            for runner in list(self._runners.values()):
                runner.fence()
            await self._give_back()

    def drain(self) -> None:
        """Claim nothing more and let go of the runs in memory, effects under way finished first."""
        self._draining = True
        self._stop_resting()
        for runner in self._runners.values():
            runner.drain()

    # Inside

    async def _register(self) -> None:
        """Tell the store who this is; it is no matter if that fails, a claim does as well."""
        about = json.dumps({**self.about, "agents": sorted(s.name for s in self._by_uri.values())})
        lease_us = int(self.worker_settings.lease_s * 1e6)
        begun, now = asyncio.get_running_loop().time(), self.settings.clock.now()
        try:
            await self.settings.store.register(self.name, about=about, now=now, lease_us=lease_us)
        except StoreError as error:
            self._note_trouble(error)
            self._trouble_of_store = str(error)
        else:
            self._trouble_of_store = ""
            self._leased_until(begun, now)
        self._registered = True

    async def _find_diverged(self) -> list[str]:
        """Return the diverged runs: this worker may have the code that they wait for.

        Each is tried once, so that a fixed agent carries on after a restart and nothing spins.
        """
        if self.worker_settings.only_run:
            return []
        found: list[str] = []
        after: tuple[int, str] | None = None
        try:
            while rows := await self.settings.store.rows(
                status=["diverged"], agents=list(self._by_uri), after=after
            ):
                found += [row.run for row in rows]
                after = (rows[-1].created_at, rows[-1].run)
        except StoreError as error:
            self._note_trouble(error)
        return found

    async def _nothing_left(self) -> bool:
        """Tell whether no run of ours could go on.

        One that another worker holds may yet come back.
        """
        only = self.worker_settings.only_run
        rows = await self.settings.store.rows(
            prefix=only, status=["pending", "running"], agents=list(self._by_uri)
        )
        return not any(
            (not only or row.run == only or row.run.startswith(f"{only}/"))
            and not self._is_paused(row)
            for row in rows
        )

    async def _keep_schedules(self) -> None:
        """Create the runs of schedules that are due or next."""
        if self.schedules is None or not 0 <= self._tick <= self.settings.clock.now():
            return
        now = self.settings.clock.now()
        try:
            self._tick = await self.schedules.keep(now) or -1
        except StoreError as error:
            self._note_trouble(error)
            self._tick = now + int(self.worker_settings.poll_s * 1e6)

    async def _heed_pauses(self) -> None:
        """Give back, at the next step's end, the runs in memory that somebody has paused."""
        try:
            pauses = await self.settings.store.pauses()
        except StoreError as error:
            self._note_trouble(error)
            return
        self._pauses = frozenset((pause.kind, pause.name) for pause in pauses)
        if self._pauses:
            for runner in self._runners.values():
                if not runner.draining and self._is_paused(runner.claim.row):
                    runner.drain()

    def _is_paused(self, row: RunRow) -> bool:
        places = {("run", row.run), ("queue", row.queue), ("agent", row.agent)}
        return not places.isdisjoint(self._pauses)

    async def _rest(self) -> None:
        """Wait until something may have become ready, or a run has left memory."""
        timeout = self.worker_settings.poll_s
        try:
            # What was due at the last claim and is still here is paused, or has no room.
            wake_at = await self.settings.store.next_wake(
                list(self._by_uri), after=self._claimed_at
            )
        except StoreError as error:
            self._note_trouble(error)
            wake_at = 0
        if self._tick > 0:
            wake_at = min(wake_at or self._tick, self._tick)
        if wake_at:
            due_s = (wake_at - self.settings.clock.now()) / 1e6
            timeout = max(0.001, min(timeout, due_s))
        loop = asyncio.get_running_loop()
        self._left = loop.create_future()
        hint = loop.create_task(self._hint(timeout))
        await asyncio.wait({hint, self._left}, return_when=asyncio.FIRST_COMPLETED)
        hint.cancel()

    async def _hint(self, timeout_s: float) -> None:
        try:
            await self.settings.store.changed(timeout_s, ready=True)
        except StoreError as error:
            self._note_trouble(error)
            await asyncio.sleep(timeout_s)

    async def _collect_mail(self) -> None:
        """Give the runs in memory the messages that have arrived for them."""
        if not self._runners:
            return
        try:
            self._mail_seen, messages = await self.settings.store.mail(
                self.name, after=self._mail_seen
            )
        except StoreError as error:
            self._note_trouble(error)
            return
        for message in messages:
            if message.message.to in self._runners:
                self._runners[message.message.to].arrived(message)

    async def _claim(self) -> bool:
        room = self.worker_settings.runs_max - len(self._runners)
        if self._draining or room <= 0 or asyncio.get_running_loop().time() < self._blind_until:
            return False
        settings, only = self.worker_settings, self.worker_settings.only_run
        first = bool(only) and not self.endings and not self._runners
        agents = list(self._by_uri)
        begun = asyncio.get_running_loop().time()
        now = self._claimed_at = self.settings.clock.now()
        try:
            if self._claim_lost and await self._find_lost():
                return True
            named = only if first else self._diverged.pop() if self._diverged else ""
            if not named and not await self.settings.store.ready(agents, now=now):
                return False
            claims = await self.settings.store.claim(
                self.name,
                now=now,
                lease_us=int(settings.lease_s * 1e6),
                agents=agents,
                limit=min(room, 100),
                run=named,
                family=only,
            )
        except StoreError as error:
            self._note_trouble(error)
            self._trouble_of_store = str(error)
            self._claim_lost = True
            return False
        self._troubles.clear()
        self._trouble_of_store = ""
        self._leased_until(begun, now)
        for claim in claims:
            self._begin(claim)
        return bool(claims)

    async def _find_lost(self) -> bool:
        """Begin the runs that a claim gave us whose answer was lost."""
        held = await self.settings.store.held(self.name)
        self._claim_lost = False
        known = {*self._runners, *self._letting_go}
        lost = [claim for claim in held if claim.row.run not in known]
        for claim in lost:
            self._begin(claim)
        return bool(lost)

    def _begin(self, claim: Claim) -> None:
        runner = Runner(
            claim, self._by_uri[claim.row.agent], self.settings, lease_holds=self._lease_holds
        )
        run = claim.row.run
        self._runners[run] = runner
        runner.ended.add_done_callback(lambda done: self._ended(runner, done.result()))
        task = asyncio.get_running_loop().create_task(runner.start())
        task.add_done_callback(lambda done: self._started(runner, done))
        if self._draining:
            runner.drain()

    def _started(self, runner: Runner, done: "asyncio.Task[None]") -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is not None and not runner.ended.done():
            runner.ended.set_result(Ending("unavailable", "", error))

    def _ended(self, runner: Runner, ending: Ending) -> None:
        if self._runners.get(runner.run) is runner:
            del self._runners[runner.run]
        self.endings[runner.run] = ending
        self._stop_resting()
        if not self.worker_settings.only_run and len(self.endings) > 1000:  # noqa: PLR2004 - only a look back
            self.endings.clear()
        if ending.error is None:
            self._failures.pop(runner.run, None)
            return
        if isinstance(ending.error, Fenced | Conflict):
            _LOG.warning("%s", ending.error)
        else:
            self._note_trouble(ending.error, runner.run)
            if self.worker_settings.only_run == runner.run:
                self.drain()  # whoever waits for this run is to be told
        if blind := isinstance(ending.error, VaultMissing):
            self._look_away()
        give_back = self._let_go(runner.run, runner.epoch, at_once=blind)
        self._letting_go[runner.run] = asyncio.get_running_loop().create_task(give_back)

    def _look_away(self) -> None:
        """Claim nothing for a while, longer each time: runs of subjects are for workers with a key.

        Nothing tells such a run before it is claimed, and it is ready again once it is given back.
        """
        self._blind_s = min(max(self.worker_settings.poll_s, 2 * self._blind_s), LET_GO_S_MAX)
        self._blind_until = asyncio.get_running_loop().time() + self._blind_s

    async def _let_go(self, run: str, epoch: int, *, at_once: bool = False) -> None:
        """Give back the lease of a run that left memory with an error, so that it can be claimed.

        Not at once, and later each time: the fault may be the run's own.
        """
        failures = self._failures[run] = self._failures.get(run, 0) + 1
        delay_s = min(self.worker_settings.poll_s * 2.0 ** min(failures - 1, 20), LET_GO_S_MAX)
        await asyncio.sleep(0 if at_once else delay_s)
        while not await self._is_free(run, epoch):  # noqa: ASYNC110 - the store has no event for it
            await asyncio.sleep(delay_s)
        if self._letting_go.get(run) is asyncio.current_task():
            del self._letting_go[run]

    async def _is_free(self, run: str, epoch: int) -> bool:
        """Release a run unless it has ended or somebody else has it; False if that failed."""
        store = self.settings.store
        try:
            row = await store.row(run)
            if row is not None and row.status not in ENDED:
                await store.append(Append(run, epoch, row.seq, (), row, release=True))
        except Fenced:
            return True
        except Conflict:
            return False  # an append of ours was still on its way
        except StoreError as error:
            self._note_trouble(error, run)
            return False
        return True

    def _stop_resting(self) -> None:
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def _leased_until(self, begun: float, now: int) -> None:
        """Note how long leases hold that were taken or renewed at this time of loop and clock."""
        lease_s = self.worker_settings.lease_s
        self._lease_ends, self._lease_ends_at = begun + lease_s, now + int(lease_s * 1e6)

    def _lease_holds(self) -> bool:
        """Tell whether no other worker can have claimed our runs yet.

        Both clocks are asked: a machine that was suspended may have stopped one of them.
        """
        time = asyncio.get_running_loop().time()
        return time < self._lease_ends and self.settings.clock.now() < self._lease_ends_at

    def _note_trouble(self, error: BaseException, run: str = "") -> None:
        is_the_runs = run and run not in str(error) and not isinstance(error, StoreUnavailable)
        text = f"run {run!r}: {error}" if is_the_runs else str(error)
        if text not in self._troubles:
            _LOG.error("%s", text)
            self._troubles.add(text)

    async def _heartbeat(self) -> None:
        lease_s = self.worker_settings.lease_s
        loop = asyncio.get_running_loop()
        while not self._stopped:
            await asyncio.sleep(lease_s / 3)
            begun, now = loop.time(), self.settings.clock.now()
            try:
                kept = await self.settings.store.renew(
                    self.name, now=now, lease_us=int(lease_s * 1e6)
                )
            except StoreError as error:
                self._note_trouble(error)
                self._trouble_of_store = str(error)
                kept = self._lease_holds()
            else:
                self._trouble_of_store = ""
                if kept:
                    self._leased_until(begun, now)
            if not kept:
                for runner in list(self._runners.values()):
                    runner.fence()
                await self._register()

    async def _give_back(self) -> None:
        try:
            await self.settings.store.release(self.name)
        except StoreError as error:
            self._note_trouble(error)
