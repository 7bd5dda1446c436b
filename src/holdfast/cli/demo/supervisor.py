"""The demo as a whole: two desks, each with a shop and a model of its own, struck alike, compared.

Everything is left in one directory: the store, the books of both shops, their ledgers as JSON, what
happened when, what the processes said on stderr, and the desk's source, to be changed and replayed.

Invariants: the two desks share nothing; whether anything was done twice or is missing is read from
the shops' ledgers after all processes of the desks have ended; no process outlives ``run_demo``.
"""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2

from holdfast.app import open_store
from holdfast.cli.demo import desk as desk_module
from holdfast.cli.demo.accounts import Account, Line, Side, lines_of, side_json
from holdfast.cli.demo.ambushes import plan
from holdfast.cli.demo.desk_side import DeskSide, read_notes
from holdfast.cli.demo.ledger import Deed, deeds
from holdfast.cli.demo.model import MODEL
from holdfast.cli.demo.naive_side import NaiveSide
from holdfast.cli.demo.servers import ProcessError, ShopOffice, start_model, start_shop
from holdfast.cli.demo.tickets import load_tickets

__all__ = ["Demo", "Outcome", "Report"]

LIMIT_S, LIMIT_S_EACH = 60.0, 8.0
"""What a demo may take at most, and more for each ticket: several times of what it does take."""
HTTP_S = 70.0
REAL_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Outcome:
    """One desk when all was over."""

    lines: list[Line]
    side: Side

    @property
    def right(self) -> bool:
        """Whether everything wanted was done once, and nothing else."""
        return not any(line.twice or line.missing or line.stray for line in self.lines)


@dataclass(frozen=True)
class Report:
    """What came of the demo."""

    seed: int
    folder: Path
    store: Path
    model: str
    desk: Outcome
    naive: Outcome
    seconds: float
    """How long all of it took."""
    show_run: str
    """A run worth looking at."""
    why_seq: int
    """An event of it worth asking about."""

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        facts = side_json(self.desk.lines, self.desk.side)
        facts |= {"seed": self.seed, "model": self.model, "seconds_in_all": round(self.seconds, 1)}
        facts |= {"directory": str(self.folder), "store": str(self.store)}
        return facts | {"naive": side_json(self.naive.lines, self.naive.side)}


@dataclass(frozen=True)
class _World:
    """A shop and a model, as one desk finds them."""

    http: httpx2.AsyncClient
    shop: str
    office: ShopOffice
    environment: Mapping[str, str]
    is_real: bool

    async def paid(self) -> dict[str, int] | None:
        """Return by ticket how many answers the model gave in full; None if it does not tell."""
        if self.is_real:
            return None
        url = self.environment["OPENAI_BASE_URL"].removesuffix("/v1")
        found: dict[str, int] = (await self.http.get(f"{url}/stats")).json()["tickets"]
        return found


