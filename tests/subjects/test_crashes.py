"""An erasure that a crash cut off is done, or begun anew; never is half of it said to be done.

*Goal*: at whatever moment the power fails or the process is killed, the store that is opened next
has either the whole erasure (the event, no key, no payload, nothing in the write-ahead log) or
nothing of it. *Method*: the power fails after each operation on the disk; a real process is killed
before the commit, and between it and the cutting of the log.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.app import vaulted
from holdfast.errors import SubjectErased, UsageError
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.testing.powerloss import PowerLoss

NAME = "holdfast.db"
WORDS = "Ada Lovelace of St James Square"


@hf.step
async def look(what: str) -> list[str]:
    return [f"{what} {n} " + "lorem ipsum " * 20 for n in range(12)]


@hf.agent
async def job(name: str) -> str:
    hf.send("nobody", f"for {name}", topic="news")
    return (await look(name))[0]


def bytes_of(folder: Path) -> bytes:
    files = (path for path in folder.iterdir() if not path.name.endswith((".vault", "-shm")))
    return b"".join(path.read_bytes() for path in files)


async def opened(folder: Path) -> hf.App:
    store = await SqliteStore.open(folder / NAME, inline=True)
    return hf.App(vaulted(store), [job])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a store of three runs of S, and the wrapped key of S."""
    folder = tmp_path_factory.mktemp("written")

    async def main():
        async with await opened(folder) as app:
            for n in range(3):
                await app.run(job, WORDS, id=f"r{n}", subject="S")
            await app.run(job, "somebody", id="t", subject="T")
            key = (await app.store.subject("S")).key
            await app.store.close()
        return key

    key = asyncio.run(main())
    assert key in bytes_of(folder)
    return folder, key


async def judge(folder: Path, key: bytes, *, told: bool) -> bool:
    """See that all of an erasure is there or nothing; return which, and see that it can be done."""
    async with await opened(folder) as app:
        store = app.store
        done = not (await store.subject("S")).key
        assert done or not told, "it was said to be done"
        payloads = [e for n in range(3) for e in await store.read(f"r{n}") if e.committed]
        assert [e.payload is None for e in payloads] == [done] * len(payloads)
        unread = [m.message.sub for m in await store.unread("nobody")]
        assert unread == (["T"] if done else ["S", "S", "S", "T"])
        assert (await store.row("$erased/S") is not None) == done
        if done:
            assert key not in bytes_of(folder), "the log was cut when the store was opened"
            with pytest.raises(SubjectErased):
                await app.client.erase("S", basis="b", by="me")
        else:
            assert (await app.client.erase("S", basis="b", by="me")).scrubbed
            assert key not in bytes_of(folder)
        await store.close()
    assert check_file(folder / NAME) == []
    return done


def test_a_power_cut_leaves_all_of_an_erasure_or_nothing(written, tmp_path):
    before, key = written
    folder = tmp_path / "work"
    shutil.copytree(before, folder)

    async def main():
        with PowerLoss(folder) as disk:
            async with await opened(folder) as app:
                assert (await app.client.erase("S", basis="b", by="me")).scrubbed
                told = disk.now
                await app.store.close()
        found = []
        for n, cut in enumerate(disk.cuts(seeds=range(2))):
            left = tmp_path / str(n)
            left.mkdir()
            cut.write(left)
            shutil.copy(before / f"{NAME}.vault", left)
            found.append(await judge(left, key, told=cut.at >= told))
            shutil.rmtree(left)
        return found

    found = asyncio.run(main())
    assert {True, False} == set(found)
    assert len(found) > 20


KILLED = """
import asyncio, os, sys
import holdfast.stores.sqlite.store as at
from holdfast.cli.main import main
from holdfast.stores.sqlite.subjects import Subjects

def die(*_):
    os.kill(os.getpid(), 9)

if sys.argv.pop(1) == "before the commit":
    Subjects.erased = die
else:
    at.scrub = lambda connection, scrub=at.scrub: die() if armed else scrub(connection)
    armed = False
    erase = Subjects.erase
    def arm(*args):
        global armed
        armed = True
        return erase(*args)
    Subjects.erase = arm
main()
"""


@pytest.mark.parametrize(("moment", "done"), [("before the commit", False), ("behind it", True)])
def test_a_process_that_is_killed_leaves_all_or_nothing(written, tmp_path, moment, done):
    before, key = written
    folder = tmp_path / "work"
    shutil.copytree(before, folder)
    words = ["erase", "--subject", "S", "--basis", "b", "--store", NAME]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *words],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == "", "nothing was said to be done"
    assert (key in bytes_of(folder)) or not done, "old pages are in the log, or still in the file"
    assert asyncio.run(judge(folder, key, told=False)) is done


def test_old_pages_that_somebody_reads_are_told_of_and_go_later(written, tmp_path, monkeypatch):
    before, key = written
    folder = tmp_path / "work"
    shutil.copytree(before, folder)
    monkeypatch.setattr("holdfast.stores.sqlite.file.BUSY_TIMEOUT_MS", 10)

    async def main():
        async with await opened(folder) as app:
            async with app.store.snapshot(now=0) as snapshot:
                assert await snapshot.events("r0", after=0, limit=1)
                erasure = await app.client.erase("S", basis="b", by="me")
                assert not erasure.scrubbed
                with pytest.raises(SubjectErased) as again:
                    await app.client.erase("S", basis="b", by="me")
                assert again.value.facts["scrubbed"] is False
            assert key in bytes_of(folder)
            with pytest.raises(SubjectErased) as again:
                await app.client.erase("S", basis="b", by="me")
            assert again.value.facts["scrubbed"] is True
            assert key not in bytes_of(folder)
            with pytest.raises(UsageError):
                await app.client.erase("Z", basis="b", by="me")
            await app.store.close()

    asyncio.run(main())
