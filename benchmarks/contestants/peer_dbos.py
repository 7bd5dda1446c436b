"""DBOS, as its programming guide begins: sync workflows of sync steps, on SQLite or PostgreSQL."""

import time

from dbos import DBOS, DBOSConfig, SetWorkflowID
from job import RESULT, Job, Meter, say, stop_here

TIMES: list[float] = []


@DBOS.step()
def effect(n: int) -> dict[str, str]:
    """Return the result."""
    if JOB.runs == 1:
        TIMES.append(time.perf_counter())
    if JOB.work in ("record", "recover") and n == JOB.steps:
        stop_here({"steps": n})
    return RESULT


@DBOS.workflow()
def effects(steps: int) -> int:
    """Make steps one after the other and count the right results."""
    return sum([effect(n) == RESULT for n in range(steps)])


def _main() -> None:
    path = JOB.directory / "dbos.sqlite"
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": JOB.postgres or f"sqlite:///{path}",
        "log_level": "CRITICAL",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    match JOB.work:
        case "steps":
            DBOS.start_workflow(effects, 1).get_result()  # what is prepared on first use
            TIMES.clear()
            others = (JOB.server_pid,) if JOB.server_pid else ()
            meter = Meter(JOB, others=others, path=None if JOB.postgres else path, step_times=TIMES)
            handles = [DBOS.start_workflow(effects, JOB.steps) for _ in range(JOB.runs)]
            answer = meter.stop([handle.get_result() for handle in handles])
            for _ in range(JOB.ones):
                begun = time.perf_counter()
                assert DBOS.start_workflow(effects, 1).get_result() == 1
                answer.setdefault("ms", []).append((time.perf_counter() - begun) * 1000)
            say(answer)
        case "record":
            with SetWorkflowID("recovered"):
                effects(JOB.steps + 1)
        case _:
            DBOS.retrieve_workflow("recovered").get_result()  # launch recovers it
    DBOS.destroy()


if __name__ == "__main__":
    JOB = Job.given()
    _main()
