"""The file: opened, created, brought up to today's version, or refused.

A file is either one of ours or it is left exactly as it is. So its header is read before SQLite may
touch it, and through SQLite's own file layer: had this process opened the file before, then closing
it by ordinary means would drop the locks of the other connection (POSIX locks belong to the
process).

Creating is one transaction with a rollback log, so a file that a crash left behind is empty or
whole. A power cut may leave half of it beside that log; SQLite undoes it when it opens the file, so
it counts as empty whatever its header looks like.
"""

import os
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import apsw

from holdfast.errors import StoreError, StoreRefused, StoreUnavailable

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "connect",
    "create_tables",
    "immutable_uri",
    "inspect",
    "meaning",
    "undo_pages",
]

APPLICATION_ID = int.from_bytes(b"hold")
VERSION = 7
BUSY_TIMEOUT_MS = 5_000

_HERE = Path(__file__).parent
_MAGIC = b"SQLite format 3\0"
_LOG_MAGIC = bytes.fromhex("d9d505f920a163d7")
_LOG_PAGES = slice(16, 20)
_HEADER_BYTES = 100
_PAGE_SIZE, _USER_VERSION, _APPLICATION_ID = slice(16, 18), slice(60, 64), slice(68, 72)


def connect(path: Path, *, create: bool = False, read_only: bool = False) -> apsw.Connection:
    """Open a store file, in WAL mode and with a sync at each commit.

    Raises:
        StoreRefused: the file is missing (and not to be created), foreign, torn or of a newer
            version.
        StoreUnavailable: it cannot be opened or created now: permissions, a full disk, a lock.
    """
    try:
        if not inspect(path):
            if read_only or not create:
                raise StoreRefused(f"{path}: there is no store. Hint: check the path.")
            _create(path)
            inspect(path)  # what SQLite found there, once it had undone what was half done
        return _open_read_only(path) if read_only else _open(path)
    except apsw.Error as error:
        raise meaning(error, path) from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: cannot create the store: {error.strerror}.") from error


def inspect(path: Path) -> bool:
    """Tell a store file (True) from a missing or empty one (False), by its header alone.

    Raises:
        StoreRefused: there is something else.
    """
    if not path.parent.is_dir():
        raise StoreRefused(f"{path}: the directory {path.parent} does not exist. Hint: create it.")
    if not path.exists():
        return False
    if not path.is_file():
        raise StoreRefused(f"{path}: not a file. Hint: give the path of a file in a directory.")
    size = path.stat().st_size
    log = path.with_name(path.name + "-wal")
    if size == 0:
        if log.exists():
            raise StoreRefused(
                f"{path}: the file is empty, but a write-ahead log stands beside it: it was"
                " truncated. Nothing was changed. Hint: restore it from a copy."
            )
        return False
    if undo_pages(path) == 0:
        return False
    header = _header(path)
    if not header.startswith(_MAGIC):
        raise StoreRefused(
            f"{path}: not a SQLite file; it has {size} bytes and begins with {header[:16]!r}."
            " Nothing was changed. Hint: check the path, or restore the file from a copy."
        )
    # A log may hold the rest of a page whose writing was cut off; without one, pages are whole.
    page = int.from_bytes(header[_PAGE_SIZE]) or 1
    if len(header) < _HEADER_BYTES or (size % page and not log.exists()):
        raise StoreRefused(
            f"{path}: the file is torn: it has {size} bytes, not a multiple of {page}. Nothing was"
            " changed. Hint: restore it from a copy."
        )
    found = int.from_bytes(header[_APPLICATION_ID])
    if found != APPLICATION_ID:
        raise StoreRefused(
            f"{path}: a SQLite file of another program (application_id {found:#x}, expected"
            f" {APPLICATION_ID:#x}). Nothing was changed. Hint: give holdfast a file of its own."
        )
    _check_version(path, int.from_bytes(header[_USER_VERSION]))
    return True


def undo_pages(path: Path) -> int | None:
    """Return the pages that the file had before a transaction that was cut off, None without one.

    SQLite undoes it when it opens the file to write: the rollback log beside the file says how.
    """
    log = path.with_name(path.name + "-journal")
    if not log.is_file():
        return None
    with log.open("rb") as opened:
        header = opened.read(_HEADER_BYTES)
    return int.from_bytes(header[_LOG_PAGES]) if header.startswith(_LOG_MAGIC) else None


