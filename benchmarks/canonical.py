"""How many steps a second, beside the floor and the peers? The workload that we quote.

Method: three shapes, one run x 1,000 steps, 200 x 20 and 2,000 x 5, each step an effect whose
result is 500 bytes of JSON; holdfast makes reads as well. Time runs from the first start to the
last run's end being durable; the ratio to the floor leaves the starts out, for the floor has none.
After the second shape some runs of one step are timed from start to result. The slow are given
fewer runs, which the answer says. What the runs return is checked.

    python benchmarks/canonical.py [--rounds N] [--small] [--only holdfast,floor]
"""

import statistics
from pathlib import Path
from typing import Any

from contestants.job import digest, on_disk
from harness import (
    CONTESTANTS,
    Absent,
    Contestant,
    Figure,
    Place,
    ask,
    job_for,
    known,
    main,
    rounds_of,
    syncs,
)

__all__ = ["measure"]

SHAPES = ((1, 1000), (200, 20), (2000, 5))
SMALL = ((1, 10), (5, 4))
SHARE = {(1, 1000): (1, 200), (200, 20): (25, 20), (2000, 5): (100, 5)}
"""What the slow are given instead."""
SYNCED = (20, 10)
ONES = 20
BUDGET_S, BUDGET_QUICK_S = 480, 60
"""A machine too busy for all rounds within this time gets fewer; the figures say how many."""


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return, for each contestant, figures by workload, or why it is absent."""
    contestants = known(only) if only else list(CONTESTANTS)
    works = _works(small=small, quick=quick)
    figures: dict[str, dict[str, dict[str, Figure]]] = {c.name: {} for c in contestants}
    absent: dict[str, str] = {}
    for _ in rounds_of(rounds, BUDGET_QUICK_S if quick else BUDGET_S):
        for label, work in works:
            for contestant in contestants:
                if contestant.name in absent:
                    continue
                if "reads" in label and contestant.script != "ours.py":
                    continue  # reads are holdfast's own idea
                try:
                    taken = _take(contestant, here, work)
                except (Absent, RuntimeError) as error:
                    absent[contestant.name] = str(error)
                    continue
                slot = figures[contestant.name].setdefault(label, {})
                for name, (unit, value) in taken.items():
                    slot.setdefault(name, Figure(unit)).values.append(value)
    if not quick:
        _count_syncs(here, contestants, figures, absent, small=small)
    return {
        "absent": absent,
        "contestants": {
            name: {
                label: {key: figure.as_json() for key, figure in slot.items()}
                for label, slot in slots.items()
            }
            for name, slots in figures.items()
            if slots
        },
        "ratios": ratios(figures),
    }


def _works(*, small: bool, quick: bool) -> list[tuple[str, dict[str, Any]]]:
    shapes = SMALL if small else SHAPES[:2] if quick else SHAPES
    works: list[tuple[str, dict[str, Any]]] = [
        (f"{runs} x {steps}", {"work": "steps", "runs": runs, "steps": steps})
        for runs, steps in shapes
    ]
    runs, steps = shapes[0]
    reads = {"work": "steps", "runs": runs, "steps": steps, "effect": "read"}
    works.append((f"{runs} x {steps} reads", reads))
    works[1][1]["ones"] = 3 if small else ONES
    return works


def _take(contestant: Contestant, here: Place, work: dict[str, Any]) -> dict[str, Any]:
    runs, steps = work["runs"], work["steps"]
    if not contestant.fast:
        runs, steps = SHARE.get((runs, steps), (runs, steps))
    job = job_for(contestant, here, **{**work, "runs": runs, "steps": steps})
    answer = ask(contestant, job)
    if answer["digest"] != digest([steps] * runs):
        raise RuntimeError(f"{contestant.name}: the runs did not return what they should: {answer}")
    count = runs * steps
    taken = {
        "steps": ("", count),
        "rate": ("steps/s", count / answer["seconds"]),
        "work rate": ("steps/s", count / answer.get("work_s", answer["seconds"])),
        "CPU": ("µs/step", answer.get("work_cpu_s", answer["cpu_s"]) / count * 1e6),
        "CPU, starts included": ("µs/step", answer["cpu_s"] / count * 1e6),
    }
    if "bytes" in answer:
        taken["bytes"] = ("bytes/step", answer["bytes"] / count)
    elif "path" in answer:
        made = count + work.get("ones", 0) + 1  # one to warm up
        grown = on_disk(Path(answer["path"])) - answer["bytes_before"]
        taken["bytes"] = ("bytes/step", grown / made)
    if "ms" in answer:
        taken["start to result"] = ("ms", statistics.median(answer["ms"]))
    if "p50_ms" in answer:
        taken["p50"] = ("ms", answer["p50_ms"])
    return taken


def _count_syncs(
    here: Place,
    contestants: list[Contestant],
    figures: dict[str, dict[str, dict[str, Figure]]],
    absent: dict[str, str],
    *,
    small: bool,
) -> None:
    """Count syncs beside the timed rounds, for strace takes time itself."""
    runs, steps = (5, 4) if small else SYNCED
    for contestant in contestants:
        if contestant.name in absent:
            continue
        for label, shape in ((f"{runs} x {steps}", (runs, steps)), ("1 x 100", (1, 100))):
            try:
                count = syncs(contestant, here, runs=shape[0], steps=shape[1])
            except (Absent, RuntimeError):
                continue
            if count is not None:
                figure = Figure("syncs/step", [count / (shape[0] * shape[1])])
                figures[contestant.name].setdefault(f"syncs {label}", {})["syncs"] = figure


def ratios(figures: dict[str, dict[str, dict[str, Figure]]]) -> dict[str, dict[str, Any]]:
    """Return holdfast's rates divided by everybody else's, by workload, round by round.

    The floor's is divided from the rate of the work alone, the peers' from the whole.
    """
    found: dict[str, dict[str, Any]] = {}
    for ours in (name for name in figures if name.startswith("holdfast")):
        for other, slots in figures.items():
            for label, slot in slots.items():
                mine = figures[ours].get(label, {})
                if other == ours or "rate" not in slot or "rate" not in mine:
                    continue
                name = "work rate" if other.startswith("floor") else "rate"
                pairs = zip(mine[name].values, slot["rate"].values, strict=False)
                figure = Figure("", [a / b for a, b in pairs])
                found.setdefault(f"{ours} / {other}", {})[label] = figure.as_json()
    return found


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
