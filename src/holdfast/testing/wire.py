"""A wire between PostgreSQL servers that can be cut, as a network is: nothing comes through.

It passes on what the standbys and their primary say to each other. Cut, it keeps the connections
and swallows nothing: it carries neither bytes nor the news that anybody has hung up, so both sides
learn of it by their own timeouts alone.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Wire"]

_SOCKET = ".s.PGSQL.5432"


class Wire:
    """Listens in a directory of its own and carries to a server, in threads.

    Attributes:
        folder: Where it listens; ``host=`` in a connection string.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        """Begin to carry.

        Args:
            folder: A directory to be made.
            server: The directory of the server's socket.
        """
        self.folder = folder
        self._server = server
        self._whole = threading.Event()
        self._whole.set()
        folder.mkdir()
        folder.chmod(0o755)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / _SOCKET))
        (folder / _SOCKET).chmod(0o777)  # as root, the servers are another user's
        self._listening.listen()
        self._ends = [self._listening]
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def cut(self) -> None:
        """Carry nothing from now on."""
        self._whole.clear()

    def mend(self) -> None:
        """Carry again, what was sent meanwhile too."""
        self._whole.set()

    def close(self) -> None:
        """Hang up on everybody."""
        _hang_up(self._listening)
        self._threads[0].join()
        for end in self._ends:
            _hang_up(end)
        self.mend()
        for thread in self._threads[1:]:
            thread.join()
        for end in self._ends:
            end.close()

    def _spawn(self, work: Callable[..., None], *values: socket.socket) -> None:
        thread = threading.Thread(target=work, args=values, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                self._ends += [client, server]
                with suppress(OSError):
                    server.connect(str(self._server / _SOCKET))
                self._spawn(self._carry, client, server)
                self._spawn(self._carry, server, client)

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._whole.wait()
                to.sendall(data)
        self._whole.wait()
        _hang_up(to)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
