"""What is left of a folder when the power fails, at every moment of a recorded piece of work.

``PowerLoss`` becomes SQLite's file layer. It lets everything happen as usual and records what the
disk is asked to do: each write, truncation and sync of each file, each file made or removed.
``cuts`` then tells what the folder may hold when the power fails after each of these operations::

    with PowerLoss(folder) as disk:
        ...  # open a store in the folder, work with it, note ``disk.now`` whenever it answers
    for cut in disk.cuts(seeds=range(5)):
        cut.write(another_folder)
        ...  # open the store there: what was acknowledged up to ``cut.at`` must be there

What is promised is what SQLite relies on, and no more:

* What was written to a file before its last sync is there. Of each later write any part may be
  there: all, nothing, some sectors of 512 bytes, a sector up to some byte or from some byte on. A
  file that grew may have its new length already and zeros or rubbish in it.
* A truncation and a later write, or two writes, survive independently of each other.
* A file that was made or removed may be back as it was, until the folder is synced. A file's own
  sync does not do that; SQLite syncs the folder at the first sync of each log that it makes.
* Bytes that nobody wrote to stay (SQLite calls it powersafe overwrite, and takes it for granted).
* The index of the write-ahead log (``-shm``) is gone, or rubbish.

Nothing is ever really synced, so whatever else opens stores by the hundred is fast under it, too.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import apsw

__all__ = ["Cut", "Operation", "PowerLoss", "cuts"]

SECTOR_BYTES = 512
_NOTHING, _EVERYTHING = 0, 1
_RUBBISH = b"\xa5"
_INDEX = _RUBBISH * 32_768
_LOGS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_names = itertools.count()

Kind: TypeAlias = Literal["make", "remove", "write", "truncate", "sync", "sync folder"]
Files: TypeAlias = dict[str, bytes]
"""Name → contents, of all files in a folder."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that the disk was asked to do."""

    kind: Kind
    name: str
    file: int
    """Tells files of one name apart, one after the other; those there at first count from 0."""
    offset: int = 0
    """Where a write begins, or the length after a truncation."""
    data: bytes = b""

    def __str__(self) -> str:
        place = f" at {self.offset}" if self.kind in ("write", "truncate") else ""
        size = f" of {len(self.data)} bytes" if self.data else ""
        return f"{self.kind} {self.name}{size}{place}"


@dataclass(frozen=True, slots=True)
class Cut:
    """What a folder holds after the power failed."""

    at: int
    """How many operations had been asked for."""
    seed: int
    files: Files

    def write(self, folder: Path) -> None:
        """Make these the only files of a folder, which is made if need be."""
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.is_file() and path.name not in self.files:
                path.unlink()
        for name, contents in self.files.items():
            (folder / name).write_bytes(contents)


