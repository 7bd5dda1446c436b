"""A process may die, be stopped beyond its lease, or drain at any point whatsoever.

Goal: whatever happens where, each program ends as it does undisturbed, and the invariants hold: one
body per intent, nothing without a durable intent, gapless streams, rows that are folds, identical
replays, messages consumed once, causes that end outside. Method: the programs of ``programs.py``
use all that the library offers; each is run anew for every point it passes (before and behind each
operation of the store, each deed, inside each transaction) with one disaster there, in virtual
time, on the memory store and on SQLite. A failure names program, seed, disaster and point.
"""

import importlib.util
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.chaos import chaos
from holdfast.testing.crashes import OpenStore, everywhere

_spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("programs.py"))
assert _spec is not None
assert _spec.loader is not None
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)

DISASTERS = ["kill", "stop", "drain"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.timeout(900),
]


@pytest.fixture(autouse=True)
def quiet():
    """Processes die by the thousand: what their workers log about it helps nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def in_memory() -> OpenStore:
    store = MemoryStore()

    async def opened():
        return store

    return opened


def on_files(folder: Path) -> Callable[[], OpenStore]:
    """Give each simulation a file of its own; where nothing is synced in vain, if there is such."""
    numbers = itertools.count()

    def fresh() -> OpenStore:
        path = folder / f"{next(numbers)}.db"
        return lambda: SqliteStore.open(path, inline=True)

    return fresh


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where files cost little: a process that is killed, unlike a machine, keeps its pages."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        return tmp_path
    place = shared / f"holdfast-{os.getpid()}-{tmp_path.name}"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(autouse=True)
def emptied(folder: Path):
    yield
    for file in folder.glob("*"):
        file.unlink()


@pytest.mark.parametrize("disaster", DISASTERS)
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_anywhere_in_memory(name: str, disaster: str):
    assert everywhere(programs.PROGRAMS[name](), in_memory, disaster) > 20


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_a_kill_anywhere_on_sqlite(name: str, folder: Path):
    assert everywhere(programs.PROGRAMS[name](), on_files(folder), "kill") > 20


@pytest.mark.soak
@pytest.mark.parametrize("disaster", ["stop", "drain"])
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_other_disasters_anywhere_on_sqlite(name: str, disaster: str, folder: Path):
    assert everywhere(programs.PROGRAMS[name](), on_files(folder), disaster) > 20


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_a_hostile_world(name: str):
    for seed in range(6):
        chaos(programs.PROGRAMS[name](), in_memory, seed, pauses=seed % 2 == 1)


@pytest.mark.soak
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_a_hostile_world_for_long(name: str):
    for seed in range(6, 400):
        chaos(programs.PROGRAMS[name](), in_memory, seed, pauses=seed % 2 == 1)
