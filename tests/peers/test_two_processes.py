"""Several processes share one SQLite file without getting into each other's way.

The fault: two engines open one file, and one of them dies of "database is locked". Reported as
langgraph #8136 and deer-flow #3353.

*Goal*: every run of every process ends, each effect happens once, the file is sound. *Method*:
three real processes on one file that does not exist yet, each of which starts and works off runs of
all.
"""

import subprocess
import sys
from pathlib import Path

from holdfast.stores.sqlite.fsck import check_file

PROGRAM = Path(__file__).with_name("two_processes.py")
RUNS = 15


def test_three_processes_on_one_file_all_finish(tmp_path):
    path, effects = tmp_path / "shared.db", tmp_path / "effects"
    names = ["ann", "bob", "eve"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path), name, str(RUNS), str(effects)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(said)
    assert said == [f"{name} done\n" for name in names], "nor was there anything to complain about"
    assert check_file(path) == []
    done = effects.read_text().splitlines()
    wanted = [f"{name}-{n} {n + i}" for name in names for n in range(RUNS) for i in range(5)]
    assert sorted(done) == sorted(wanted)
