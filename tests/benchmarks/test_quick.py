"""The quick benchmark runs, with tiny sizes: what is measured is not asserted anywhere.

Goal: the benchmark works when somebody wants it. Method: run it as ``make bench-quick`` does.
"""

import json
import subprocess
import sys
from pathlib import Path

QUICK = Path(__file__).parents[2] / "benchmarks" / "quick.py"


def test_the_quick_benchmark_runs():
    command = [sys.executable, str(QUICK), "--small", "--rounds", "1", "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(said)["rows"]
    assert [row["workload"] for row in rows] == [
        "effects 5 x 10",
        "effects 1 x 10",
        "reads 1 x 10",
        "replay",
    ]
    assert all(row["steps/s"] > 0 for row in rows[:3])