class PowerLoss:
    """Records what is done to the SQLite files of a folder within a ``with`` block.

    No connection may be open when the block begins or ends. Whatever is in the folder at its
    beginning is safe.

    Args:
        folder: The folder.

    Attributes:
        before: What the folder held at first.
        operations: What the disk was asked to do since then.
    """

    def __init__(self, folder: Path) -> None:
        self.before: Files = {}
        self.operations: list[Operation] = []
        self._folder = folder.absolute()
        self._files: dict[str, int] = {}
        self._numbers = itertools.count()
        self._lock = Lock()
        self._vfs: _Vfs | None = None

    @property
    def now(self) -> int:
        """How many operations there have been."""
        return len(self.operations)

    def __enter__(self) -> Self:
        paths = sorted(path for path in self._folder.iterdir() if path.is_file())
        self.before = {path.name: path.read_bytes() for path in paths}
        self._files = {name: next(self._numbers) for name in self.before}
        self._vfs = _Vfs(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._vfs is not None
        self._vfs.unregister()

    def cuts(self, seeds: Iterable[int]) -> Iterator[Cut]:
        """Yield what the folder may hold after a cut, for every moment; see ``cuts`` below."""
        return cuts(self.before, self.operations, seeds)

    def record(self, operation: Operation) -> None:
        """Take note of an operation on a file of the folder."""
        self.operations.append(operation)

    def opened(self, path: Path) -> int | None:
        """Return the number of a file that was opened, None when it is none of the folder's."""
        if path.parent != self._folder:
            return None
        with self._lock:
            if path.name not in self._files:
                file = self._files[path.name] = next(self._numbers)
                self.record(Operation("make", path.name, file))
                if contents := path.read_bytes():
                    self.record(Operation("write", path.name, file, 0, contents))
            return self._files[path.name]

    def removed(self, path: Path, *, synced: bool) -> None:
        """Take note that a file was removed, and perhaps the folder synced."""
        if path.parent != self._folder:
            return
        with self._lock:
            file = self._files.pop(path.name)
        self.record(Operation("remove", path.name, file))
        if synced:
            self.record(Operation("sync folder", path.name, file))


def cuts(before: Files, operations: Sequence[Operation], seeds: Iterable[int]) -> Iterator[Cut]:
    """Yield what a folder may hold when the power fails, before, between and after all operations.

    Equal contents are yielded once, at the last moment that may leave them: the one at which the
    most has been acknowledged.

    Args:
        before: What the folder held at first.
        operations: What was done to it then.
        seeds: Each gives one outcome at each moment. With seed 0 nothing survives that need not,
            with seed 1 everything, with all others chance decides.
    """
    last = {_digest(cut.files): (cut.at, cut.seed) for cut in _all_cuts(before, operations, seeds)}
    for cut in _all_cuts(before, operations, seeds):
        if last[_digest(cut.files)] == (cut.at, cut.seed):
            yield cut


def _all_cuts(
    before: Files, operations: Sequence[Operation], seeds: Iterable[int]
) -> Iterator[Cut]:
    disk = _Disk(before)
    for at in range(len(operations) + 1):
        if at:
            disk.do(operations[at - 1])
        for seed in seeds:
            yield Cut(at, seed, disk.without_power(_Fate(seed, at)))


def _digest(files: Files) -> int:
    return hash(frozenset(files.items()))


class _Fate:
    """Decides what survives."""

    def __init__(self, seed: int, at: int) -> None:
        self._chance = random.Random(f"{seed} {at}")  # noqa: S311 - a schedule, not a secret
        fixed = {_NOTHING: 0.0, _EVERYTHING: 1.0}
        self._whole = fixed.get(seed, self._chance.choice((0.1, 0.5, 0.9)))
        self._torn = 0.0 if seed in fixed else (1 - self._whole) / 2

    def survives(self) -> bool:
        """Tell whether something survives that cannot be torn."""
        return self._chance.random() < self._whole

    def index(self) -> bool:
        """Tell whether a rubbish index of the write-ahead log is found."""
        return 0.0 < self._whole < 1.0 and self._chance.random() < 1 / 2

    def write(self, contents: bytearray, offset: int, data: bytes) -> None:
        """Do to a file what survives of a write."""
        if self.survives():
            _put(contents, offset, data)
        elif self._chance.random() < self._torn:
            grown = offset + len(data) - len(contents)
            if grown > 0 and self._chance.random() < 1 / 2:
                contents.extend(self._chance.choice((b"\0", _RUBBISH)) * grown)
            for start, end in self._parts(offset, len(data)):
                _put(contents, offset + start, data[start:end])

    def _parts(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Choose sectors of a write, and some bytes at one end of the one that was under way."""
        first = SECTOR_BYTES - offset % SECTOR_BYTES
        edges = [0, *range(first, size, SECTOR_BYTES), size]
        sectors = list(itertools.pairwise(edges))
        under_way = self._chance.choice(sectors)
        for start, end in sectors:
            if (start, end) == under_way:
                middle = self._chance.randint(start, end)
                yield self._chance.choice(((start, middle), (middle, end)))
            elif self._chance.random() < 1 / 2:
                yield start, end


class _Disk:
    """A folder: what of it is safe, and what was done since."""

    def __init__(self, files: Files) -> None:
        self._names = {name: n for n, name in enumerate(files)}
        self._names_since: list[Operation] = []
        self._contents = {n: bytearray(contents) for n, contents in enumerate(files.values())}
        self._since: dict[int, list[Operation]] = {n: [] for n in self._contents}

    def do(self, operation: Operation) -> None:
        """Do one more thing."""
        match operation.kind:
            case "make":
                self._contents[operation.file] = bytearray()
                self._since[operation.file] = []
                self._names_since.append(operation)
            case "remove":
                self._names_since.append(operation)
            case "write" | "truncate":
                self._since[operation.file].append(operation)
            case "sync":
                for pending in self._since[operation.file]:
                    _do(self._contents[operation.file], pending)
                self._since[operation.file] = []
            case "sync folder":
                for pending in self._names_since:
                    _rename(self._names, pending)
                self._names_since = []

    def without_power(self, fate: _Fate) -> Files:
        """Return what there is when all that is not safe is left to fate."""
        names = dict(self._names)
        for pending in self._names_since:
            if fate.survives():
                _rename(names, pending)
        files = {name: self._left_of(file, fate) for name, file in names.items()}
        for name in names:
            if name.endswith("-wal") and fate.index():
                files[name.removesuffix("wal") + "shm"] = _INDEX
        return files

    def _left_of(self, file: int, fate: _Fate) -> bytes:
        contents = bytearray(self._contents[file])
        for pending in self._since[file]:
            if pending.kind == "write":
                fate.write(contents, pending.offset, pending.data)
            elif fate.survives():
                _do(contents, pending)
        return bytes(contents)


def _do(contents: bytearray, operation: Operation) -> None:
    if operation.kind == "write":
        _put(contents, operation.offset, operation.data)
    else:
        del contents[operation.offset :]
        contents.extend(bytes(operation.offset - len(contents)))


def _put(contents: bytearray, offset: int, data: bytes) -> None:
    contents.extend(bytes(max(0, offset - len(contents))))
    contents[offset : offset + len(data)] = data


def _rename(names: dict[str, int], operation: Operation) -> None:
    if operation.kind == "make":
        names[operation.name] = operation.file
    else:
        names.pop(operation.name, None)


class _Vfs(apsw.VFS):
    """SQLite's default file layer while it is registered; the former one does the work."""

    def __init__(self, disk: PowerLoss) -> None:
        self._disk = disk
        self._base = apsw.vfs_names()[0]
        super().__init__(f"powerloss-{next(_names)}", self._base, makedefault=True)

    def xOpen(  # noqa: N802 - SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        return _File(self._disk, self._base, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's
        super().xDelete(filename, False)  # noqa: FBT003 - SQLite's
        self._disk.removed(Path(filename), synced=syncdir)


class _File(apsw.VFSFile):
    """An open file."""

    def __init__(
        self,
        disk: PowerLoss,
        base: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        super().__init__(base, name, flags)
        self._disk = disk
        path = Path((name.filename() if isinstance(name, apsw.URIFilename) else name) or "/")
        self._name = path.name
        self._file = disk.opened(path)
        self._makes_log = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _LOGS)

    def xLock(self, level: int) -> None:  # noqa: N802 - SQLite's name
        try:
            super().xLock(level)
        except apsw.IOError as error:
            # Of a file opened to read, at its closing: SQLite does not mind, the binding would.
            raise apsw.BusyError(str(error)) from error

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self._record("write", offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(newsize)
        self._record("truncate", newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802 - SQLite's
        self._record("sync")
        if self._makes_log:  # so does SQLite's file layer for Unix
            self._record("sync folder")
            self._makes_log = False

    def _record(self, kind: Kind, offset: int = 0, data: bytes = b"") -> None:
        if self._file is not None:
            self._disk.record(Operation(kind, self._name, self._file, offset, data))
