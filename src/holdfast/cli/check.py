"""`holdfast check FILE`: what a replay of the agents in a file could not repeat."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from holdfast.cli.lint import Finding, lint_source
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.cli.text import clean
from holdfast.errors import UsageError

__all__ = ["check_command"]


@command
async def check_command(
    shell: Shell,
    *,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Python files.")],
) -> int:
    """Find what an agent does that a replay could not repeat.

    Clocks, chance, I/O outside of steps and more. The files are read, not run. Exits with 1 when
    something is found. A comment `# holdfast: ignore[rule] reason` silences a rule on its line.
    """
    findings: list[Finding] = []
    for file in files:
        findings += lint_source(_source(file), file)
    if shell.as_json:
        shell.emit([asdict(finding) for finding in findings])
        return FAILED if findings else DONE
    for found in findings:
        place = Text(f"{clean(found.path)}:{found.line}:{found.column}: ", "bold")
        place.append(f"{found.rule}: ", "yellow").append(clean(found.message), "default")
        shell.show(place, Text(f"    instead: {found.remedy}", "dim"))
    if not findings:
        shell.show(f"nothing found in {', '.join(map(clean, files))}")
    return FAILED if findings else DONE


def _source(file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 at byte {error.start}") from error
