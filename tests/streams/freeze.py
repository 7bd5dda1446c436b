"""Freeze the streams of a release: what its programs write to the log, byte for byte.

    python tests/streams/freeze.py 0.1

``RELEASE/programs.py`` has the agents and what is done with them; each play becomes
``RELEASE/NAME.jsonl``. The first line says how each run stood at the end; every other line is one
event: run, leaf, payload and salt (hex). What is frozen is never written again: a later release
reads it as it is.
"""

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
EVERYTHING = 100_000


def load(path):
    """Import a file that is no module of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def freeze(release):
    """Play the programs of a release and write down their streams."""
    stage_of = load(HERE.parent / "conftest.py").Stage
    programs = load(HERE / release / "programs.py")
    for name, play in programs.PLAYS.items():
        stage = stage_of(*programs.AGENTS)
        play(stage)
        log = [event for _, event in stage.run(stage.store.read_log(0, limit=EVERYTHING))]
        rows = {row.run: row.status for row in stage.run(stage.store.rows())}
        lines = [{"release": release, "runs": rows}]
        lines += [
            {
                "run": event.run,
                "leaf": event.leaf.decode(),
                "payload": None if event.payload is None else event.payload.decode(),
                "salt": None if event.salt is None else event.salt.hex(),
            }
            for event in log
        ]
        with (HERE / release / f"{name}.jsonl").open("x") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        stage.close()


if __name__ == "__main__":
    freeze(sys.argv[1])
