"""``make bench``: every question in one sitting, and a row for each goal.

Asks the questions of this directory one after the other, prints the page and, with ``--write``,
puts it into docs/benchmarks.md, with the figures as JSON beside it. ``--quick`` leaves out the
large stores and most of the peers' rounds, for a look within two minutes; ``--small`` has tiny
sizes and asks only whether all of it runs.
"""

import argparse
import datetime as dt
import os
import sys
import time
import traceback
from typing import Any

import canonical
import conversation
import finished
import fleet
import parked
import proof
import recovery
import replay
import start
from harness import ROOT, machine, place
from report import page, write

QUESTIONS = {
    "start": start.measure,
    "replay": replay.measure,
    "canonical": canonical.measure,
    "recovery": recovery.measure,
    "parked": parked.measure,
    "finished": finished.measure,
    "conversation": conversation.measure,
    "proof": proof.measure,
    "fleet": fleet.measure,
}
QUICK = ("start", "replay", "conversation", "canonical", "recovery")
QUICK_CONTESTANTS = "holdfast,floor SQLite"


def main() -> None:
    """Ask all questions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--quick", action="store_true", help="a look within two minutes")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--write", action="store_true", help="put the page into the docs")
    parser.add_argument("--only", default="", help="contestants, by parts of their names")
    parser.add_argument("--note", default="", help="what else the machine did; goes into the page")
    options = parser.parse_args()
    only = options.only or (QUICK_CONTESTANTS if options.quick else "")
    command = "make bench-quick" if options.quick else "make bench"
    begun = time.monotonic()
    with place() as here:
        sitting: dict[str, Any] = {
            "command": command,
            "when": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
            "rounds": options.rounds,
            "load": [round(value, 2) for value in os.getloadavg()],
            "note": options.note,
            "answers": {},
            "failed": [],
        }
        for name in QUICK if options.quick else QUESTIONS:
            asked = time.monotonic()
            try:
                sitting["answers"][name] = QUESTIONS[name](
                    here,
                    rounds=options.rounds,
                    small=options.small,
                    only=only,
                    quick=options.quick,
                )
            except Exception as error:  # noqa: BLE001 - one question's failure is a row, not the end
                traceback.print_exc()
                sitting["failed"].append((name, f"{type(error).__name__}: {error}"))
            print(f"{name}: {time.monotonic() - asked:.0f} s", file=sys.stderr, flush=True)
            sitting["machine"] = machine(here)
            sitting["minutes"] = (time.monotonic() - begun) / 60
            if options.write:  # after each question: a sitting cut short has what it measured
                write(ROOT / "docs" / "benchmarks.md", sitting)
    print(page(sitting))
    if sitting["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
