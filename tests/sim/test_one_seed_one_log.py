"""One seed gives one log, byte for byte, whatever it is run on and in.

Goal: a failure that names its seed can be repeated, and stores agree: the same schedule gives the
same leaves twice in a process, in processes that hash differently, on the memory store and on
every form of SQLite. Method: a sample of disasters for each program of ``programs.py``; what is
compared are digests of the whole log. A second interpreter, with another PYTHONHASHSEED, runs this
file as a script.
"""

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.chaos import chaos
from holdfast.testing.crashes import once_at

_spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("programs.py"))
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)

each_program = pytest.mark.parametrize("name", programs.PROGRAMS)

SAMPLE = {"kill": (3,), "stop": (5,), "pause": (6,), "drain": (4,)}
"""Where each disaster strikes: at so many eighths of the points."""


def digest(left) -> str:
    return hashlib.sha256(left.leaves()).hexdigest()


def digests(name: str, fresh: Callable) -> dict[str, str]:
    """Return the digest of the log that each disaster of the sample leaves."""
    undisturbed = once_at(programs.PROGRAMS[name](), fresh)
    found = {"none": digest(undisturbed.left)}
    outside = [
        number
        for number, label in enumerate(undisturbed.points, 1)
        if "of a transaction" not in label  # there, nobody else could take over
    ]
    for disaster, eighths in SAMPLE.items():
        for eighth in eighths:
            point = outside[len(outside) * eighth // 8]
            outcome = once_at(programs.PROGRAMS[name](), fresh, disaster, point)
            found[f"{disaster} at {point}"] = digest(outcome.left)
    for pauses in (False, True):
        outcome = chaos(programs.PROGRAMS[name](), fresh, 3, pauses=pauses)
        found[f"chaos, pauses={pauses}"] = digest(outcome.left)
    return found


class Waited:
    """A store with threads of its own, whose calls are done at once: the caller is held up."""

    def __init__(self, store: SqliteStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self.url = store.url

    def __getattr__(self, name: str):
        async def call(*args, **kwargs):
            async def there():
                return await getattr(self._store, name)(*args, **kwargs)

            return asyncio.run_coroutine_threadsafe(there(), self._loop).result()

        return call


@pytest.fixture
def with_threads(paths):
    """SQLite as production has it: a thread that writes, one that reads, a loop of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def fresh():
        path = paths()

        async def opened():
            opening = asyncio.run_coroutine_threadsafe(SqliteStore.open(path), loop)
            return Waited(opening.result(), loop)

        return opened

    yield fresh
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_sample_draws_a_log_of_its_own_for_each_disaster(in_memory):
    found = digests("gathered", in_memory)
    assert len(found) == 7
    assert len(set(found.values())) >= 6


@each_program
def test_a_seed_gives_one_log_twice_in_a_process_and_on_every_store(
    name, in_memory, on_files, monkeypatch
):
    monkeypatch.setattr("holdfast.stores.sqlite.presence._LOCKS", False)  # as on macOS
    # With these locks SQLite knows at once who is dead; else the lease alone tells, as in memory.
    expected = digests(name, in_memory)
    assert digests(name, in_memory) == expected
    assert digests(name, on_files) == expected


@pytest.mark.parametrize("name", ["gathered", "transactions", "family", "conversation"])
def test_threads_change_nothing_of_the_log(name, on_files, with_threads):
    expected = digests(name, on_files)
    assert digests(name, on_files) == expected
    assert digests(name, with_threads) == expected


def test_another_interpreter_that_hashes_differently_gives_the_same_logs(in_memory):
    names = list(programs.PROGRAMS)
    python = [sys.executable, __file__, *names]
    told = subprocess.check_output(python, env=os.environ | {"PYTHONHASHSEED": "1"}, text=True)
    assert json.loads(told) == {name: digests(name, in_memory) for name in names}


if __name__ == "__main__":

    def fresh():
        store = MemoryStore()

        async def opened():
            return store

        return opened

    logging.disable(logging.CRITICAL)
    sys.stdout.write(json.dumps({name: digests(name, fresh) for name in sys.argv[1:]}))
