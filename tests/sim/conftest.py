"""Stores for simulations, each fresh and with calls that are done at once; and some quiet."""

import itertools
import logging
import os
import shutil
from pathlib import Path

import pytest

from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore


@pytest.fixture(autouse=True)
def quiet():
    """Processes die by the thousand: what their workers log about it helps nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def in_memory():
    def fresh():
        store = MemoryStore()

        async def opened():
            return store

        return opened

    return fresh


@pytest.fixture
def paths(tmp_path: Path):
    """Give each simulation a path of its own, where a sync costs little, if there is such a place.

    A process that is killed, unlike a machine, loses nothing that it has written.
    """
    shared = Path("/dev/shm")
    folder = tmp_path
    if os.access(shared, os.W_OK):
        folder = shared / f"holdfast-{os.getpid()}-{tmp_path.name}"
        folder.mkdir()
    numbers = itertools.count()

    def path():
        for file in folder.iterdir():
            file.unlink()
        return folder / f"{next(numbers)}.db"

    yield path
    shutil.rmtree(folder)


@pytest.fixture
def on_files(paths):
    def fresh():
        path = paths()
        return lambda: SqliteStore.open(path, inline=True)

    return fresh
