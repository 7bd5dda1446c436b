"""How long until Python has holdfast? ``import holdfast`` and ``holdfast --help``.

Method: processes are timed from start to end, a bare interpreter's beside each, and what that
takes is subtracted.

    python benchmarks/start.py [--rounds N] [--small]
"""

import subprocess
import sys
import time
from typing import Any

from harness import Figure, Place, main

__all__ = ["measure"]

COMMANDS = {"import": ("-c", "import holdfast"), "help": ("-m", "holdfast", "--help")}
TIMES = 5


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return ms beyond a bare interpreter."""
    figures = {name: Figure("ms") for name in COMMANDS}
    for _ in range(rounds if small else rounds * TIMES):
        for name, command in COMMANDS.items():
            bare = _took_ms("-c", "pass")
            figures[name].values.append(_took_ms(*command) - bare)
    return {name: figure.as_json() for name, figure in figures.items()}


def _took_ms(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
