"""A process may die, be stopped beyond its lease, or be drained at any point whatsoever.

Goal: whatever happens where, each program ends as it does undisturbed, and the invariants hold: one
body per intent, nothing without a durable intent, gapless streams, rows that are folds, identical
replays, messages consumed once, causes that end outside. Method: the programs of ``programs.py``
use all that the library offers; each is run anew for every point it passes (before and behind each
operation of the store, each deed, inside each transaction) with one disaster there, in virtual
time, on the memory store and on SQLite (there at every point a kill, and the others at some; `make
soak` tries all). A failure names program, seed, disaster and point.
"""

import importlib.util
from pathlib import Path

import pytest

from holdfast.testing.crashes import everywhere

_spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("programs.py"))
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)

DISASTERS = ["kill", "stop", "drain"]
each_program = pytest.mark.parametrize("name", programs.PROGRAMS)


@pytest.mark.parametrize("disaster", DISASTERS)
@each_program
def test_anywhere_in_memory(name, disaster, in_memory):
    assert everywhere(programs.PROGRAMS[name](), in_memory, disaster) >= 10


@each_program
def test_a_kill_anywhere_on_sqlite(name, on_files):
    assert everywhere(programs.PROGRAMS[name](), on_files, "kill") >= 10


@each_program
def test_a_stop_a_pause_and_a_drain_at_a_sample_of_points_on_sqlite(name, on_files):
    for disaster in ("stop", "pause", "drain"):
        assert everywhere(programs.PROGRAMS[name](), on_files, disaster, points_max=7) == 7


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("disaster", [*DISASTERS, "pause"])
@each_program
def test_literally_anywhere_on_sqlite(name, disaster, on_files):
    assert everywhere(programs.PROGRAMS[name](), on_files, disaster, literally=True) > 50


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 6))
@each_program
def test_literally_anywhere_by_other_seeds(name, seed, in_memory):
    for disaster in [*DISASTERS, "pause"]:
        everywhere(programs.PROGRAMS[name](), in_memory, disaster, seed=seed, literally=True)
