"""The composition root: where store, agents, clock, workers and clients are joined."""

import asyncio
import datetime as dt
import functools
import os
import re
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from holdfast.client import Client
from holdfast.core.redaction import Finder
from holdfast.core.specs import AgentSpec, agent_spec
from holdfast.core.state import ENDED
from holdfast.errors import RunParked, UsageError
from holdfast.ports import Clock, Entropy, Middleware, Store
from holdfast.runtime.clock import SystemClock, SystemEntropy
from holdfast.runtime.endings import result_value
from holdfast.runtime.hosting import RunnerSettings
from holdfast.runtime.providers import Providers
from holdfast.runtime.schedules import Schedule, Schedules
from holdfast.runtime.secrets import Provider, Secrets
from holdfast.runtime.worker import Worker, WorkerSettings
from holdfast.signed import Notaries, Notary, Signer
from holdfast.stores.vault import Vault
from holdfast.stores.vaulted import VaultedStore

__all__ = ["App", "SyncClient", "connect", "migrate_store", "open_store", "run", "store_file"]

DEFAULT_STORE = "holdfast.db"
UNSET = "(HOLDFAST_VAULT is not set)"


async def open_store(url: str, *, create: bool = True, read_only: bool = False) -> Store:
    """Open a store by its URL: ``memory:``, a path, ``sqlite:///path`` or ``postgresql://…``.

    Raises:
        UsageError: no store goes by such a URL.
        StoreRefused: what is there is not a store of ours.
        StoreUnavailable: it cannot be reached or opened now.
        KeyMissing: it is signed, and its private key is not at hand.
    """
    scheme, colon, rest = url.partition(":")
    if url == "memory:":
        from holdfast.stores.memory import MemoryStore  # noqa: PLC0415 - only if wanted

        return vaulted(MemoryStore())
    if _is_postgres(url):
        from holdfast.stores.postgres import PostgresStore  # noqa: PLC0415 - only if wanted

        return vaulted(
            await PostgresStore.open(
                url, create=create, read_only=read_only, notaries=_notaries(None)
            )
        )
    if colon and scheme not in ("sqlite", "file") and len(scheme) > 1 and rest.startswith("//"):
        raise UsageError(
            f"store {url!r}: expected a path, sqlite:///PATH, postgresql://… or memory:"
        )
    from holdfast.stores.sqlite import SqliteStore  # noqa: PLC0415 - only if wanted

    path = Path(rest.removeprefix("//") if scheme == "sqlite" and colon else url)

    return vaulted(
        await SqliteStore.open(path, create=create, read_only=read_only, notaries=_notaries(path))
    )


def _notaries(store: Path | None) -> Notaries:
    """Return who signs for a store; its file is None if it is none."""

    def notary(signer: Signer) -> Notary:
        from holdfast.proof import keys  # noqa: PLC0415 - only if the store is signed

        return keys.notaries(keys.key_file(store))(signer)

    return notary


def store_file(url: str) -> Path | None:
    """Return the file of a SQLite store by its URL, None for a store of another kind."""
    if url == "memory:" or ("://" in url and not url.startswith("sqlite://")):
        return None
    return Path(url.removeprefix("sqlite://"))


_VAULTS: "weakref.WeakKeyDictionary[Store, Vault]" = weakref.WeakKeyDictionary()
"""Of the stores in memory, whose vaults last as long."""


def vaulted(store: Store) -> VaultedStore:
    """Return a store that encrypts the payloads of subjects.

    The key of their keys is in the file that HOLDFAST_VAULT names, else beside the store's.
    """
    if isinstance(store, VaultedStore):
        return store
    if store.url == "memory:":
        return VaultedStore(store, _VAULTS.setdefault(store, Vault(None)))
    return VaultedStore(store, Vault(vault_file(store_file(store.url))))


def vault_file(store: Path | None) -> Path:
    """Return where the vault of a store is, or would be: where HOLDFAST_VAULT says, else beside it.

    Args:
        store: The store's file, None if it is none.
    """
    named = os.environ.get("HOLDFAST_VAULT")
    if named:
        return Path(named)
    return store.with_name(f"{store.name}.vault") if store else Path(UNSET)


