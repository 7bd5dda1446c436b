"""The command line as a whole.

*Goal*: it starts at once, every command has help of its own and the options that all share, each is
in a test, and mistakes in the command itself are told with exit code 2. *Method*: the table of
commands is walked in this process; what starting loads and costs is looked at in a new one.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import holdfast.cli
from holdfast.cli.main import COMMANDS, app


def helped(*args: str) -> str:
    result = CliRunner().invoke(app, [*args, "--help"], prog_name="holdfast")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_begins_as_the_list_of_commands_says(name):
    text = " ".join(helped(name).split())
    assert text.startswith(f"Usage: holdfast {name} ")
    assert COMMANDS[name][1] in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_store(name):
    text = helped(name)
    assert "--json" in text
    assert ("--store" in text and "HOLDFAST_STORE" in text) or name == "demo"  # makes its own


def test_the_list_shows_every_command():
    text = helped()
    for name, (_, line) in COMMANDS.items():
        assert f"  {name}" in text
        assert line in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_run_by_a_test(name):
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf'\b(cli|store)\(\s*"{name}"', sources)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lst"], "Did you mean 'ls'?"),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["ls", "--bogus"], "No such option: --bogus"),
        (["ls", "--limit", "0"], "--limit"),
        (["show"], "Missing argument 'RUN'"),
    ],
)
def test_a_mistake_in_the_command_is_a_usage_error(args, said):
    result = CliRunner().invoke(app, args, prog_name="holdfast")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not result.stdout


def test_version_in_both_forms(cli):
    assert cli("--version").out == f"holdfast {holdfast.__version__}\n"
    assert cli("version").out.startswith(f"holdfast {holdfast.__version__}\n")
    found = cli("version", "--json").json
    assert found["holdfast"] == holdfast.__version__
    assert {"python", "sqlite", "apsw", "pydantic"} <= found.keys()


def test_a_command_that_is_not_installed_is_named(cli, monkeypatch):
    monkeypatch.setitem(COMMANDS, "demo", ("absent.command:demo", ""))
    said = cli("demo")
    assert said.code == 2
    assert "'demo' is not part of this installation" in said.err


def test_a_command_that_lacks_a_package_says_which(cli, desk, monkeypatch):
    (desk / "needy.py").write_text("import no_such_package_here")
    monkeypatch.setattr(holdfast.cli, "__path__", [*holdfast.cli.__path__, str(desk)])
    monkeypatch.setitem(COMMANDS, "demo", ("needy:absent", ""))
    said = cli("demo")
    assert said.code == 2
    assert "'demo' needs 'no_such_package_here'. Hint: pip install 'holdfast[demo]'" in said.err


def test_python_m_holdfast_is_the_command(processes):
    said = processes.run("--version")
    assert (said.code, said.out) == (0, f"holdfast {holdfast.__version__}\n")


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['holdfast', '--help']\n"
        "from holdfast.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "Usage: holdfast" in process.stdout
    loaded = set(process.stderr.split())
    assert "holdfast.cli.main" in loaded
    heavy = {"rich", "rich.console", "pydantic", "apsw", "asyncio", "holdfast.app", "greenlet"}
    assert not heavy & loaded
