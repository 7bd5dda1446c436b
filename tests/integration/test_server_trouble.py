"""A server is restarted, or its disk fills up, under load, and nothing is lost.

*Goal*: no event that was acknowledged is lost, none stands twice, streams have no gaps, and writers
go on by themselves once the server can; an operator does no more than start it, or make room.
*Method*: ``histories.py`` writes, follows and judges; the server is stopped in each of its ways,
and its data are on a file system of its own that is filled to the last byte.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from holdfast.testing.postgres import PostgresServer, own_folder

_spec = importlib.util.spec_from_file_location(
    "histories", Path(__file__).with_name("histories.py")
)
histories = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(histories)

DISK_BYTES = 256 << 20
FULL = b"No space left on device"


@pytest.fixture
def server():
    with PostgresServer() as server:
        yield server


@pytest.fixture
def disk():
    """A small file system of its own."""
    folder = own_folder("hf-disk")
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(folder)]
    try:
        if not shutil.which("mount") or subprocess.run(words, check=False).returncode:
            pytest.skip("this user may not mount a file system")
        yield folder
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()


async def goes_on(history):
    """Wait until every writer was acknowledged anew."""
    after = time.monotonic()
    await histories.until(lambda: history.acknowledged(after) >= histories.RUNS)


def restarted(server, how):
    async def disaster(history):
        await asyncio.to_thread(server.stop, how)
        await histories.until(history.stands_still)
        await asyncio.to_thread(server.start)
        await goes_on(history)

    return disaster


def fill(file):
    """Write until nothing more fits."""
    for size in (1 << 20, 4_096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(file, bytes(size))


def filled(server, disk):
    async def disaster(history):
        seen = server.log.read_bytes().count(FULL)
        filler = disk / "filler"
        file = os.open(filler, os.O_CREAT | os.O_WRONLY)
        await asyncio.to_thread(fill, file)
        await histories.until(lambda: server.log.read_bytes().count(FULL) > seen)
        await histories.until(history.stands_still)
        os.close(file)
        filler.unlink()
        await goes_on(history)

    return disaster


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["orderly", "at once"])
def test_a_restart_loses_nothing_that_was_acknowledged(server, how):
    asyncio.run(histories.under_load(server.url(), restarted(server, how), times=3))


def test_a_full_disk_loses_nothing_that_was_acknowledged(disk, tmp_path):
    server = PostgresServer(disk / "pg")
    server.log = tmp_path / "log"  # which would else be full too
    with server:
        asyncio.run(histories.under_load(server.url(), filled(server, disk), times=2))