async def migrate_store(url: str) -> tuple[int, int]:
    """Bring a store up to this release's version.

    Returns the version found, 0 for none, and the one that it has now.

    Raises:
        UsageError: no store goes by such a URL.
        StoreRefused: it is of a newer version, or not one of ours.
        StoreUnavailable: it cannot be reached or written now.
    """
    if _is_postgres(url):
        from holdfast.stores.postgres import PostgresStore  # noqa: PLC0415 - only if wanted

        return await PostgresStore.migrate(url)
    from holdfast.stores.sqlite.file import VERSION  # noqa: PLC0415 - only if wanted

    store = await open_store(url, create=False)  # which brings a file up to date
    await store.close()
    return VERSION, VERSION


def _is_postgres(url: str) -> bool:
    return url.startswith(("postgresql://", "postgres://"))


class App:
    """Agents and a store, joined. Use it as an async context manager.

    ::

        async with hf.App("holdfast.db", agents=[triage]) as app:
            run = await app.client.start(triage, ticket, id="ticket-7")
            async with app.working():
                print(await app.client.result(run))

    Args:
        store: A URL, a path or a store.
        agents: The agents that may be started and carried on here.
        middleware: What stands around each step's body, outermost first.
        secrets: Where the values of ``hf.Secret`` come from: a mapping, or a function of the name;
            by default the environment (``HOLDFAST_SECRET_NAME``).
        redact: What must not be recorded: a function of a text and the field that it stands under,
            which returns the parts to take out, or a pattern of such parts.
            ``hf.find_credentials`` is a stock one.
        schedules: What is started by the clock, while somebody works: see ``hf.schedule``.
        clock, entropy: Where time and chance come from.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store = DEFAULT_STORE,
        agents: Iterable[Callable[..., Any]] = (),
        *,
        middleware: Sequence[Middleware] = (),
        secrets: Provider | None = None,
        redact: Finder | re.Pattern[str] | None = None,
        schedules: Iterable[Schedule] = (),
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.agents: dict[str, AgentSpec] = {}
        for function in agents:
            spec = agent_spec(function)
            if self.agents.setdefault(spec.uri, spec) is not spec:
                raise UsageError(f"two agents have one name: {spec.name!r}")
        self._where = store
        self._store: Store | None = None
        self._middleware = tuple(middleware)
        self.secrets = Secrets(secrets, redact)
        self._schedules = tuple(schedules)
        for schedule in self._schedules:
            spec = agent_spec(schedule.agent)
            if self.agents.setdefault(spec.uri, spec) is not spec:
                raise UsageError(f"two agents have one name: {spec.name!r}")
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()

    def __enter__(self) -> NoReturn:
        raise UsageError(
            "an App is for asyncio. Hint: async with hf.App(…) as app: — or, without asyncio,"
            " with hf.connect(…) as client: or hf.run(…)"
        )

    def __exit__(self, *_: object) -> None:
        """Never come to: Python asks for it before it enters."""

    async def __aenter__(self) -> Self:
        if isinstance(self._where, str | os.PathLike):
            self._store = await open_store(os.fspath(self._where))
        else:
            self._store = vaulted(self._where)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(self._where, str | os.PathLike) and self._store is not None:
            await self._store.close()
        self._store = None

    @property
    def store(self) -> Store:
        """The open store."""
        if self._store is None:
            raise UsageError("the App is not open. Hint: async with hf.App(…) as app:")
        return self._store

    @property
    def client(self) -> Client:
        """A client of the store."""
        return Client(
            self.store,
            self.agents,
            clock=self._clock,
            entropy=self._entropy,
            clean=self.secrets.clean,
        )

    def worker(
        self, settings: WorkerSettings | None = None, *, linger_s: float = 1.0, nap_s: float = 5.0
    ) -> Worker:
        """Make a worker that carries on the runs of these agents."""
        shared = RunnerSettings(
            self.store,
            self._clock,
            self._entropy,
            self._middleware,
            self.secrets,
            Providers(self.store, self._clock),
            linger_s=linger_s,
            nap_s=nap_s,
            queues={spec.uri: spec.queue for spec in self.agents.values()},
        )
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        settings = settings or WorkerSettings()
        worker = Worker(self.agents.values(), shared, settings, about=about)
        if self._schedules and not settings.only_run:
            worker.schedules = Schedules(self._schedules, self.store, self._start)
        return worker

    async def _start(self, schedule: Schedule, run: str, start_at: int) -> None:
        """Start the run of a schedule's tick, unless somebody has."""
        spec = agent_spec(schedule.agent)
        payload = spec.encode_input(schedule.args, schedule.kwargs)
        when = dt.datetime.fromtimestamp(start_at / 1e6, dt.UTC) if start_at else None
        place = replace(schedule.place, start_at=when)
        await self.client.start_encoded(spec, payload, run=run, place=place)

    def working(self) -> "Working":
        """Carry on runs for the length of an ``async with`` block."""
        return Working(self.worker())

    async def run(
        self,
        agent: Callable[..., Any],
        *args: Any,
        id: str = "",  # noqa: A002 - the word users know
        subject: str = "",
        **kwargs: Any,
    ) -> Any:
        """Start a run, or attach to it, advance it to its end and return its result.

        Raises:
            RunFailed, RunWasCancelled: it ended so.
            RunParked: it waits for a person, a message or a time.
        """
        client = self.client
        run = await client.start(agent, *args, id=id, subject=subject, **kwargs)
        await self.advance(run)
        row = await client.row(run)
        if row.status in ENDED:
            last = (await self.store.read(run, after=row.seq - 1))[0]
            return result_value(last, self.agents.get(row.agent))
        pauses = await self.store.pauses()
        pause = next((p for p in pauses if p.name in (row.run, row.queue, row.agent)), None)
        state = f"paused by {pause.by}" if pause else row.status.replace("_", " ")
        raise RunParked(
            f"run {run!r} is {state}. Hint: holdfast show {run}",
            run=run,
            status=row.status,
            wake_at=row.wake_at,
        )

    async def advance(self, run: str) -> None:
        """Advance a run, ready or not, and those it starts, until it ends or parks.

        Raises:
            StoreUnavailable: the store could not be written; nothing acknowledged is lost.
        """
        if (await self.client.row(run)).status in ENDED:
            return
        worker = self.worker(WorkerSettings(only_run=run), linger_s=0.2)
        await worker.run(until_idle=True)
        ending = worker.endings.get(run)
        if ending is not None and ending.kind == "unavailable" and ending.error is not None:
            raise ending.error


