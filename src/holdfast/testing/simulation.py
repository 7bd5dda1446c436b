"""Simulated processes over one store, in virtual time: killed, stopped and drained anywhere.

A *process* is an asyncio loop of its own with an App, a worker, a client's script and somebody who
resolves doubts by looking at the world. Its life passes *points*: before and behind each operation
of the store, each deed, inside each transaction. At a point the simulation may

* **kill** it: nothing more of it runs, what it had not appended is gone, its lease runs out by
  itself, and a new process starts the same script from the beginning, with the same ids;
* **stop** it, as SIGSTOP does, until another process has taken over and finished, then let it go on
  where it stood, none the wiser;
* **drain** its worker, as SIGTERM does; another worker carries on in the same process.

One seed decides everything, so the same seed gives the same log, byte for byte.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.app import App
from holdfast.client import Client
from holdfast.core.bodies import StepStarted, TurnStarted
from holdfast.core.state import RunRow
from holdfast.errors import StoreUnavailable, UsageError
from holdfast.ports import Append, Claim, Message, NewRun, StepCall, Store
from holdfast.runtime.context import StepContext
from holdfast.runtime.worker import Worker, WorkerSettings
from holdfast.testing.faults import FaultyStore, Trouble
from holdfast.testing.host import HostLoop, SimulatedClock, SimulatedEntropy, Time, at_once
from holdfast.testing.invariants import turns
from holdfast.testing.program import Crash, Program, Stuck
from holdfast.testing.watch import LEASE_S, POLL_S, Watch

__all__ = ["Crash", "Fate", "Process", "Program", "Simulation", "Stuck"]

QUIET_US = 8_000_000
"""After so long without a change to the log, the clock may jump to the next wake-up."""
STUCK_US = 120_000_000
"""After so long without a change or a wake-up to come, nothing will happen any more."""
CALLBACKS_MAX = 40_000
"""Ten times what the longest program takes."""


class Fate(Protocol):
    """Decides what happens at each point, and with each operation of the store."""

    def at(self, process: "Process", number: int, label: str) -> None:
        """Do something at the ``number``-th point of the simulation, from 1, or nothing."""
        ...

    def trouble(self, process: "Process", label: str) -> Trouble:
        """Return what goes wrong with the next operation."""
        ...


class Process:
    """One simulated process."""

    def __init__(self, simulation: "Simulation", number: int) -> None:
        self.simulation = simulation
        self.name = f"process-{number}"
        self.first = number == 1
        self.alive = True
        self.stopped = False
        self.gone_at_us = -1
        """When it was killed or stopped."""
        self.resumes_at_us = -1
        """When it goes on, if it was stopped for a time."""
        self.resumed = False
        """Whether it has been stopped and has gone on since."""
        self.loop = HostLoop()
        self.loop.set_time(simulation.time.loop_s)
        self.result: Any = None
        self.worker: Worker | None = None
        self.idle_since = -1
        """How many changes the log had seen when the worker last found no run ready."""
        self.bodies: set[tuple[str, str, int]] = set()
        """(run, step key, attempt) of the bodies under way."""
        self.frozen: frozenset[tuple[str, str, int]] = frozenset()
        """Those that were when it was stopped."""
        self._leaving = False
        with self.loop.running():
            self.inner = at_once(simulation.open_store())
            self.store = FaultyStore(self.inner, self)
            self.main = self.loop.create_task(self._main(), context=contextvars.Context())

    @property
    def finished(self) -> bool:
        """Whether the script has returned and the worker has gone home."""
        return self.main.done()

    def run(self, *, one: bool = False) -> None:
        """Run callbacks until none is ready or the process dies; or only one."""
        simulation = self.simulation
        before, simulation.current = simulation.current, self
        try:
            with self.loop.running():
                while self.alive and self.loop.ready:
                    self.loop.step()
                    simulation.count_callback()
                    if one:
                        break
        finally:
            simulation.current = before

    def bury(self) -> None:
        """Clear away what is left of it."""
        self.alive = False
        simulation = self.simulation
        before, simulation.current = simulation.current, self
        self.loop.bury()
        with self.loop.running():
            at_once(self.inner.close())
        simulation.current = before

    def kill(self) -> None:
        """Let it run no further than to its next point, and do nothing there."""
        self.alive = False
        self.gone_at_us = self.simulation.time.passed_us

    def freeze(self) -> None:
        """Let nothing of it run."""
        self.stopped = True
        self.frozen = frozenset(self.bodies)
        self.gone_at_us = self.simulation.time.passed_us

    def thaw(self) -> None:
        """Let it go on where it stood."""
        self.stopped = False
        self.resumed = True
        self.resumes_at_us = -1
        self.loop.fire_due(self.simulation.time)
        self.simulation.watch.changed_at_us = self.simulation.time.passed_us

    # What a FaultyStore asks of its process

    def point(self, label: str) -> None:
        if not self.alive:
            raise Crash
        self.simulation.reached(self, label)
        if not self.alive:
            raise Crash

    def trouble(self, label: str) -> Trouble:
        return self.simulation.fate.trouble(self, label)

    def wrote(self, what: Append | NewRun | Message | Claim) -> None:
        self.simulation.touched()
        with self.simulation.noting():
            assert self.alive, f"{self.name} is dead and writes {what}"
            self.simulation.watch.wrote(self, what)

    def leased(self) -> None:
        self.simulation.touched()

    def gave_back(self) -> None:
        self.simulation.touched()
        watch = self.simulation.watch
        watch.held = {run: holder for run, holder in watch.held.items() if holder is not self}
        watch.tell()

    def found_nothing(self) -> None:
        self.idle_since = self.simulation.watch.changes

    # Its life

    async def _main(self) -> None:
        simulation, program = self.simulation, self.simulation.program
        loop = asyncio.get_running_loop()
        entropy = SimulatedEntropy(simulation.seed, self.name)
        clock = SimulatedClock(simulation.time)
        agents = program.agents if self.first else program.upgrade or program.agents
        app = App(self.store, agents, clock=clock, entropy=entropy, middleware=[self._watch_body])
        async with app:
            tasks = [loop.create_task(self._work(app)), loop.create_task(self._script(app.client))]
            working, script = tasks
            if program.resolves:
                tasks.append(loop.create_task(self._resolve(app.client)))
            await asyncio.wait([working, script], return_when=asyncio.FIRST_COMPLETED)
            if not script.done():
                working.result()
            self.result = script.result()
            while not self._quiet():  # noqa: ASYNC110 - virtual time passes, and nothing tells
                await asyncio.sleep(0.5)
            self._leaving = True
            assert self.worker is not None
            self.worker.drain()
            await working
            for task in tasks:
                task.cancel()

    async def _watch_body(self, call: StepCall, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Check that no effect begins in a process that was stopped until its lease was over."""
        with self.simulation.noting():
            owner = self.simulation.watch.owners[call.run]
            assert call.effect == "read" or not self.resumed or owner is self, (
                f"{call.run} {call.key}: its body began in {self.name}, whose lease was over"
            )
        body = (call.run, call.key, call.attempt)
        self.bodies.add(body)
        try:
            return await proceed()
        finally:
            self.bodies.discard(body)

    async def _work(self, app: App) -> None:
        program = self.simulation.program
        while not self._leaving:
            settings = WorkerSettings(lease_s=LEASE_S, poll_s=POLL_S)
            self.worker = app.worker(settings, linger_s=program.linger_s, nap_s=program.nap_s)
            await self.worker.run()

    async def _script(self, client: Client) -> Any:
        while True:
            try:
                return await self.simulation.program.script(client)
            except StoreUnavailable:
                await asyncio.sleep(1.0)

    async def _resolve(self, client: Client) -> None:
        """Settle each doubt that waits for a person, as one who has looked at the world would."""
        said: set[tuple[str, int]] = set()
        watch, seen = self.simulation.watch, -1
        while True:
            if seen != watch.changes:
                seen = watch.changes
                try:
                    for row in await self.store.rows(status=["in_doubt"]):
                        await self._resolve_run(client, row.run, said)
                except StoreUnavailable:
                    seen = -1
            await asyncio.sleep(2.0)

    async def _resolve_run(self, client: Client, run: str, said: set[tuple[str, int]]) -> None:
        await asyncio.sleep(self.simulation.program.resolves_after_s)
        state = await client.state(run)
        for step in state.open_steps.values():
            if step.stage != "doubted" or (run, step.doubt_seq) in said:
                continue
            self.point(f"before somebody looks after {run} {step.key}")
            deed = self.simulation.program.world.done_by(run, state.turn, step.key)
            word: dict[str, Any] = {"happened": deed.receipt} if deed else {"did_not": True}
            with suppress(UsageError):  # somebody else was faster
                await client.resolve(run, step.key, **word, by="somebody", doubt=step.doubt_seq)
            said.add((run, step.doubt_seq))

    def _quiet(self) -> bool:
        """Tell whether no run can go on by itself."""
        simulation = self.simulation
        watch = simulation.watch
        held = any(holder is not self for holder in watch.leases())
        busy = at_once(self.inner.rows(status=["pending", "running"]))
        assert self.worker is not None
        return not (busy or held) and self.worker.idle and self.idle_since == watch.changes


