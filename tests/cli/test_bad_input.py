"""What bad input gets: one clear line, the right exit code, and nothing lost or created.

*Goal*: wrong JSON is shown with its place, wrong types with their path, files that are not code or
no store with what they are instead; --debug shows more. *Method*: in this process, one row per
mistake; the store is looked at afterwards; what a user may not write is tried in a process that
has no right to.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from holdfast.cli.values import parse_json
from holdfast.errors import CodecError

HF = "import holdfast as hf\n"
FILES = {
    "broken.py": HF + "x = 1 / 0\n",
    "syntax.py": "def (",
    "none.py": "x = 1\n",
    "exits.py": "raise SystemExit(3)\n",
    "runs.py": HF + "@hf.agent\ndef a() -> int:\n    return 1\nhf.run(a)\n",
    "loops.py": (
        "import asyncio\nasync def m(): ...\nbegun = m()\n"
        "try:\n    asyncio.run(begun)\nfinally:\n    begun.close()\n"
    ),
    "seven.json": "7",
}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["desk.py:price", "--input", '{"x": '], "--input: not JSON: Expecting value at line 1"),
        (["desk.py:price", "--input", "[1,\n2,]"], "at line 2, column"),
        (["desk.py:price", "--input", "seven.json"], "Hint: to read the file, write @seven.json"),
        (["desk.py:fail", "--input", "o 1"], """Hint: a text is written '"o 1"'"""),
        (["desk.py:price", "--input", "NaN"], "NaN is not JSON"),
        (["desk.py:price", "--input", "1e999"], "not JSON"),
        (["desk.py:fail", "--input", '"\\ud800"'], "half of a surrogate pair"),
        (["desk.py:price", "--input", "@nothing"], "--input @nothing: No such file"),
        (["desk.py:price", "--input", "@desk.py"], "--input desk.py: not JSON"),
        (["desk.py:price", "--input", '"x"'], "the input of agent 'price', $: Input should be"),
        (["desk.py:triage", "--input", '{"ticket": 5}'], "$.ticket: Input should be a valid str"),
        (["desk.py:triage", "--input", '{"ticket": "a", "more": 1}'], "$.more: Extra inputs"),
        (["desk.py:price"], "Hint: give it with --input JSON"),
        (["desk.py", "--input", "1"], "declares several agents: price, triage, deliver"),
        (["desk.py:nobody", "--input", "1"], "no agent 'nobody'; it declares price, triage"),
        (["absent.py:a"], "absent.py: there is no such file"),
        (["absent:a"], "absent: there is neither such a file nor such a module"),
        (["none.py"], "none.py declares no agent"),
        (["seven.json"], "seven.json: not a Python file"),
        (["broken.py"], "broken.py, line 2: ZeroDivisionError: division by zero"),
        (["syntax.py"], "syntax.py, line 1: "),
        (["exits.py"], 'put what starts runs under `if __name__ == "__main__":`'),
        (["runs.py"], "hf.run was called in async code. Hint: put what starts runs under `if"),
        (["loops.py"], 'put what starts runs under `if __name__ == "__main__":`'),
        (["desk.py:price", "--id", "$x", "--input", "1"], "run id '$x': it may not begin with '$'"),
        (["desk.py:price", "--input", "1", "--store", "mysql://x"], "expected a path, sqlite"),
    ],
)
def test_a_run_that_cannot_be_is_refused(cli, desk, args, said):
    for name, text in FILES.items():
        (desk / name).write_text(text)
    refused = cli("run", *args)
    assert refused.code == 2
    assert said in refused.err
    assert refused.err.startswith("holdfast: ")
    assert refused.err.count("\n") == 1
    assert not refused.out
    assert not (desk / "holdfast.db").exists() or cli("ls", "--json").lines == []


def test_the_id_of_another_agents_run_is_refused(cli):
    cli("run", "desk.py:price", "--id", "r", "--input", "1")
    said = cli("run", "desk.py:nap", "--id", "r", "--input", "1")
    assert said.code == 2
    assert "run 'r' belongs to agent:price, not to agent:nap" in said.err


def test_debug_shows_where_an_error_comes_from(cli, monkeypatch):
    assert "Traceback" in cli("show", "x", "--debug").err
    monkeypatch.setenv("HOLDFAST_DEBUG", "1")
    assert "Traceback" in cli("show", "x").err
    monkeypatch.setenv("HOLDFAST_DEBUG", "0")
    assert "Traceback" not in cli("show", "x").err


def foreign(path: Path) -> None:
    path.write_bytes(b"not a database, but a letter")


def another_programs(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def newer(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (foreign, "not a SQLite file"),
        (another_programs, "a SQLite file of another program"),
        (newer, "a store of version 99"),
        (torn, "holdfast.db"),
    ],
)
def test_a_file_that_is_no_store_of_ours_is_refused_and_left_as_it_is(cli, desk, spoil, said):
    path = desk / "holdfast.db"
    if spoil in (newer, torn):
        cli("run", "desk.py:price", "--id", "p", "--input", "1")
        for extra in desk.glob("holdfast.db-*"):
            extra.unlink()
    spoil(path)
    before = path.read_bytes()
    for args in (["ls"], ["show", "p"], ["run", "desk.py:price", "--id", "q", "--input", "1"]):
        refused = cli(*args)
        assert refused.code == 1, args
        assert said in refused.err
        assert refused.err.count("\n") == 1
    assert cli("fsck").code == 1
    assert cli("doctor").code == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("absent/holdfast.db", "the directory"),
        ("desk.py/holdfast.db", "the directory"),
        pytest.param(
            "/sys/holdfast.db",
            "cannot create the store",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's"),
        ),
    ],
)
def test_a_place_where_no_store_can_be_is_named(cli, store, said):
    refused = cli("run", "desk.py:price", "--input", "1", "--store", store)
    assert refused.code == 1
    assert said in refused.err
    assert refused.err.count("\n") == 1


def as_a_user(*args):
    """Run `holdfast` as somebody whom the modes of files bind, root included."""
    without = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
    process = subprocess.run(
        [*(drop if os.geteuid() == 0 else ()), sys.executable, "-m", "holdfast", *args],
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="nothing is read-only for root"
)
def test_a_read_only_directory_can_be_looked_at_and_not_written(cli, desk):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    before = {path.name: path.read_bytes() for path in desk.iterdir() if path.is_file()}
    desk.chmod(0o500)
    try:
        for looking in (["ls"], ["show", "p"], ["replay", "p"], ["fsck"]):
            code, _, said = as_a_user(*looking)
            assert code == 0, said
        for writing in (
            ["run", "desk.py:price", "--input", "1"],
            ["message", "p", "1"],
            ["worker", "desk.py", "--until-idle"],
        ):
            code, out, said = as_a_user(*writing)
            assert (code, out) == (1, "")
            assert "the file cannot be written: " in said
            assert "Hint: its user needs the right to write both to the file and to its dir" in said
            assert said.count("\n") == 1
        code, found, _ = as_a_user("doctor", "--json")
        broken = [f["what"] for f in json.loads(found)["findings"] if f["verdict"] == "broken"]
        assert (code, broken) == (1, ["directory"])
        Path("holdfast.db").chmod(0)
        code, _, said = as_a_user("ls")
        assert code == 1
        assert "the file cannot be opened: " in said
    finally:
        desk.chmod(0o700)
        Path("holdfast.db").chmod(0o600)
    assert {path.name: path.read_bytes() for path in desk.iterdir() if path.is_file()} == before


def test_deep_nesting_is_refused():
    with pytest.raises(CodecError, match="not JSON"):
        parse_json("[" * 100_000, "it")
