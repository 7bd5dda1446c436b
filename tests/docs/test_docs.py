"""What the documents say is so: snippets run, commands and names exist, links lead somewhere.

Goal: a reader who types what stands there gets what stands there. Method: the README's programs are
run as real processes in an empty directory, its console session included, kill and all; every
command and every public name is looked up.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(directory: Path, command: str) -> str:
    """Run a command as a reader would and return what a shell prints, a kill included."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    env.pop("HOLDFAST_STORE", None)
    done = subprocess.run(
        f"{command} 2>&1",
        shell=True,
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    killed = done.returncode in (-9, 137)
    return done.stdout.removesuffix("Killed\n") + ("Killed\n" if killed else "")


def test_the_first_program_killed_and_resumed_prints_what_the_readme_shows(tmp_path: Path):
    (tmp_path / "support.py").write_text(blocks("python")[0])
    session = blocks("console")[0]
    turns = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(turns) == 3
    keys = set()
    for command, expected in turns:
        printed = run(tmp_path, command)
        keys |= set(re.findall(r"hf-\w{6}", printed))
        assert re.sub(r"hf-\w{6}", "hf-", printed) == re.sub(r"hf-\w{6}", "hf-", expected)
    assert len(keys) == 1, "every attempt has the same idempotency key"


def test_the_second_program_runs(tmp_path: Path):
    (tmp_path / "hello.py").write_text(blocks("python")[1])
    assert run(tmp_path, f"{sys.executable} hello.py") == "HELLO WORLD\n"


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page: Path):
    text = page.read_text()
    for name in set(re.findall(r"`hf\.(\w+)", text)):
        assert name in holdfast.__all__, f"{page.name}: hf.{name}"
    for command in set(re.findall(r"`holdfast (\w[\w-]*)", text)):
        assert re.search(rf"^\W*{command}\b", helped(), re.MULTILINE), f"{page.name}: {command}"


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "reference.md").read_text()
    missing = [n for n in holdfast.__all__ if f"`hf.{n}" not in reference and n != "__version__"]
    assert missing == []


def test_the_reference_is_what_the_docstrings_say(tmp_path: Path):
    shutil.copy(ROOT / "docs" / "reference.md", tmp_path / "reference.md")
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_reference.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made == (ROOT / "docs" / "reference.md").read_text(), "make reference"


def helped() -> str:
    return subprocess.run(
        [sys.executable, "-m", "holdfast", "--help"], capture_output=True, text=True, check=True
    ).stdout
