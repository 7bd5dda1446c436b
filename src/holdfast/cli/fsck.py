"""`holdfast fsck [FILE]`: the invariants of a store, checked without writing to it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from holdfast.app import store_file
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.cli.text import clean
from holdfast.errors import StoreRefused, UsageError
from holdfast.stores.sqlite.fsck import check_file

__all__ = ["fsck_command", "store_path"]


def store_path(url: str) -> Path:
    """Return the file of a SQLite store by its URL.

    Raises:
        UsageError: it is not a file.
    """
    path = store_file(url)
    if path is None:
        raise UsageError(f"store {url!r} is not a SQLite file")
    return path


@command
async def fsck_command(
    shell: Shell,
    *,
    file: Annotated[
        str,
        typer.Argument(
            metavar="[FILE]", help="The store, if not that of --store: a file, or a URL."
        ),
    ] = "",
) -> int:
    """Check the invariants of a store, read-only.

    Exits with 1 when a problem is found.
    """
    where = file or shell.store_url
    if where.startswith(("postgresql://", "postgres://")):
        from holdfast.stores.postgres.fsck import check_database  # noqa: PLC0415 - an extra
        from holdfast.stores.postgres.server import hide  # noqa: PLC0415 - an extra

        name, problems = hide(where), check_database(where)
    else:
        path = store_path(where)
        if not path.exists():
            raise StoreRefused(f"there is no store {str(path)!r}. Hint: holdfast fsck FILE")
        name, problems = str(path), check_file(path)
    if shell.as_json:
        facts = [
            {"run": p.run, "seq": p.seq, "what": p.what, "expected": p.expected, "found": p.found}
            for p in problems
        ]
        shell.emit({"file": name, "problems": facts})
    else:
        for p in problems:
            place = f"{p.run}@{p.seq}" if p.run else name
            line = Text(clean(f"{place}: {p.what}"), "red")
            shell.show(line, Text(clean(f"    expected {p.expected}, found {p.found}"), "dim"))
        shell.show(f"{name}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return FAILED if problems else DONE