class Demo:
    """One demo, from its first process to its report; ``happenings`` grows meanwhile.

    Args:
        folder: An empty directory.
        store: Where the desk's store is made; ``holdfast.db`` in the folder by default.
        seed: Decides all faults and strikes.
        count: How many tickets.
    """

    def __init__(self, folder: Path, store: Path | None = None, *, seed: int, count: int) -> None:
        self.folder = folder.resolve()
        self.store = (store or self.folder / "holdfast.db").resolve()
        self.seed = seed
        self.tickets = load_tickets(count)
        self.happenings: list[tuple[float, str, str]] = []
        """(seconds since the start, ticket, text) of what was worth showing."""
        self.desk: DeskSide | None = None
        self.naive: NaiveSide | None = None
        self.begun = time.monotonic()
        self.limit_s = LIMIT_S + LIMIT_S_EACH * count
        self.is_real = bool({"OPENAI_API_KEY", "OPENAI_BASE_URL"} & os.environ.keys())
        self.model = MODEL
        if self.is_real:
            self.model = os.environ.get("OPENAI_BASE_URL", REAL_URL)

    async def run(self) -> Report:
        """Run the demo.

        Raises:
            TimeoutError: it takes many times longer than it should.
            ProcessError: a process did not start, or ended by itself.
        """
        shutil.copy(str(desk_module.__file__), self.folder / "desk.py")
        (self.folder / "naive").mkdir()
        async with contextlib.AsyncExitStack() as stack:
            log = stack.enter_context((self.folder / "processes.log").open("wb"))
            http = await stack.enter_async_context(httpx2.AsyncClient(timeout=HTTP_S))
            try:
                async with asyncio.timeout(self.limit_s), asyncio.TaskGroup() as both:
                    desk = both.create_task(self._work_on_holdfast(http, log))
                    naive = both.create_task(self._work_plainly(http, log))
            except TimeoutError:
                raise TimeoutError(self._unfinished()) from None
            except ExceptionGroup as group:
                ours, others = group.split(ProcessError)
                if ours is None or others is not None:
                    raise
                raise ProcessError(_first(ours)) from group
        run, seq = await self._worth_a_look(desk.result())
        report = Report(
            self.seed,
            self.folder,
            self.store,
            self.model,
            desk.result(),
            naive.result(),
            time.monotonic() - self.begun,
            run,
            seq,
        )
        told = [f"{at:6.2f} s  {ticket:8}  {text}\n" for at, ticket, text in self.happenings]
        (self.folder / "strikes.log").write_text("".join(told), "utf-8")
        text = json.dumps(report.as_json(), ensure_ascii=False, indent=2)
        (self.folder / "report.json").write_text(text + "\n", "utf-8")
        return report

    async def _work_on_holdfast(self, http: httpx2.AsyncClient, log: IO[bytes]) -> Outcome:
        async with self._world(self.folder, http, log) as world:
            self.desk = DeskSide(
                self.store,
                self.tickets,
                plan(self.tickets, self.seed),
                world.office,
                environment=world.environment,
                seed=self.seed,
                log=log,
                tell=self._tell,
            )
            await self.desk.work()
            done = await self._ledger(self.folder, world)
            paid = await world.paid()
        accounts = self.desk.accounts
        if paid is None:
            paid = {ticket: account.model_calls for ticket, account in accounts.items()}
        notes = read_notes(self.store, self.tickets)
        return self._outcome(done, notes, self.desk.side, paid, accounts)

    async def _work_plainly(self, http: httpx2.AsyncClient, log: IO[bytes]) -> Outcome:
        folder = self.folder / "naive"
        async with self._world(folder, http, log) as world:
            self.naive = NaiveSide(
                folder,
                self.tickets,
                plan(self.tickets, self.seed),
                world.office,
                shop=world.shop,
                model=world.environment["OPENAI_BASE_URL"].rstrip("/").removesuffix("/v1"),
                environment=world.environment,
                log=log,
            )
            await self.naive.work()
            done = await self._ledger(folder, world)
            paid = await world.paid()
        return self._outcome(done, self.naive.notes(), self.naive.side, paid, {})

    def _outcome(
        self,
        done: Sequence[Deed],
        notes: Sequence[Deed],
        side: Side,
        paid: Mapping[str, int] | None,
        accounts: Mapping[str, Account],
    ) -> Outcome:
        lines = lines_of(self.tickets, done, notes, side=side, paid=paid, accounts=accounts)
        return Outcome(lines, side)

    async def _ledger(self, folder: Path, world: _World) -> list[Deed]:
        """Read the shop's ledger, and leave a copy to look at."""
        rows = await world.office.ledger()
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (folder / "ledger.json").write_text(text + "\n", "utf-8")
        return deeds(rows)

    async def _worth_a_look(self, desk: Outcome) -> tuple[str, int]:
        """Return a run that a doubt was settled in, and the event that settled it."""

        def worth(line: Line) -> tuple[int, ...]:
            return (line.doubts_reconciled, line.doubts_resolved, line.kills, line.steps_replayed)

        run = max(desk.lines, key=worth).ticket
        store = await open_store(str(self.store), create=False, read_only=True)
        try:
            events = await store.read(run)
        finally:
            await store.close()
        settled = [e.seq for e in events if getattr(e.body, "via", "body") != "body"]
        return run, (settled or [events[-1].seq])[0]

    def _unfinished(self) -> str:
        every = {ticket.id for ticket in self.tickets}
        lacking = {
            name: ", ".join(sorted(every - desk.side.finished)) or "none"
            for name, desk in (("on holdfast", self.desk), ("plain loop", self.naive))
            if desk is not None
        }
        found = "; ".join(f"{name}: {tickets}" for name, tickets in lacking.items())
        return (
            f"the demo did not end within {self.limit_s:g} s; unfinished tickets: {found}."
            f" Hint: see {self.folder / 'processes.log'}"
        )

    def _tell(self, ticket: str, text: str) -> None:
        self.happenings.append((time.monotonic() - self.begun, ticket, text))

    @contextlib.asynccontextmanager
    async def _world(
        self, folder: Path, http: httpx2.AsyncClient, log: IO[bytes]
    ) -> AsyncIterator["_World"]:
        """Start a shop and, unless a real one is wanted, a model."""
        async with contextlib.AsyncExitStack() as servers:
            shop = await start_shop(folder, seed=self.seed, tickets=len(self.tickets), log=log)
            servers.push_async_callback(shop.stop)
            environment = {"SHOP_URL": shop.url}
            if self.is_real:
                environment["OPENAI_BASE_URL"] = self.model
                environment["OPENAI_MODEL"] = os.environ.get("OPENAI_MODEL", desk_module.MODEL)
            else:
                model = await start_model(seed=self.seed, log=log)
                servers.push_async_callback(model.stop)
                environment |= {
                    "OPENAI_API_KEY": "none",
                    "OPENAI_BASE_URL": f"{model.url}/v1",
                    "OPENAI_MODEL": MODEL,
                }
            office = ShopOffice(shop.url, http)
            yield _World(http, shop.url, office, {**os.environ, **environment}, self.is_real)


def _first(error: BaseException) -> str:
    """Return what the first error in a group of groups says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