def meaning(error: apsw.Error, path: Path | str) -> StoreError:
    """Return what an error of SQLite's says of the store."""
    match error:
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError():
            return StoreRefused(f"{path}: the file is torn: {error}. Hint: holdfast fsck {path}")
        case apsw.BusyError() | apsw.LockedError():
            return StoreUnavailable(
                f"{path}: the file has been locked for {BUSY_TIMEOUT_MS / 1000:g} s."
                " Nothing was written. Hint: another process writes for very long."
            )
        case apsw.FullError():
            return StoreUnavailable(f"{path}: the disk is full. Nothing was written.")
        case apsw.ReadOnlyError() | apsw.CantOpenError():
            act = "written" if isinstance(error, apsw.ReadOnlyError) else "opened"
            return StoreUnavailable(
                f"{path}: the file cannot be {act}: {error}. Nothing was written. Hint: its user"
                " needs the right to write both to the file and to its directory, where SQLite"
                " keeps its write-ahead log."
            )
        case _:
            return StoreUnavailable(
                f"{path}: {type(error).__name__}: {error}. Nothing was written."
            )


def create_tables(connection: apsw.Connection) -> None:
    """Write the tables of today's version and the file's marks, inside the caller's transaction."""
    connection.execute((_HERE / "schema.sql").read_text())
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the tables up to today's version, each version in a transaction of its own.

    Raises:
        StoreRefused: the file is of a newer version.
    """
    while (version := _version(connection)) < VERSION:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == version:  # nobody else was faster
                step = _HERE / "migrations" / f"{version + 1:04}.sql"
                connection.execute(step.read_text())
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    _check_version(path, version)


def immutable_uri(path: Path, mode: str) -> str:
    """Return the URI that opens a file with ``mode=…`` or ``immutable=1``."""
    return f"file:{quote(str(path))}?{mode}"


def _check_version(path: Path, version: int) -> None:
    if version > VERSION:
        raise StoreRefused(
            f"{path}: a store of version {version}; this release of holdfast knows versions up to"
            f" {VERSION}. Nothing was changed. Hint: upgrade holdfast.",
            found=version,
            known=VERSION,
        )


def _version(connection: apsw.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    assert isinstance(version, int)
    return version


def _header(path: Path) -> bytes:
    flags = [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB, 0]
    file = apsw.VFSFile("", str(path), flags)
    try:
        return file.xRead(min(path.stat().st_size, _HEADER_BYTES), 0)
    finally:
        file.xClose()


def _create(path: Path) -> None:
    """Make an empty file, readable by its owner alone, and the tables in it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass  # an empty file, or another process creates it at this moment: the lock decides
    else:
        _sync_directory(path.parent)
    if undo_pages(path) == 0:
        # Not on the connection that creates: SQLite has read settings from the header by then.
        with closing(_plain(path, apsw.SQLITE_OPEN_READWRITE)) as undoing:
            undoing.execute("SELECT 1 FROM sqlite_master").fetchall()
    connection = _plain(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchall():
            create_tables(connection)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(name: Path | str, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(name), flags=flags)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    return connection


def _open(path: Path) -> apsw.Connection:
    connection = _plain(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        _write_ahead(connection, path)
        migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: apsw.Connection, path: Path) -> None:
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode != "wal":
        raise StoreRefused(
            f"{path}: SQLite cannot keep its write-ahead log here (it says {mode!r})."
            " Hint: use a local file system, not a network share."
        )
    connection.execute("PRAGMA synchronous = FULL")


def _open_read_only(path: Path) -> apsw.Connection:
    connection = _plain(path, apsw.SQLITE_OPEN_READONLY)
    try:
        version = _version(connection)
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        connection.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        # Nobody uses the file, and we may not write the index of a write-ahead log beside it.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = _plain(immutable_uri(path, "immutable=1"), flags)
        version = _version(connection)
    except BaseException:
        connection.close()
        raise
    _check_version(path, version)
    if version < VERSION:
        raise StoreRefused(
            f"{path}: a store of version {version} must be brought to version {VERSION} first."
            " Hint: open it for writing once."
        )
    return connection
