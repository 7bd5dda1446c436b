"""Two processes on one store, and everything that a seed brings.

Goal: slow answers, writes of which nobody knows whether they were made, deaths, drains, pauses
beyond the lease and clocks put forward change nothing of what a program comes to. Method: seeds;
each decides a world of its own, and the callbacks of the processes are shuffled by it. A failure
names its seed; ``chaos(program, fresh, seed)`` repeats it.
"""

import importlib.util
from pathlib import Path

import pytest

from holdfast.testing.chaos import chaos

_spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("programs.py"))
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)

each_program = pytest.mark.parametrize("name", programs.PROGRAMS)


@pytest.mark.parametrize("pauses", [False, True], ids=["strict", "pauses"])
@each_program
def test_a_hostile_world(name, pauses, in_memory):
    program = programs.PROGRAMS[name]()
    for seed in range(10):
        chaos(program, in_memory, seed, pauses=pauses)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pauses", [False, True], ids=["strict", "pauses"])
@each_program
def test_a_hostile_world_for_long(name, pauses, in_memory):
    program = programs.PROGRAMS[name]()
    for seed in range(10, 1000):
        chaos(program, in_memory, seed, pauses=pauses)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@each_program
def test_a_hostile_world_on_sqlite(name, on_files):
    program = programs.PROGRAMS[name]()
    for seed in range(200):
        chaos(program, on_files, seed, pauses=seed % 2 == 1)
