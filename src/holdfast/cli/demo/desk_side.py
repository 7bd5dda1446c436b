"""The desk on holdfast, and everything that is done to it: killed, paused, asked about its doubts.

Tickets come in a few at a time, each becomes a run, and a fleet of workers carries the runs on.
Whenever the shop holds back the answer of a deed for which there is an ambush, whoever waits for it
is killed or paused. A run that parks in doubt gets a person's word: the operator looks into the
shop's outbox and says what is there.

Invariants: nothing here tells the desk what to do; the only things ever written to the log from
here are the start of each run and the operator's word.
"""

import asyncio
import contextlib
import json
import math
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import apsw

import holdfast as hf
from holdfast.cli.demo.accounts import Account, Side
from holdfast.cli.demo.ambushes import Ambush
from holdfast.cli.demo.desk import desk
from holdfast.cli.demo.fleet import LEASE_S, RUNS_MAX, Fleet, WorkerProcess
from holdfast.cli.demo.ledger import Deed
from holdfast.cli.demo.servers import ShopOffice
from holdfast.cli.demo.tickets import Ticket
from holdfast.core import events as ev
from holdfast.core.events import Event

__all__ = ["OPERATOR", "DeskSide", "read_notes"]

T = TypeVar("T")

OPERATOR = "operator"
WORKERS = 2
OPEN_MAX = 6
"""Tickets worked on at a time: two workers have room for them even if nobody's room gets free."""
LOOK_S = 0.03
EVENTS_MAX = 1_000
FIND_S = 3.0
SPARE_S = 3.0
TAKEOVER_S = 20.0
STOP_S = 0.03
LOCK_MS = 300
FREEZES_MAX = 200

TOOLS = {
    "refund": "refund",
    "replacement": "ship_replacement",
    "return_label": "return_label",
    "email": "send_email",
}
"""Deed → the tool that does it."""

assert OPEN_MAX <= WORKERS * RUNS_MAX

DEEDS = {
    "refund": "the refund is made",
    "replacement": "the parcel is sent",
    "return_label": "the label is made",
    "email": "the e-mail is sent",
}


