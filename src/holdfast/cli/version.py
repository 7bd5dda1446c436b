"""`holdfast version`: which holdfast this is, and what it stands on."""

import platform

import apsw
import pydantic

import holdfast
from holdfast.cli.shell import Shell, command
from holdfast.stores.sqlite.file import VERSION

__all__ = ["version_command", "versions"]


def versions() -> dict[str, str]:
    """Return the versions of holdfast and of what it stands on."""
    return {
        "holdfast": holdfast.__version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        "pydantic": pydantic.VERSION,
        "store format": str(VERSION),
    }


@command
async def version_command(shell: Shell) -> None:
    """Print the version of holdfast and its parts."""
    found = versions()
    if shell.as_json:
        shell.emit(found)
    else:
        shell.show(f"holdfast {found.pop('holdfast')}")
        shell.show(", ".join(f"{name} {version}" for name, version in found.items()))
