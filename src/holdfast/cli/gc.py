"""`holdfast gc`: payloads of runs that ended long ago are let go, once it is told to."""

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.filesize import decimal

from holdfast.cli.shell import Shell, command
from holdfast.cli.steer import ByOption, this_person
from holdfast.cli.text import clean, clock, count
from holdfast.cli.values import SECONDS
from holdfast.errors import UsageError
from holdfast.runtime.clock import SystemClock, SystemEntropy
from holdfast.runtime.collecting import Collection, collect

__all__ = ["gc_command"]

_PERIOD = re.compile(rf"([0-9]+) *({'|'.join(SECONDS)})")


@command
async def gc_command(
    shell: Shell,
    *,
    keep: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="For how long after its end a run keeps them: 30d, 12h, 8w."
        ),
    ],
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; without, say what would go.")
    ] = False,
    by: ByOption = "",
) -> None:
    """Let go of payloads of runs that ended long ago.

    Says what would go; does it with --apply.

    What the runs were given, said and did goes; that they did it stays: every event keeps its leaf,
    so the log can be verified as before, and an event of its own says which payloads may be gone.
    Runs that have not ended, messages that nobody has read, and what tells of erasures are never
    touched.
    """
    keep_us = _period_us(keep)
    async with shell.app(write=apply) as app:
        done = await collect(
            app.store,
            keep_us=keep_us,
            by=by or this_person(),
            apply=apply,
            clock=SystemClock(),
            entropy=SystemEntropy(),
        )
    if shell.as_json:
        shell.emit({"applied": apply} | asdict(done))
        return
    for line in _lines(done, apply=apply):
        shell.show(clean(line))
    if not apply and done.runs:
        shell.note("note: nothing was changed. Hint: the same with --apply does it")


def _lines(done: Collection, *, apply: bool) -> list[str]:
    runs = f"{count(done.runs, 'run')} that ended before {clock(done.before)}"
    payloads = f"{count(done.payloads, 'payload')} ({decimal(done.bytes)})"
    if not apply:
        beside = ", and the parts of large ones that no other payload has" if done.runs else ""
        return [f"{payloads} of {runs} would go{beside}"]
    lines = [f"{payloads} of {runs} are gone"]
    if done.chunks:
        lines.append(
            f"and {count(done.chunks, 'part')} of large ones ({decimal(done.chunk_bytes)})"
        )
    if done.event:
        lines.append(f"recorded as event {done.event}")
    return lines


def _period_us(text: str) -> int:
    found = _PERIOD.fullmatch(text.strip())
    if not found:
        raise UsageError(f"--keep {text!r}: expected such as 30d, 12h or 8w")
    return round(int(found[1]) * SECONDS[found[2]] * 1e6)