class Working:
    """A worker for the length of an ``async with`` block, drained at its end."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Worker:
        self._task = asyncio.get_running_loop().create_task(self.worker.run())
        return self.worker

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self.worker.drain()
        await self._task


class SyncClient:
    """A ``Client`` for sync code: the same methods, each of which waits; ``stream`` is an iterator.

    Made by ``connect``; use it as a context manager.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast-client")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._app.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._wait(self._app.__aexit__(None, None, None))
        self._stop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(Client, name)
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._wait(method(self._app.client, *args, **kwargs))

        return functools.update_wrapper(call, method)

    def stream(self, run: str, *, after: int = 0, values: bool = True) -> Iterator[Any]:
        """Follow a run, as ``Client.stream`` does."""
        follow = self._app.client.stream(run, after=after, values=values)
        while True:
            try:
                yield self._wait(anext(follow))
            except StopAsyncIteration:
                return

    def _wait(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def connect(
    store: str | os.PathLike[str] | Store = DEFAULT_STORE,
    agents: Iterable[Callable[..., Any]] = (),
) -> SyncClient:
    """Make a client for sync code.

    ::

        with hf.connect("holdfast.db", agents=[triage]) as client:
            run = client.start(triage, ticket, id="ticket-7")
            print(client.result(run))

    Args:
        store: A URL, a path or a store.
        agents: The agents whose inputs and results are typed.
    """
    return SyncClient(App(store, agents))


def run(
    agent: Callable[..., Any],
    *args: Any,
    id: str = "",  # noqa: A002 - the word users know
    subject: str = "",
    store: str | os.PathLike[str] | Store = DEFAULT_STORE,
    **kwargs: Any,
) -> Any:
    """Run an agent to its end and return its result; an id given twice is one run.

    For scripts; in async code use an ``App``.

    Args:
        agent: The agent.
        args: Its input.
        id: The run's id; drawn at random if empty.
        subject: The pseudonymous id of the person that the run is about, as for ``Client.start``.
        store: A URL, a path or a store.
        kwargs: Its input by name.

    Raises:
        RunFailed, RunWasCancelled: it ended so.
        RunParked: it waits for a person, a message or a time.
    """

    async def main() -> Any:
        async with App(store, agents=[agent]) as app:
            return await app.run(agent, *args, id=id, subject=subject, **kwargs)

    return run_async(main())


def run_async(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine from sync code.

    Raises:
        UsageError: a loop is running already.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises instead
        main.close()
        raise UsageError(
            "hf.run was called in async code. Hint: async with hf.App(…) as app: await app.run(…)"
        )
    return asyncio.run(main)