@dataclass
class Simulation:
    """One execution of a program.

    Args:
        program: What is simulated.
        open_store: Opens the store once more, as a new process does; at once.
        fate: Decides what happens at each point.
        seed: Decides everything else.
    """

    program: Program
    open_store: Callable[[], Awaitable[Store]]
    fate: Fate
    seed: int = 0
    time: Time = field(default_factory=Time)
    processes: list[Process] = field(default_factory=list)
    current: Process | None = None
    points: list[str] = field(default_factory=list)
    """The label of each point reached so far."""
    moments: list[tuple[int, int]] = field(default_factory=list)
    """For each point: how often store or world had changed, and the time that had passed.

    Between points of one moment nothing has happened that outlives a process.
    """
    changes: int = 0
    callbacks: int = 0
    broken: list[str] = field(default_factory=list)
    """What has been found not to hold so far."""
    shuffled: bool = False
    """Whether callbacks of several processes take turns in an order drawn from the seed."""

    def __post_init__(self) -> None:
        self.watch = Watch(self)
        self._chance = random.Random(self.seed)  # noqa: S311 - a schedule, not a secret
        self._born = 0
        self._begun: set[tuple[str, str, int, str]] = set()
        self.program.world.begin(self)

    # What a World asks of its simulation

    @property
    def process_name(self) -> str:
        return self.current.name if self.current is not None else ""

    @property
    def passed_us(self) -> int:
        return self.time.passed_us

    def point(self, label: str) -> None:
        assert self.current is not None, "a World is for the bodies of steps"
        self.current.point(label)

    def begins(self, context: StepContext) -> int:
        """Check that the body of an effect may act; return the turn it belongs to.

        Its intent is in the log, and it is the only body of that intent.
        """
        with self.noting():
            return self._check_begin(context)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Remember a failed assertion: whoever called may take it for a failure of the store's."""
        try:
            yield
        except AssertionError as error:
            self.broken.append(str(error))
            raise

    def touched(self) -> None:
        """Note that something has changed which outlives a process."""
        self.changes += 1

    def astray(self) -> None:
        self.broken.append(f"{self.process_name} ran a body outside a run")

    def _check_begin(self, context: StepContext) -> int:
        process, run = self.current, context.run
        assert process is not None
        attempt = (context.key, context.attempt)
        intents = [
            (turn, event)
            for turn in turns(at_once(process.inner.read(run)))
            for event in turn
            if isinstance(event.body, StepStarted)
            and (event.body.key, event.body.attempt) == attempt
            and self.watch.claimed[run, event.epoch] is process
        ]
        assert intents, f"{context} acts without an intent of its own in the log"
        assert (
            not process.resumed
            or self.watch.owners[run] is process
            or ((run, *attempt) in process.frozen)
        ), f"{context} began to act in {process.name} after its lease was over"
        body = (run, *attempt, context.idempotency_key)
        assert body not in self._begun, f"{context}: a second body for one intent"
        self._begun.add(body)
        started = intents[-1][0][0].body
        assert isinstance(started, TurnStarted)
        return started.turn

    # Driving

    def spawn(self) -> Process:
        """Start a process."""
        self._born += 1
        process = Process(self, self._born)
        self.processes.append(process)
        return process

    def reached(self, process: Process, label: str) -> None:
        """Let fate decide what happens at a point."""
        self.points.append(label)
        self.moments.append((self.changes, self.time.passed_us))
        self.fate.at(process, len(self.points), label)

    def stop(self, process: Process, *, claimed: bool = False) -> None:
        """Stop a process where it is, until another one has taken over and finished.

        With ``claimed``, only until that one has claimed a run: from then on both go on.
        """
        process.freeze()
        other = self.spawn()
        self.run(lambda: other.finished or (claimed and other in self.watch.owners.values()))
        process.thaw()

    def stop_for(self, process: Process, us: int) -> None:
        """Stop a process for a time, behind the callback that runs now."""
        process.freeze()
        process.resumes_at_us = self.time.passed_us + us

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until something is so.

        Raises:
            Stuck: nothing happens any more.
        """
        while not until():
            ready = [p for p in self.processes if p.alive and not p.stopped and p.loop.ready]
            if not ready:
                self._advance()
            elif self.shuffled:
                self._chance.choice(ready).run(one=True)
            else:
                for process in ready:
                    process.run()

    def count_callback(self) -> None:
        """Count a callback that has run, and go no further once something is found not to hold.

        Raises:
            AssertionError: an invariant does not hold.
            Stuck: there is no end to it.
        """
        assert not self.broken, "; ".join(self.broken)
        self.callbacks += 1
        if self.callbacks > CALLBACKS_MAX:
            raise Stuck(f"{CALLBACKS_MAX} callbacks, and no end; at last {self.points[-8:]}")

    def run_to_the_end(self, *, abreast: int = 1) -> None:
        """Start processes, and another for each that is killed, until all have finished."""
        for _ in range(abreast):
            self.spawn()

        def over() -> bool:
            return any(not p.alive for p in self.processes) or all(
                p.finished for p in self.processes
            )

        while True:
            self.run(over)
            dead = [process for process in self.processes if not process.alive]
            if not dead:
                return
            for process in dead:
                process.bury()
                self.processes.remove(process)
                self.spawn()

    def result(self) -> Any:
        """Return what the script of every process that has finished was told."""
        assert not self.broken, "; ".join(self.broken)
        told = []
        for process in self.processes:
            process.main.result()
            told.append(process.result)
        assert all(result == told[0] for result in told), f"two scripts were told {told}"
        return told[0]

    def bury_all(self) -> None:
        """Clear away all processes."""
        for process in self.processes:
            process.bury()

    def _advance(self) -> None:
        """Nothing can be done now: let time pass until a timer is due."""
        living = [p for p in self.processes if p.alive and not p.stopped]
        due = [timer[0] for p in living if (timer := p.loop.next_timer()) is not None]
        due += [self.time.at(p.resumes_at_us) for p in self.processes if p.resumes_at_us > 0]
        if not due:
            raise Stuck("no process waits for anything that could come")
        self.time.go_to(min(due))
        for process in self.processes:
            if 0 < process.resumes_at_us <= self.time.passed_us:
                process.thaw()
                living.append(process)
        quiet_us = self.time.passed_us - self.watch.changed_at_us
        if quiet_us > QUIET_US and all(p.worker is None or p.worker.idle for p in living):
            self._jump(living[0])
        for process in living:
            process.loop.fire_due(self.time)

    def _jump(self, process: Process) -> None:
        """Let time pass until the next run wakes up, if nothing else is going on."""
        rows = self.rows()
        quiet_us = self.time.passed_us - self.watch.changed_at_us
        busy = any(row.status in ("pending", "running") for row in rows)
        if quiet_us < STUCK_US and (busy or any(not p.alive for p in self.watch.leases())):
            return  # a dead process holds a run for a while
        agents = [row.agent for row in rows]
        with process.loop.running():
            wake_at = at_once(process.inner.next_wake(agents))
        now = SimulatedClock(self.time).now()
        stopped = any(process.stopped for process in self.processes)
        if wake_at <= now and quiet_us >= STUCK_US and not stopped:
            states = {row.run: row.status for row in rows}
            raise Stuck(f"nothing happens any more; the runs are {states}")
        if wake_at > now:
            self.time.passed_us += wake_at - now
            self.watch.changed_at_us = self.time.passed_us

    def rows(self) -> list[RunRow]:
        """Return all runs."""
        living = next(p for p in reversed(self.processes) if p.alive)
        return at_once(living.inner.rows(limit=100_000))
