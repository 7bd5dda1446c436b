"""What every test shares: how Hypothesis searches, and a stage to play runs on.

`make test` derives its examples from each test alone, so that a change is judged the same
everywhere; `make soak` searches at random and longer. Deadlines are off: a busy machine proves
nothing by being slow.

A ``Stage`` is a store, a clock that stands still until the test sets it, and workers that run until
nothing can go on. Everything happens in this process and in its order: no test waits for time.
"""

import asyncio
import itertools

import pytest
from hypothesis import settings

import holdfast as hf
from holdfast.core.machine import describe
from holdfast.errors import StoreUnavailable
from holdfast.stores.memory import MemoryStore
from holdfast.testing.postgres import PostgresServer

settings.register_profile("test", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("soak", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("test")


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite", action="store_true", help="write the golden logs anew; review the diff"
    )


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for the whole session; each test makes databases of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres):
    """The URL of a new, empty database."""
    return postgres.database()


class Clock:
    """A clock that a test sets; µs since the epoch of Unix."""

    def __init__(self):
        self.at = 1_790_000_000_000_000

    def now(self):
        return self.at

    def tick(self, seconds):
        self.at += int(seconds * 1e6)


class Chance:
    """Entropy that is the same in every run of a test."""

    def __init__(self):
        self._drawn = itertools.count(1)

    def bytes(self, n):
        return next(self._drawn).to_bytes(8, "big").rjust(n, b"\x01")[-n:]


class Dying:
    """A store as a process sees it that is killed at its n-th write.

    The write is made or not, and neither the answer nor any other call gets through any more.
    """

    _WRITES = frozenset({"create", "append", "transact", "deliver", "claim", "renew", "release"})

    def __init__(self, store, *, write, made):
        self._store, self._left, self._made = store, write, made
        self.dead = False

    def __getattr__(self, name):
        method = getattr(self._store, name)

        def call(*args, **kwargs):
            if self.dead:
                return self._refuse(None)
            if name not in self._WRITES:
                return method(*args, **kwargs)
            self._left -= 1
            self.dead = self._left == 0
            if not self.dead:
                return method(*args, **kwargs)
            return self._refuse(method(*args, **kwargs) if self._made else None)

        return call

    async def _refuse(self, last):
        if last is not None:
            await last
        raise StoreUnavailable("the process is dead")


class Stage:
    """Runs on a store, played by workers that need no time."""

    LEASE_S = 15.0

    def __init__(self, *agents, store=None, **options):
        self.agents = agents
        self.options = options
        self.store = store or MemoryStore()
        self.clock, self.entropy = Clock(), Chance()
        self._runner = asyncio.Runner()

    def close(self):
        self._runner.close()

    def run(self, call):
        """Run a coroutine on the stage's loop; what was begun there goes on meanwhile."""
        return self._runner.run(_awaited(call))

    def begin(self, coroutine):
        """Begin a task that goes on whenever the stage runs something."""
        return self._runner.get_loop().create_task(coroutine)

    def until(self, holds):
        """Run what was begun until something holds."""

        async def wait():
            async with asyncio.timeout(20):
                while not holds():  # noqa: ASYNC110 - whatever it is that holds
                    await asyncio.sleep(0.001)

        self.run(wait())

    def app(self, *agents, store=None):
        app = hf.App(
            store or self.store,
            agents or self.agents,
            clock=self.clock,
            entropy=self.entropy,
            **self.options,
        )
        app._store = store or self.store  # noqa: SLF001 - it is open
        return app

    @property
    def client(self):
        return self.app().client

    def start(self, agent, *args, id="r", **kwargs):  # noqa: A002 - the word users know
        return self.run(self.client.start(agent, *args, id=id, **kwargs))

    def tell(self, message, run="r", **kwargs):
        return self.run(self.client.message(run, message, **kwargs))

    def mortal(self):
        """The store, as seen by a process that can be killed by setting ``dead``."""
        return Dying(self.store, write=0, made=False)

    def worker(self, *agents, store=None, lease_s=LEASE_S):
        """Make a worker that parks at once what waits."""
        settings = hf.WorkerSettings(lease_s=lease_s, poll_s=0.05)
        return self.app(*agents, store=store).worker(settings, linger_s=0, nap_s=0)

    def work(self, *agents):
        """Let one worker run until nothing can go on at this time."""
        self.run(self.worker(*agents).run(until_idle=True))

    def work_until_killed(self, write, *, made, agents=()):
        """Let a worker run and kill it at its n-th write, made or not; True if it came so far."""
        store = Dying(self.store, write=write, made=made)
        try:
            self.run(self.worker(*agents, store=store).run(until_idle=True))
        except StoreUnavailable:
            self.clock.tick(self.LEASE_S + 1)
        return store.dead

    def play(self, *agents):
        """Work, and let time pass to the next wake-up, until nothing would wake any more."""
        while True:
            self.work(*agents)
            uris = list(self.app(*agents).agents)
            wake_at = self.run(self.store.next_wake(uris))
            if not wake_at:
                return
            self.clock.at = max(self.clock.at, wake_at)

    def row(self, run="r"):
        return self.run(self.client.row(run))

    def status(self, run="r"):
        return self.row(run).status

    def state(self, run="r"):
        return self.run(self.client.state(run))

    def result(self, run="r", **kwargs):
        return self.run(self.client.result(run, timeout=1, **kwargs))

    def events(self, run="r"):
        return self.run(self.client.events(run))

    def said(self, run="r"):
        """The run's events in words."""
        return [describe(event.body) for event in self.events(run)]


async def _awaited(call):
    return await call


@pytest.fixture
def stage():
    """Make a ``Stage`` of agents."""
    made = []

    def make(*agents, **options):
        made.append(Stage(*agents, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
