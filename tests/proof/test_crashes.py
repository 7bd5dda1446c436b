"""After a kill or a power cut the newest head covers exactly the events that are there.

*Goal*: no event is ever in the log without a signature over it, nor a signature over what is not
there; work goes on, and the log verifies. *Method*: the power fails after every operation that a
signed store asks of the disk, its signing and a key's rotation included
(``holdfast.testing.powerloss``); real processes that write are killed by ``kill -9``.
"""

import asyncio
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from holdfast.core import events as ev
from holdfast.proof import keys
from holdfast.proof.sqlite_source import verify_file
from holdfast.stores.sqlite import writer
from holdfast.testing.powerloss import PowerLoss
from holdfast.testing.signed import HEIR, KEY, Writing, begin, open_signed, write

NAME = "log.db"


async def live(path, disk):
    """Write, sign, write, hand over to another key, write; return what was acknowledged when."""
    told = []
    store = await open_signed(path)
    writing = await write(store, rounds=1, runs=("one", "two"))
    before = len(await store.read_log(0, limit=1000))
    told.append((disk.now, before, 0))
    await begin(store)
    told.append((disk.now, before, 1))
    for number in range(6):
        await writing.add("one", ev.StreamEmitted(1), (ev.StreamEmitted(2), b"x" * 3000))
        told.append((disk.now, before + 2 * number + 2, 1))
    await store.signed.enrol(lambda head: keys.hand_over(KEY, head, HEIR))
    told.append((disk.now, before + 12, 2))
    await writing.add("two", *[ev.StreamEmitted(1)] * 260)
    told.append((disk.now, before + 12 + 260, 2))
    await store.close()
    return told


def counts(path):
    """Return how many events and signers a file has, and the newest head's size."""
    with closing(apsw.Connection(str(path))) as connection:
        ask = "SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM signer)"
        ((events, signers),) = connection.execute(ask).fetchall()
        ((size,),) = connection.execute("SELECT max(size) FROM head").fetchall()
    return events, signers, size


async def go_on(path):
    store = await open_signed(path)
    signed = bool(await store.signed.signers())
    await Writing(store).start("after")
    await store.close()
    return signed


def test_whatever_a_power_cut_leaves_is_signed_to_its_last_event(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LOG_PAGES_MIN", 30)
    (tmp_path / "a").mkdir()
    with PowerLoss(tmp_path / "a") as disk:
        told = asyncio.run(live(tmp_path / "a" / NAME, disk))
    tried, states = 0, set()
    for cut in disk.cuts(range(2)):
        cut.write(tmp_path / "b")
        path = tmp_path / "b" / NAME
        signed = asyncio.run(go_on(path))
        events, signers, size = counts(path)
        _, known, keyed = max((t for t in told if t[0] <= cut.at), default=(0, 0, 0))
        assert events - 1 >= known, f"cut {cut.at}: acknowledged and missing"
        assert signers >= keyed, f"cut {cut.at}: signing was acknowledged"
        assert size == (events if signed else None), f"cut {cut.at}"
        report = verify_file(path)
        assert report.ok == signed, f"cut {cut.at}: {report.findings}"
        tried += 1
        states.add((signers, events))
    assert tried > 100
    assert {signers for signers, _ in states} == {0, 1, 2}


CHILD = """
import asyncio, sys
from pathlib import Path
from holdfast.core import events as ev
from holdfast.testing.signed import Writing, begin, open_signed

async def main(path, run):
    store = await open_signed(path, inline=False)
    if not await store.signed.signers():
        await begin(store)
    writing = Writing(store)
    await writing.start(run)
    while True:
        await writing.add(run, ev.StreamEmitted(1), (ev.StreamEmitted(2), b"y" * 2000))
        print(writing.scripts[run].state.seq, flush=True)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def killed_after(path: Path, run: str, lines: int) -> int:
    """Let a process write until it has told so often, kill it, and return the last it told."""
    command = [sys.executable, "-c", CHILD, str(path), run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        told = [int(child.stdout.readline()) for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines()
    return int(rest[-1]) if rest else told[-1]


@pytest.mark.parametrize("lines", [1, 7, 140])
def test_a_process_that_is_killed_leaves_a_log_that_is_signed_to_its_end(lines, tmp_path):
    path = tmp_path / NAME
    known = 0
    for number in range(2):
        known += killed_after(path, f"run-{number}", lines + number)
        events, _, size = counts(path)
        assert size == events >= known
        report = verify_file(path)
        assert report.ok, report.findings
        known = events
