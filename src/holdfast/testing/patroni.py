"""Three PostgreSQL nodes that Patroni looks after, and three of etcd that say who is primary.

What ``cluster.py`` does by hand is done here as fleets have it done: whoever holds the lock in etcd
is primary, and commits wait for a quorum of standbys that Patroni keeps. The programs are of an
environment of their own (``make soak-patroni``).
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.errors import UsageError
from holdfast.testing.postgres import PostgresServer, own_folder

__all__ = ["PatroniCluster"]

READY_S = 120
_SETTINGS = {
    "fsync": "off",  # nothing here loses its power; killed processes lose nothing
    "full_page_writes": "off",
    "max_connections": 100,
    "wal_keep_size": "64MB",
}
_INITDB = [{"encoding": "UTF8"}, "no-locale", "data-checksums"]
_TIMES_S = {"ttl": 20, "loop_wait": 2, "retry_timeout": 3}
"""The least that Patroni takes: a primary that is dead is so for ``ttl`` seconds."""


class PatroniCluster:
    """Nodes ``n1`` to ``n3``. Use it as a context manager.

    Args:
        programs: The ``bin`` of an environment that has ``patroni`` and ``etcd``.
    """

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = own_folder("hf-patroni")
        self.folder.chmod(0o755)
        self.names = ["n1", "n2", "n3"]
        self._etcd = {name: (free_port(), free_port()) for name in self.names}
        self._ports = {name: (free_port(), free_port()) for name in self.names}
        """Of PostgreSQL, and of Patroni's own API."""
        self._homes = {name: PostgresServer(self.folder / name) for name in self.names}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            for name, home in self._homes.items():
                home.own()
                self._start_etcd(name)
                self.start(name)
            self.leader()
            self.recovered()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all, and remove what was made."""
        for name in self.names:
            self._end(name, signal.SIGKILL)
        for process in self._running.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self, name: str) -> str:
        """Make a database and return a URL with all nodes in it."""
        import psycopg  # noqa: PLC0415 - an extra

        hosts = ",".join(f"127.0.0.1:{port}" for port, _ in self._ports.values())
        url = f"postgresql://holdfast@{hosts}/"

        def done() -> bool:
            with (
                suppress(psycopg.OperationalError),  # no primary for a while
                psycopg.connect(f"{url}postgres?target_session_attrs=read-write") as there,
            ):
                there.autocommit = True
                with suppress(psycopg.errors.DuplicateDatabase):
                    there.execute(f"CREATE DATABASE {name}".encode())
                return True
            return False

        self._wait(f"a database {name}", done)
        return f"{url}{name}"

    def leader(self, *, but: str = "") -> str:
        """Return who is primary, once somebody is who is not ``but``.

        Raises:
            UsageError: nobody becomes it.
        """

        def found() -> str:
            leaders = [name for name in self.names if name != but and self._answers(name, "leader")]
            return leaders[0] if leaders else ""

        return str(self._wait("a primary", found))

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once, Patroni and PostgreSQL."""
        self._end(name, signal.SIGKILL)

    def start(self, name: str) -> None:
        """Start a node; one that was there before finds its way back."""
        home = self._homes[name]
        settings = self.folder / f"{name}.yml"
        settings.write_text(json.dumps(self._settings(name)))  # which is YAML too
        settings.chmod(0o644)
        self._running[name] = home.spawn(
            self.programs / "patroni",
            str(settings),
            how=signal.SIGTERM,  # so that it ends PostgreSQL, which is no child of its own
        )

    def recovered(self) -> None:
        """Return once all nodes are there, all but one as standbys that follow."""
        others = len(self.names) - 1
        self._wait("its standbys", lambda: len(self._members("streaming")) >= others)

    def switch_over(self, to: str) -> None:
        """Have a standby take over in an orderly way, as soon as it may."""

        def done() -> bool:
            leader = self.leader()
            where = f"http://127.0.0.1:{self._ports[leader][1]}/switchover"
            body = json.dumps({"leader": leader, "candidate": to}).encode()
            request = urllib.request.Request(where, body, method="POST")
            with suppress(urllib.error.HTTPError):  # it may not be in the quorum yet
                urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - loopback
            return self.leader() == to

        self._wait(f"{to} as primary", done)

    def kill_etcd(self, name: str) -> None:
        """Kill a member of etcd; two of three are a quorum."""
        process = self._running.pop(f"etcd-{name}")
        process.kill()
        process.wait()

    def _start_etcd(self, name: str) -> None:
        home, (client, peer) = self._homes[name], self._etcd[name]
        urls = {n: f"http://127.0.0.1:{p}" for n, (_, p) in self._etcd.items()}
        self._running[f"etcd-{name}"] = home.spawn(
            self.programs / "etcd",
            *("--name", name, "--data-dir", str(home.folder / "etcd"), "--logger", "zap"),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", ",".join(f"{n}={url}" for n, url in urls.items())),
            *("--initial-cluster-state", "new", "--unsafe-no-fsync"),
        )

    def _settings(self, name: str) -> dict[str, Any]:
        home, (port, api) = self._homes[name], self._ports[name]
        dcs = {
            **_TIMES_S,
            "maximum_lag_on_failover": 1 << 20,
            "synchronous_mode": "quorum",
            "synchronous_mode_strict": True,
            "postgresql": {"use_pg_rewind": True, "parameters": _SETTINGS},
        }
        return {
            "scope": "holdfast",
            "name": name,
            "restapi": {"listen": f"127.0.0.1:{api}", "connect_address": f"127.0.0.1:{api}"},
            "etcd3": {"hosts": [f"127.0.0.1:{client}" for client, _ in self._etcd.values()]},
            "bootstrap": {
                "dcs": dcs,
                "initdb": [{"encoding": "UTF8"}, "no-locale", "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{port}",
                "connect_address": f"127.0.0.1:{port}",
                "data_dir": str(home.data),
                "bin_dir": str(home.programs),
                "pgpass": str(home.folder / "pgpass"),
                "parameters": {"unix_socket_directories": str(home.folder)},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                "authentication": {
                    "superuser": {"username": "holdfast"},
                    "replication": {"username": "replicator"},
                },
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
        }

    def _end(self, name: str, how: signal.Signals) -> None:
        """End Patroni on a node, and PostgreSQL, which it starts apart from itself."""
        process = self._running.pop(name, None)
        if process is not None:
            process.send_signal(how)
        with suppress(OSError, ValueError):
            server = self._homes[name].data / "postmaster.pid"
            os.kill(int(server.read_text().split()[0]), how)
        if process is not None:
            process.wait()

    def _members(self, state: str) -> list[str]:
        for name in self.names:
            if cluster := self._answers(name, "cluster"):
                return [one["name"] for one in cluster["members"] if one.get("state") == state]
        return []

    def _answers(self, name: str, question: str) -> dict[str, Any]:
        """Return what a node's Patroni answers, empty unless it says yes."""
        where = f"http://127.0.0.1:{self._ports[name][1]}/{question}"
        try:
            with urllib.request.urlopen(where, timeout=5) as answer:
                return dict(json.load(answer))
        except (OSError, urllib.error.URLError, ValueError):
            return {}

    def _wait(self, what: str, holds: Any) -> Any:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.1)
        logs = {name: home.log.read_text()[-1_500:] for name, home in self._homes.items()}
        raise UsageError(f"the cluster has not come to {what}: {logs}")


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
