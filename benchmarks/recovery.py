"""How long until a killed run goes on? From a process's start to the next step.

Method: a run records 2,000 steps and its process is killed by SIGKILL in the body of the next;
then a new process is timed from its start to that body, where it is killed again, so that every
round finds the same. Of Restate the service is killed and its server lives on. A lease lasts 1 s
here, where holdfast's default is 15 s and Absurd's 120 s; on SQLite holdfast sees that the process
has died and waits for no lease. holdfast recovers 50,000 steps as well (reads, of which 50,000
take seconds to record).

    python benchmarks/recovery.py [--rounds N] [--small] [--only holdfast]
"""

from typing import Any

from harness import CONTESTANTS, Absent, Figure, Place, ask, job_for, known, main, rounds_of

__all__ = ["measure"]

STEPS, MANY, SMALL = 2_000, 50_000, 20
BUDGET_S, BUDGET_QUICK_S = 150, 20
"""What the rounds may take, the recording aside."""
RESULTS_MB_A_STEP = 500 / 1e6
"""What the results themselves take."""


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return, for each contestant, the seconds to recover; for holdfast its memory too."""
    contestants = known(only) if only else list(CONTESTANTS)
    steps, many = (SMALL, 2 * SMALL) if small else (STEPS, MANY)
    jobs: dict[tuple[str, int], tuple[Any, dict[str, Any]]] = {}
    absent: dict[str, str] = {}
    for contestant in contestants:
        amounts = [(steps, "idempotent")]
        if contestant.name == "holdfast SQLite" and not quick:
            amounts.append((many, "read"))
        for count, effect in amounts:
            try:
                job = job_for(contestant, here, "record", steps=count, effect=effect)
                ask(contestant, job)
                jobs[contestant.name, count] = contestant, {**job, "work": "recover"}
            except (Absent, RuntimeError) as error:
                absent[contestant.name] = str(error)
    found: dict[tuple[str, int], dict[str, Figure]] = {}
    for _ in rounds_of(rounds, BUDGET_QUICK_S if quick else BUDGET_S):
        for key, (contestant, job) in jobs.items():
            try:
                answer = ask(contestant, job)
            except RuntimeError as error:
                absent[contestant.name] = str(error)
                continue
            assert answer["steps"] == key[1], f"{contestant.name} was at another step: {answer}"
            slot = found.setdefault(key, {"seconds": Figure("s")})
            seconds = answer.get("seconds", answer.get("at", 0.0) - answer["began"])
            slot["seconds"].values.append(seconds)
            if "grown_mb" in answer:
                beyond = answer["grown_mb"] - key[1] * RESULTS_MB_A_STEP
                slot.setdefault("memory", Figure("MB")).values.append(beyond)
    figures: dict[str, dict[str, Any]] = {}
    for (name, count), slot in found.items():
        row = figures.setdefault(name, {})
        row[str(count)] = {key: figure.as_json() for key, figure in slot.items()}
    return {"absent": absent, "contestants": figures, "steps": steps, "many": many}


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
