"""The verifier is fuzzed, led by coverage: nothing makes it raise, or believe what is not so.

*Goal*: no bytes that a search of half an hour comes upon, in the place of a piece of a note, of a
published log or of a store file, break what ``fuzzing.py`` says of all inputs. *Method*: atheris,
in a process for each of the three, ten minutes each. ``make soak`` gets it; ``HOLDFAST_FUZZ_S``
sets other seconds.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATHERIS = os.environ.get("HOLDFAST_FUZZ", "")
SECONDS = os.environ.get("HOLDFAST_FUZZ_S", "600")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(int(SECONDS) + 300),
    pytest.mark.skipif(not ATHERIS, reason="make soak says where atheris is, if there is one"),
]


@pytest.mark.parametrize("target", ["texts", "published", "file"])
def test_a_search_led_by_coverage_finds_nothing(target, tmp_path):
    (tmp_path / "found").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("fuzzing.py"),
            target,
            tmp_path / "found",
            f"-max_total_time={SECONDS}",
            "-timeout=60",
            "-print_final_stats=1",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ATHERIS},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr[-3_000:]
    assert done.returncode == 0, last
    assert "number_of_executed_units" in last
    found = len(list((tmp_path / "found").iterdir()))
    assert found > 10, f"only {found} inputs reached something new: {last}"