class DeskSide:
    """The desk that runs on holdfast.

    Args:
        store: Where its store is made, a file.
        tickets: The tickets, each a run of the same id.
        ambushes: Where to strike.
        office: The shop's back office.
        environment: Where the workers find shop and model.
        seed: Decides when strikes that found nobody are made up for.
        log: Where the workers' stderr goes.
        tell: Called with a ticket and a text whenever something worth showing happens.
    """

    def __init__(
        self,
        store: Path,
        tickets: Sequence[Ticket],
        ambushes: Sequence[Ambush],
        office: ShopOffice,
        *,
        environment: Mapping[str, str],
        seed: int,
        log: IO[bytes],
        tell: Callable[[str, str], None],
    ) -> None:
        self.side = Side()
        self.accounts = {ticket.id: Account() for ticket in tickets}
        self._store = store
        self._tickets = tickets
        self._ambushes = ambushes
        self._office = office
        self._fleet = Fleet(store, size=WORKERS, environment=environment, log=log)
        self._chance = random.Random(f"{seed}|strays")  # noqa: S311 - reproducible, not secret
        self._tell = tell
        self._client: hf.Client
        self._to_pause = next((a.ticket for a in ambushes if a.then == "pause"), "")
        self._pause_is_over = not self._to_pause
        self._pausing = False
        self._held: dict[tuple[str, str], Mapping[str, Any]] = {}
        """(run, tool) → the shop's answer that is held back, of the strikes under way."""
        self._settled: set[tuple[str, str, int]] = set()

    @property
    def finished(self) -> bool:
        """Whether all runs have ended."""
        return all(account.ended for account in self.accounts.values())

    async def work(self) -> None:
        """Have all tickets worked on while the workers are struck, until all runs have ended."""
        begun = time.monotonic()
        holds = {await self._office.arm(ambush): ambush for ambush in self._ambushes}
        async with hf.App(self._store, agents=[desk]) as app:
            self._client = app.client
            await self._fleet.fill()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._open_tickets())
                    tasks.create_task(self._follow(app.store, tasks))
                    tasks.create_task(self._hunt(holds, tasks))
            finally:
                await self._fleet.end()
        self.side.seconds = time.monotonic() - begun

    async def _open_tickets(self) -> None:
        """Start a run per ticket, a few at a time, as tickets come in."""
        open_max = max(WORKERS, min(OPEN_MAX, len(self._tickets) // 4))
        opened = 0

        def has_room() -> bool:
            return opened - len(self.side.finished) < open_max

        for ticket in self._tickets:
            await self._wait_for(has_room, math.inf)
            opened += 1
            await self._client.start(desk, ticket.message(), id=ticket.id)

    async def _follow(self, store: Any, tasks: asyncio.TaskGroup) -> None:
        """Read the log behind the workers; call the operator when a run parks in doubt."""
        position = 0
        while not self.finished:
            for at, event in await store.read_log(position, limit=EVENTS_MAX):
                position = at
                self._take(event)
                if isinstance(event.body, ev.RunParked) and event.body.status == "in_doubt":
                    tasks.create_task(self._operate(event.run))
            for worker in await self._fleet.mend():
                self.side.kills += 1
                self._tell("", f"worker {worker.number} killed by somebody else")
            await asyncio.sleep(LOOK_S)

    def _take(self, event: Event) -> None:
        account = self.accounts[event.run]
        account.take(event)
        if account.ended:
            self.side.finished.add(event.run)

    # The operator

    async def _operate(self, run: str) -> None:
        """Do what a person would: look into the outbox and say what is there."""
        state = await self._client.state(run)
        events = await self._client.events(run)
        for step in state.open_steps.values():
            place = (run, step.key, step.doubt_seq)
            is_email = step.key.startswith("send_email#")
            if step.stage != "doubted" or not is_email or place in self._settled:
                continue
            self._settled.add(place)
            asked = json.loads(events[step.seq - 1].payload or b"{}")
            sent = [
                email
                for email in await self._office.emails(asked["order"])
                if (email["to"], email["template"]) == (asked["to"], asked["template"])
            ]
            if sent:
                receipt = {"id": sent[0]["id"], "status": "queued"}
                await self._client.resolve(run, step.key, happened=receipt, by=OPERATOR)
            else:
                await self._client.resolve(run, step.key, did_not=True, by=OPERATOR)
            found = "the e-mail" if sent else "no e-mail"
            self._tell(run, f"in doubt: the operator finds {found} in the outbox")

    # The strikes

    async def _hunt(self, holds: Mapping[int, Ambush], tasks: asyncio.TaskGroup) -> None:
        seen = 0
        while not self.finished:
            for held in await self._office.held(after=seen, wait_s=0.3):
                seen = held["n"]
                ambush = holds[held["hold"]]
                self._held[ambush.ticket, TOOLS[ambush.kind]] = held
                tasks.create_task(self._strike(ambush, held))

    async def _strike(self, ambush: Ambush, held: Mapping[str, Any]) -> None:
        place = (ambush.ticket, TOOLS[ambush.kind])
        worker = await self._wait_for(lambda: self._fleet.at(*place), FIND_S)
        if ambush.then == "pause":
            if worker is None:
                self._tell(ambush.ticket, "nobody to pause: the worker was killed before")
            else:
                self._pausing = True
                await self._pause(worker, ambush.ticket)
            self._pause_is_over, self._pausing = True, False
            await self._office.release(held["hold"])
        else:
            if worker is not None:
                await self._wait_for(partial(self._may_be_struck, worker), SPARE_S)
            if worker is not None and not worker.paused:
                await self._wait_for(lambda: not self._pausing, 2 * TAKEOVER_S)
            await self._kill_at(ambush, held, self._fleet.at(*place))
        self._held.pop(place)

    async def _kill_at(
        self, ambush: Ambush, held: Mapping[str, Any], worker: WorkerProcess | None
    ) -> None:
        if ambush.then == "later":
            await self._office.release(held["hold"])
            await asyncio.sleep(ambush.delay_s)
        if worker is None or not await self._kill(worker):
            await self._office.release(held["hold"])
            await self._make_up(ambush.ticket)  # another strike was quicker
            return
        in_window = ambush.then == "kill" and await self._office.is_gone(held["n"], FIND_S)
        self.side.kills_in_window += in_window
        when = ", the answer on its way" if in_window else ", a moment ago"
        self._tell(ambush.ticket, f"worker {worker.number} killed: {DEEDS[ambush.kind]}{when}")

    async def _make_up(self, run: str) -> None:
        """Kill whoever is at a run, or at any if that has ended, at some moment."""
        await asyncio.sleep(self._chance.uniform(0.05, 0.3))
        if run in self.side.killed:
            await self._wait_for(lambda: not self._pausing, 2 * TAKEOVER_S)
        while not self.finished:
            for worker in self._fleet.workers:
                at_it = run in worker.spoke_of or self.accounts[run].ended
                if at_it and self._has_work(worker) and await self._kill(worker):
                    self._tell(run, f"worker {worker.number} killed, wherever it was")
                    return
            await asyncio.sleep(LOOK_S)

    def _has_work(self, worker: WorkerProcess) -> bool:
        return any(not self.accounts[run].ended for run in worker.spoke_of)

    def _may_be_struck(self, worker: WorkerProcess) -> bool:
        """Tell whether a worker need not, or no longer, be spared for the pause."""
        to_come = not self._pause_is_over and not worker.paused
        return not (to_come and self._to_pause in worker.spoke_of)

    async def _kill(self, worker: WorkerProcess) -> bool:
        """Kill a worker, unless it is dead or paused, and start another."""
        if worker.paused or worker.killed:
            return False
        struck = [run for run in worker.spoke_of if not self.accounts[run].ended]
        await worker.kill()
        self.side.kills += 1
        for run in struck:
            self.side.killed[run] = self.side.killed.get(run, 0) + 1
        await self._fleet.fill()
        return True

    # The zombie

    async def _pause(self, worker: WorkerProcess, run: str) -> None:
        """Pause a worker until another has taken its run over, then let it wake up."""
        if not await self._freeze(worker):
            self._tell(run, f"worker {worker.number} could not be paused: it was never at rest")
            return
        account = self.accounts[run]
        epoch, outcomes = account.epoch, account.outcomes
        self._tell(
            run, f"worker {worker.number} paused in a refund, beyond its lease of {LEASE_S} s"
        )
        await self._fleet.fill()

        def taken_over() -> bool:
            return account.ended or (account.epoch > epoch and account.outcomes > outcomes)

        await self._wait_for(taken_over, TAKEOVER_S)
        worker.send(signal.SIGCONT)
        await self._wait_for(lambda: worker.fenced, TAKEOVER_S)
        worker.paused = False  # from now on it may be killed like any other
        self.side.zombies += bool(worker.fenced)
        came = "is fenced: what it writes is refused" if worker.fenced else "was not fenced"
        self._tell(run, f"worker {worker.number} wakes up and {came}")

    async def _freeze(self, worker: WorkerProcess) -> bool:
        """Stop a worker where it can be taken over: no other deed is about to leave it.

        A worker that was stopped between deciding and sending may still send when it wakes up.
        Nobody can see that from outside, so for what the shop knows no key for (``once``) the demo
        does not provoke it; docs/guarantees.md has the limit. Nor must it hold the store's lock.
        """
        for _ in range(FREEZES_MAX):
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(STOP_S)  # its threads stop, and its last lines arrive
            if not self._is_sending(worker) and await asyncio.to_thread(self._is_writable):
                worker.paused = True
                return worker.alive
            worker.send(signal.SIGCONT)
            await asyncio.sleep(LOOK_S)
        return False

    def _is_sending(self, worker: WorkerProcess) -> bool:
        """Tell whether a worker is at a ``once`` step that the shop may yet have to carry out."""
        return any(
            effect == "once" and (run, key.partition("#")[0]) not in self._held
            for (run, key), effect in worker.under_way.items()
        )

    def _is_writable(self) -> bool:
        """Tell whether nobody holds the store's lock."""
        # By apsw, as the store itself is: a second copy of SQLite in one process, such as Python's
        # own, lets go of the first one's locks when it closes the file.
        with contextlib.closing(apsw.Connection(str(self._store))) as database:
            database.set_busy_timeout(LOCK_MS)
            try:
                database.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                return False
            database.execute("ROLLBACK")
            return True

    async def _wait_for(self, found: Callable[[], T], within_s: float) -> T:
        """Return what ``found`` returns as soon as that is true, or in the end whatever it is."""
        deadline = time.monotonic() + within_s
        # Everything waited for happens in another process, of which only a look tells.
        while not (value := found()) and time.monotonic() < deadline:  # noqa: ASYNC110 - see above
            await asyncio.sleep(LOOK_S / 3)
        return value


def read_notes(store: Path, tickets: Sequence[Ticket]) -> list[Deed]:
    """Return the notes that the desk keeps in its own table, beside the log."""
    orders = {ticket.id: ticket.order for ticket in tickets}
    with contextlib.closing(
        apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    ) as database:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'notes'").fetchall():
            return []
        rows = database.execute("SELECT ticket, text FROM notes").fetchall()
    return [
        Deed("note", orders.get(str(ticket), f"ticket {ticket}"), {"ticket": ticket, "text": text})
        for ticket, text in rows
    ]
