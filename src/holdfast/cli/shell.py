"""What every command shares: its store, two ways to print, errors as one line, exit codes.

``command`` makes an async function a command: it gives it ``--store``, ``--json`` and ``--debug``
and hands it a ``Shell`` made of them.

Invariants: with ``--json`` nothing but JSON reaches stdout; notes and errors go to stderr; a store
is created by no command but those that ask for it. Text that comes out of a log is stripped of
what could move a terminal's cursor.
"""

import asyncio
import contextlib
import functools
import inspect
import json
import os
import shlex
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import cached_property
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console, RenderableType

from holdfast.app import DEFAULT_STORE, App, open_store
from holdfast.cli.text import clean
from holdfast.core.redaction import Cleaner, Finder, find_credentials
from holdfast.errors import (
    CodecError,
    HoldfastError,
    RunConflict,
    RunUnknown,
    StoreRefused,
    UsageError,
)
from holdfast.runtime.schedules import Schedule

__all__ = [
    "DIVERGED",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "PARKED",
    "TERMINATED",
    "USAGE",
    "RunArgument",
    "Shell",
    "command",
    "find_event",
]

Body: TypeAlias = Callable[..., Coroutine[Any, Any, int | None]]

DONE, FAILED, USAGE, DIVERGED, PARKED = 0, 1, 2, 3, 4
INTERRUPTED, TERMINATED, PIPE_CLOSED = 130, 143, 141
"""128 and the number of the signal, as shells have it."""

PIPED_WIDTH = 1000
"""Columns of what is not a terminal: long lines stay whole for the program that reads them."""

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or an unambiguous beginning of it.")
]

_StoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="HOLDFAST_STORE", metavar="URL", help="The store: a path or a URL."
    ),
]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
_DebugOption = Annotated[
    bool,
    typer.Option("--debug", envvar="HOLDFAST_DEBUG", help="Show where an error comes from."),
]


class Shell:
    """The surroundings of one command."""

    def __init__(self, store_url: str, *, as_json: bool, debug: bool) -> None:
        self.store_url = store_url
        self.as_json = as_json
        self.debug = debug

    @cached_property
    def console(self) -> Console:
        """Where people read what a command says."""
        width = None if sys.stdout.isatty() else PIPED_WIDTH
        return Console(highlight=False, markup=False, emoji=False, width=width)

    def show(self, *parts: RenderableType) -> None:
        """Print for people."""
        for part in parts:
            self.console.print(part, soft_wrap=isinstance(part, str))

    def emit(self, value: Any, *, line: bool = False) -> None:
        """Print JSON on stdout: one document, or one line of a stream of them."""
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        text = json.dumps(
            value, ensure_ascii=encoding != "utf8", indent=None if line else 2, default=str
        )
        print(text, flush=line)  # noqa: T201 - JSON for programs; rich is for people

    def note(self, text: str) -> None:
        """Say one line on stderr."""
        print(clean(text), file=sys.stderr, flush=True)  # noqa: T201 - plain text, no colours

    def suggest(self, *words: str) -> str:
        """Return a command line of ours to try, for this store."""
        known = self.store_url in (DEFAULT_STORE, os.environ.get("HOLDFAST_STORE"))
        store = () if known else ("--store", self.store_url)
        return shlex.join(("holdfast", *words, *store))

    @contextlib.asynccontextmanager
    async def app(
        self,
        agents: Iterable[Callable[..., Any]] = (),
        *,
        write: bool = False,
        create: bool = False,
        schedules: Iterable[Schedule] = (),
    ) -> AsyncIterator[App]:
        """Open the store and join it with these agents.

        Raises:
            StoreRefused: there is no such store and ``create`` is not set, or it is not one of
                ours.
        """
        try:
            store = await open_store(self.store_url, create=create, read_only=not write)
        except StoreRefused as error:
            if "there is no store" not in str(error):
                raise
            raise StoreRefused(
                f"there is no store {self.store_url!r}. Hint: holdfast run FILE:AGENT makes one;"
                " --store or HOLDFAST_STORE names another"
            ) from error
        try:
            async with App(store, agents, redact=_finder(), schedules=schedules) as app:
                yield app
        finally:
            await store.close()

    def carry_out(self, body: Body, options: Any) -> int:
        """Run a command's body and return its exit code; errors of ours become one line."""
        try:
            code = asyncio.run(body(self, **options))
            sys.stdout.flush()
        except HoldfastError as error:
            if self.debug:
                traceback.print_exc()
            # It may quote what was given, an input with a wrong type for one.
            find = None if "HOLDFAST_REDACT" in str(error) else _finder()
            self.note(f"holdfast: {Cleaner(find).text(str(error))}")
            wrong = UsageError | CodecError | RunUnknown | RunConflict
            return USAGE if isinstance(error, wrong) else FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # whoever reads us has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        return code or DONE


def _finder() -> Finder | None:
    """Return what HOLDFAST_REDACT asks for: every process that writes to a log has to know it."""
    wanted = os.environ.get("HOLDFAST_REDACT", "")
    if wanted not in ("", "credentials"):
        raise UsageError(f"HOLDFAST_REDACT={wanted!r}: expected 'credentials' or nothing")
    return find_credentials if wanted else None


def command(body: Body) -> Callable[..., None]:
    """Make an async function ``body(shell, *, …)`` a command.

    Its parameters are the command's, its docstring is the help, what it returns the exit code.
    """
    parameters = list(inspect.signature(body).parameters.values())[1:]
    shared = {"store": _StoreOption, "as_json": _JsonOption, "debug": _DebugOption}
    defaults: dict[str, Any] = {"store": DEFAULT_STORE, "as_json": False, "debug": False}
    only = inspect.Parameter.KEYWORD_ONLY
    parameters += [
        inspect.Parameter(name, only, default=defaults[name], annotation=shared[name])
        for name in shared
    ]

    @functools.wraps(body)
    def run(*, store: str, as_json: bool, debug: bool, **options: Any) -> None:
        shell = Shell(store, as_json=as_json, debug=debug)
        raise typer.Exit(shell.carry_out(body, options))

    del run.__wrapped__  # typer is to see the signature made here, not the body's
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect looks for it
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


async def find_event(app: App, text: str) -> tuple[str, int]:
    """Return the run and the seq that ``RUN@SEQ`` names; without ``@SEQ``, the last event's.

    Raises:
        RunUnknown: there is no such run or event.
    """
    prefix, at, number = text.rpartition("@")
    row = await app.store.row(text)
    if row is None and at and number.isdecimal():
        row = await app.client.row(await app.client.find(prefix))
        if not 1 <= int(number) <= row.seq:
            raise RunUnknown(
                f"run {row.run!r} has no event {number}; its events are 1 to {row.seq}"
            )
        return row.run, int(number)
    row = row or await app.client.row(await app.client.find(text))
    return row.run, row.seq
