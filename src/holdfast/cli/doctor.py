"""`holdfast doctor`: is this a place where runs are safe? The machine, the store, its workers.

Each check is a function that yields findings; ``ok``, ``note`` (worth knowing) or ``broken``.
Nothing is changed, and a store that does not exist yet is no fault.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import apsw
from rich.text import Text

from holdfast.cli.findings import Finding, last_event, log_signed, megabytes, runs_by_status
from holdfast.cli.fsck import store_path
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.cli.text import Grid, clean, clock, count
from holdfast.cli.version import versions
from holdfast.errors import StoreError
from holdfast.stores.sqlite.changes import lost_workers
from holdfast.stores.sqlite.file import connect, inspect
from holdfast.stores.sqlite.presence import Presence

__all__ = ["doctor_command", "filesystem_of"]

FREE_BYTES_LEAST = 100 * 1024 * 1024
YEAR_LEAST = 2025
NETWORK_FILESYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs", "virtiofs"),
    }
)


@command
async def doctor_command(shell: Shell) -> int:
    """Look over this machine and the store.

    Exits with 1 when something is broken.
    """
    if shell.store_url.startswith(("postgresql://", "postgres://")):
        from holdfast.cli.doctor_postgres import examined  # noqa: PLC0415 - an extra

        where, found = await examined(shell.store_url)
        findings = [*_installation(), *_clock(), *found]
    else:
        path = store_path(shell.store_url).absolute()
        where = str(path)
        findings = [*_installation(), *_clock(), *_directory(path), *_store(path)]
    broken = any(f.verdict == "broken" for f in findings)
    if shell.as_json:
        shell.emit({"store": where, "broken": broken, "findings": [asdict(f) for f in findings]})
        return FAILED if broken else DONE
    table = Grid("", "what", "found")
    styles = {"ok": "green", "note": "yellow", "broken": "bold red"}
    for one in findings:
        value = Text(clean(one.value))
        value.append(f"  Hint: {one.hint}" if one.hint else "", "dim")
        table.add_row(Text(one.verdict, styles[one.verdict]), one.what, value)
    shell.show(table)
    return FAILED if broken else DONE


def _installation() -> Iterator[Finding]:
    for name, version in versions().items():
        yield Finding(name, version)
    where = Path(sys.executable)
    yield Finding("interpreter", str(where))


def _clock() -> Iterator[Finding]:
    now = time.time_ns() // 1000
    year = time.gmtime(now / 1e6).tm_year
    if year < YEAR_LEAST:
        yield Finding("clock", clock(now), "broken", "set it: timers and leases rest on it")
    else:
        yield Finding("clock", clock(now))


def _directory(path: Path) -> Iterator[Finding]:
    directory = path.parent
    if not directory.is_dir():
        yield Finding("directory", f"{directory} does not exist", "broken", f"mkdir -p {directory}")
        return
    if not os.access(directory, os.W_OK):
        hint = "a store needs to write beside its file (its write-ahead log)"
        yield Finding("directory", f"{directory} is not writable", "broken", hint)
    free = shutil.disk_usage(directory).free
    verdict: Literal["ok", "broken"] = "ok" if free >= FREE_BYTES_LEAST else "broken"
    hint = "" if free >= FREE_BYTES_LEAST else "runs park when it is full; make room"
    yield Finding("free disk", megabytes(free), verdict, hint)
    kind = filesystem_of(directory, _mounts())
    if kind in NETWORK_FILESYSTEMS:
        hint = "SQLite's locks and shared memory do not hold there; use a local disk"
        yield Finding("file system", kind, "broken", hint)
    else:
        yield Finding("file system", kind or "unknown")


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        return ""


def filesystem_of(directory: Path, mounts: str) -> str:
    """Return the type of the file system that a directory is on, empty when it is not known.

    Args:
        directory: The directory.
        mounts: The mounts, as Linux lists them in /proc/mounts.
    """
    best, kind = "", ""
    real = str(directory.resolve())
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:  # noqa: PLR2004 - device, place, type
            continue
        place = fields[1].encode().decode("unicode_escape")  # spaces stand there as \040
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind


def _store(path: Path) -> Iterator[Finding]:
    try:
        if not path.parent.is_dir() or not inspect(path):
            yield Finding("store", f"{path}: none yet", "note", "holdfast run FILE:AGENT makes one")
            return
        connection = connect(path, read_only=True)
    except StoreError as error:
        yield Finding("store", str(error), "broken")
        return
    try:
        yield from _open_store(path, connection)
    except apsw.Error as error:
        yield Finding("store", f"{path}: {error}", "broken", f"holdfast fsck {path}")
    finally:
        connection.close()


def _open_store(path: Path, connection: apsw.Connection) -> Iterator[Finding]:
    wal = path.with_name(path.name + "-wal")
    sizes = megabytes(path.stat().st_size)
    if wal.exists():
        sizes += f", write-ahead log {megabytes(wal.stat().st_size)}"
    yield Finding("store", f"{path}: {sizes}")
    mode = _rows(connection, "PRAGMA journal_mode")[0][0]
    if mode == "wal":
        yield Finding("durability", "WAL, synchronous=FULL: a sync at every commit")
    elif os.access(path.parent, os.W_OK):  # else it was opened as a file that nobody changes
        yield Finding("durability", f"the file is in mode {mode!r}, not WAL", "broken")
    if not os.access(path, os.W_OK):
        yield Finding("permissions", f"{path} is not writable", "broken")
    counts: dict[str, int] = dict(
        _rows(connection, "SELECT status, count(*) FROM run GROUP BY 1 ORDER BY 1")
    )
    yield runs_by_status(counts)
    yield from _workers(path, connection)
    ((last,),) = _rows(connection, "SELECT coalesce(max(updated_at), 0) FROM run")
    now = time.time_ns() // 1000
    yield from last_event(last, now, "the clock was set back, or the file comes from elsewhere")
    ((events, signed, head),) = _rows(
        connection,
        """SELECT (SELECT coalesce(max(pos), 0) FROM event), EXISTS (SELECT * FROM signer),
          coalesce((SELECT max(size) FROM head), 0)""",
    )
    yield log_signed(events, head if signed else None)


def _workers(path: Path, connection: apsw.Connection) -> Iterator[Finding]:
    now = time.time_ns() // 1000
    workers = _rows(connection, "SELECT id, expires_at, locked FROM worker")
    presence = Presence(path)
    locks = path.with_name(f"{path.name}-workers").exists()  # asking would create it
    try:
        lost = lost_workers([w if locks else (*w[:2], 0) for w in workers], now, presence)
    finally:
        presence.close()
    held = dict(_rows(connection, "SELECT worker, count(*) FROM run GROUP BY 1"))
    alive = [name for name, *_ in workers if name not in lost]
    holding = count(sum(held.get(name, 0) for name in alive), "run")
    yield Finding("workers", f"{len(alive)} alive, holding {holding}")
    for name in lost:
        said = f"{name}, which held {count(held.get(name, 0), 'run')}"
        yield Finding("lost worker", said, "note", "the next worker takes them over")


def _rows(connection: apsw.Connection, statement: str) -> list[tuple[Any, ...]]:
    return list(connection.execute(statement))
