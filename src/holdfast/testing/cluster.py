"""PostgreSQL servers that replicate each other, and failover as an operator would do it.

A commit is acknowledged when one of the standbys has it too (``ANY 1``). ``fail_over`` kills the
primary's processes, promotes the standby that has received most, so that it has all that was
acknowledged, lets the other one follow it, and builds the dead one anew as a standby. Servers speak
to each other over wires that can be cut.
"""

import os
import shutil
import signal
from types import TracebackType
from typing import Self

from holdfast.testing.postgres import PostgresServer, own_folder
from holdfast.testing.wire import Wire

__all__ = ["PostgresCluster"]


class PostgresCluster:
    """Three servers, one of them primary. Use it as a context manager."""

    def __init__(self, nodes: int = 3) -> None:
        """Prepare so many servers."""
        self.folder = own_folder("hf-pgs")
        self.folder.chmod(0o755)
        self.names = [f"n{n}" for n in range(1, nodes + 1)]
        settings = {
            "synchronous_standby_names": f"ANY 1 ({', '.join(self.names)})",
            "hot_standby_feedback": "on",
            "wal_receiver_timeout": "5s",
            "wal_retrieve_retry_interval": "200ms",
        }
        self.nodes = {
            name: PostgresServer(self.folder / name, settings=settings) for name in self.names
        }
        self.wires = {
            name: Wire(self.folder / f"{name}-wire", node.folder)
            for name, node in self.nodes.items()
        }
        """How others reach each server."""
        self.primary = self.names[0]

    def __enter__(self) -> Self:
        first = self.nodes[self.primary]
        demanded = first.settings["synchronous_standby_names"]
        first.settings["synchronous_standby_names"] = ""  # nobody could acknowledge yet
        first.start()
        for name in self.names[1:]:
            self._build(name)
        first.settings["synchronous_standby_names"] = demanded
        first.stop()
        first.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in self.nodes.values():
            node.stop(signal.SIGQUIT)
        for wire in self.wires.values():
            wire.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """Return a URL with all servers in it; whoever connects finds the primary."""
        hosts = ",".join(str(node.folder) for node in self.nodes.values())
        return f"postgresql://holdfast@/{database}?host={hosts}"

    def kill_primary(self) -> None:
        """Kill all processes of the primary at once."""
        dead = self.nodes[self.primary]
        os.killpg(dead.pid, signal.SIGKILL)
        dead.stop(signal.SIGKILL)

    def fail_over(self) -> None:
        """Promote the standby that has most, whatever has become of the primary.

        The other one follows it, so that nobody confirms what the old primary commits from now on.
        """
        received = (
            "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
        )
        standbys = [name for name in self.names if name != self.primary]
        most = max(standbys, key=lambda name: self.nodes[name].execute(received)[0][0])
        self.nodes[most].execute("SELECT pg_promote(true, 60)")
        self.primary = most
        for name in standbys:
            if name != most:
                self._follow(name)
                os.kill(self.nodes[name].pid, signal.SIGHUP)

    def rebuild(self) -> None:
        """Make standbys of those that are down, and of primaries that were given up."""
        for name, node in self.nodes.items():
            if name != self.primary and (not node.running or not self._is_standby(name)):
                node.stop(signal.SIGQUIT)
                self.wires[name].mend()
                shutil.rmtree(node.data)
                self._build(name)

    def _is_standby(self, name: str) -> bool:
        return bool(self.nodes[name].execute("SELECT pg_is_in_recovery()")[0][0])

    def _build(self, name: str) -> None:
        node = self.nodes[name]
        node.own()
        source = self.nodes[self.primary].url().replace("/postgres?", "/?")
        node.run(
            *("pg_basebackup", f"--pgdata={node.data}", "--checkpoint=fast", "--no-sync"),
            *("--wal-method=stream", f"--dbname={source}"),
        )
        (node.data / "standby.signal").touch()
        self._follow(name)
        node.start()

    def _follow(self, name: str) -> None:
        conninfo = f"user=holdfast host={self.wires[self.primary].folder} application_name={name}"
        with (self.nodes[name].data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"\nprimary_conninfo = '{conninfo}'\n")
