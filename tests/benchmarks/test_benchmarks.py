"""Every benchmark runs, with tiny sizes, and the page says what was measured and what was not.

Goal: the benchmarks work when somebody wants them, and a missing contestant or question is never
left out silently. Method: each question is asked as a person would ask it; the page is made of
answers written here. What is measured is asserted nowhere.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTESTANTS = "holdfast SQLite,floor SQLite"
QUESTIONS = (
    "canonical",
    "conversation",
    "finished",
    "fleet",
    "parked",
    "proof",
    "recovery",
    "replay",
    "start",
    "where",
)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def asked(question, *words):
    command = [sys.executable, str(BENCHMARKS / f"{question}.py"), "--small", "--rounds", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["answer"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_question_is_answered(question):
    answer = asked(question, "--only", CONTESTANTS)
    assert answer
    assert not answer.get("absent"), "the floor and holdfast run wherever the tests run"


def test_the_page_has_a_row_for_each_goal_measured_or_not(bench):
    report = bench("report")
    rows = report.goals({})
    assert {row.number for row in rows} == set(range(1, 9))
    assert {row.met for row in rows} == {None}
    assert {row.figure for row in rows} == {"not measured"}


def figure(median, low, high, unit=""):
    return {"median": median, "low": low, "high": high, "unit": unit, "rounds": 3}


@pytest.mark.parametrize(("median", "met"), [(71.0, False), (70.0, True), (12.0, True)])
def test_a_goal_is_met_by_its_median(bench, median, met):
    slots = {"200 x 20": {"CPU": figure(median, 1.0, 99.0, "µs/step")}}
    answers = {"canonical": {"contestants": {"holdfast SQLite": slots}}}
    (row,) = [row for row in bench("report").goals(answers) if row.number == 3]
    assert row.met is met
    assert row.spread == "1 to 99"


def test_one_round_is_not_called_a_spread(bench):
    slots = {"200 x 20": {"CPU": figure(50.0, 50.0, 50.0, "µs/step") | {"rounds": 1}}}
    answers = {"canonical": {"contestants": {"holdfast SQLite": slots}}}
    (row,) = [row for row in bench("report").goals(answers) if row.number == 3]
    assert row.spread == "one round"


def sitting(**answers):
    machine = {"peers": {"dbos": "3.4.0"}, "machine": "2 x CPU", "system": "Linux"}
    machine |= dict.fromkeys(("file system", "python", "sqlite", "postgres", "holdfast"), "?")
    facts = {"command": "make bench", "minutes": 1.0, "when": "today", "rounds": 3, "load": [1]}
    machine["fsync"] = "on"
    return {**facts, "note": "", "machine": machine, "answers": answers, "failed": []}


def test_who_is_absent_has_a_row_that_says_why(bench):
    answers = {"canonical": {"absent": {"Restate": "its npm package is not there"}}}
    page = bench("report").page(sitting(**answers) | {"failed": [("parked", "KeyError: 'x'")]})
    assert "| Restate | its npm package is not there |" in page
    assert "| parked | the question failed: KeyError: 'x' |" in page


def test_workers_stand_beside_one(bench):
    slot = {"rate": figure(50.0, 40.0, 60.0, "steps/s"), "busy": figure(0.9, 0.8, 1.0)}
    fleet = {
        "share": 0.2,
        "workers": {"1": slot, "2": slot | {"rate": figure(90.0, 80.0, 99.0, "steps/s")}},
        "parked": 100_000,
        "claims": {"a claim of one, p50": 1.25},
        "idle": {"workers": 10, "transactions/s": 48.75},
    }
    page = bench("report").page(sitting(fleet=fleet))
    assert "| workers on PostgreSQL, 0.2 of a CPU each | rate, steps/s | busy | x one |" in page
    assert "| 2 | 90 (80 to 99) | 0.90 (0.80 to 1.00) | 1.80 |" in page
    assert "| a claim of one, p50 among 100,000 parked runs, ms | 1.2 |" in page
    assert "| transactions/s of 10 workers with nothing to do | 48.8 |" in page
    absent = {"fleet": {"absent": {"a fleet on PostgreSQL": "no server"}}}
    assert "| a fleet on PostgreSQL | no server |" in bench("report").page(sitting(**absent))


def test_a_peer_without_its_environment_is_absent(bench, monkeypatch, tmp_path):
    harness = bench("harness")
    monkeypatch.setattr(harness, "PEERS", tmp_path)
    for contestant in harness.CONTESTANTS:
        if contestant.is_peer:
            with pytest.raises(harness.Absent, match="make bench-peers"):
                harness.ask(contestant, {"work": "steps", "directory": tmp_path})


def test_the_figures_are_put_between_the_markers_and_nowhere_else(bench, tmp_path):
    report = bench("report")
    document = tmp_path / "page.md"
    document.write_text(f"before\n{report.BEGIN}\nyesterday\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(document, sitting())
    text = document.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "yesterday" not in text
    assert json.loads(document.with_suffix(".json").read_text())["command"] == "make bench"
