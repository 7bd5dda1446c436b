"""The house rules hold in every file.

*Goal*: a reader finds short functions, a pure core, public names that are declared, one word per
idea and no exception without its reason. *Method*: a rule is a function from a source to its
complaints. Each judges the files that git knows or would add, and a small bad sample, so that one
sees it fail, beside a good one.
"""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500


@dataclass(frozen=True)
class Source:
    path: str  # from the root of the repository
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        return ".".join(Path(self.path).with_suffix("").parts[1:]).removesuffix(".__init__")


Rule = Callable[[Source], Iterator[tuple[int, str]]]
"""Yields the line and the text of each complaint."""


def functions_are_short(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = lines_of(node)
            if ast.get_docstring(node) is not None:
                lines -= lines_of(node.body[0])
            if lines > FUNCTION_LINES_MAX:
                yield (
                    node.lineno,
                    f"{node.name} has {lines} lines, {FUNCTION_LINES_MAX} fit a screen",
                )


def lines_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def modules_are_short(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield lines, f"the module has {lines} lines; above {MODULE_LINES_MAX} it wants a split"


def modules_say_what_they_are(source: Source) -> Iterator[tuple[int, str]]:
    if not ast.get_docstring(source.tree):
        yield 1, "the module has no docstring that gives its idea"


def public_names_are_declared(source: Source) -> Iterator[tuple[int, str]]:
    """A module whose name is private, such as `_rows` or `__main__`, declares nothing."""
    if source.module.rpartition(".")[2].startswith("_"):
        return
    names = dict(top_level_names(source.tree))
    public = sorted(name for name in names if not name.startswith("_"))
    if public and "__all__" not in names:
        yield names[public[0]], f"public names, but no __all__: {', '.join(public)}"


def top_level_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.Assign() | ast.AnnAssign():
                names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
                yield from ((n.id, n.lineno) for n in names if isinstance(n.ctx, ast.Store))


IMPURE = {"logging", "os", "random", "socket", "sqlite3", "time", "uuid"}
# For Task and Future: the loop is one, the machine and its turn hold them.
ASYNCIO_ALLOWED = {"holdfast.core.loop", "holdfast.core.machine", "holdfast.core.turn"}


def the_core_is_pure(source: Source) -> Iterator[tuple[int, str]]:
    """The import contract says so too; this one names the line, and knows where asyncio may be."""
    if not re.fullmatch(r"holdfast\.(errors|core(\..+)?)", source.module):
        return
    banned = IMPURE if source.module in ASYNCIO_ALLOWED else IMPURE | {"asyncio"}
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=names):
                imported = {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(name)):
                imported = {name.partition(".")[0]}
            case _:
                continue
        for name in sorted(imported & banned):
            yield node.lineno, f"{source.module} imports {name}, which sees more than the log"


def only_the_top_imports_the_root(source: Source) -> Iterator[tuple[int, str]]:
    """`import holdfast` from below is an import upwards that the layer contract does not see."""
    if source.module.startswith(("holdfast.cli", "holdfast.testing", "holdfast.web")):
        return
    parts = {path.stem for path in (ROOT / "src/holdfast").iterdir()}
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=names) if "holdfast" in {alias.name for alias in names}:
                yield node.lineno, "import the module that defines the name"
            case ast.ImportFrom(module="holdfast", names=names):
                for name in sorted({alias.name for alias in names} - parts):
                    yield node.lineno, f"import {name} from the module that defines it"


def nothing_is_left_for_later(source: Source) -> Iterator[tuple[int, str]]:
    yield from lines_with(r"\b(TO[D]O|FIX[M]E|XX[X])\b", source, "finish it, or track it elsewhere")


def no_test_sleeps(source: Source) -> Iterator[tuple[int, str]]:
    pattern = r"\btime\.sleep\(|from time import .*\bsleep\b"
    yield from lines_with(pattern, source, "wait for what should happen")


# A slash after a word belongs to a URL or to a path inside the project.
MACHINE = r"(?<![\w.-])/(?:work|root|home/\w+|Users/\w+)/|\b[A-Z]:\\+Users\\"


def no_path_of_one_machine(source: Source) -> Iterator[tuple[int, str]]:
    yield from lines_with(MACHINE, source, "no other machine has this path")


def lines_with(pattern: str, source: Source, complaint: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if found := re.search(pattern, line):
            yield number, f"{found.group()!r}: {complaint}"


# Of the words that we do not say, those which have no other use, in any spelling of an identifier.
WORDS = {
    "activit": "step",
    "attestation": "proof",
    "bookmark": "position",
    "canceled": "cancelled",
    "guardrail": "policy",
    "invocation": "turn",
    "journal": "stream",
    "ordinal": "step key",
    "provenance": "lineage",
    "reducer": "fold",
    "rehydrat": "fold",
    "workflow": "agent",
}


def one_word_per_idea(source: Source) -> Iterator[tuple[int, str]]:
    """Only names that we give are judged; a foreign library may call its things as it likes."""
    for node in ast.walk(source.tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                name = node.name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case ast.arg(arg=name) | ast.alias(asname=str(name)):
                pass
            case _:
                continue
        for word, ours in WORDS.items():
            if word in name.lower():
                yield node.lineno, f"{name} contains {word!r}; here it is called {ours!r}"


SUPPRESSION = re.compile(
    r"#\s*(?:ruff:\s*)?(?:noqa|(?:type|pyright|mypy):\s*ignore)\b(.*)", re.IGNORECASE
)
RULE_AND_REASON = re.compile(
    r"(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)* - |\[[a-zA-Z-]+(?:, ?[a-zA-Z-]+)*\]  # )\w.*\w"
)


def exceptions_have_a_reason(source: Source) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT or not (found := SUPPRESSION.match(token.string)):
            continue
        if not RULE_AND_REASON.match(found.group(1)):
            form = "`# noqa: RULE - reason` or `# type: ignore[code]  # reason`"
            yield token.start[0], f"{token.string!r} should be {form}"


# Which files a rule judges: those whose path starts so.
OURS, PYTHON, ANY = ("src/",), ("src/", "tests/", "benchmarks/", "examples/"), ("",)
RULES: dict[Rule, tuple[str, ...]] = {
    functions_are_short: OURS,
    modules_are_short: OURS,
    modules_say_what_they_are: OURS,
    public_names_are_declared: OURS,
    the_core_is_pure: OURS,
    only_the_top_imports_the_root: OURS,
    one_word_per_idea: OURS,
    exceptions_have_a_reason: PYTHON,
    nothing_is_left_for_later: PYTHON,
    no_test_sleeps: ("tests/",),
    no_path_of_one_machine: ANY,
}

LONG_BODY = "def f():\n    g()\n" + "    h()\n" * FUNCTION_LINES_MAX
LONG_DOCSTRING = "def f():\n    '''One.\n" + "    more\n" * FUNCTION_LINES_MAX + "    '''\n"
LATER, SLEEP = "FIX" + "ME", "time" + ".sleep(1)"
ROOTED, WORKED = str(Path("/root", "x")), str(Path("/work", "x"))

# A file that breaks the rule, and one under the same path that keeps it.
SAMPLES: list[tuple[Rule, str, str, str]] = [
    (functions_are_short, "a.py", LONG_BODY, LONG_DOCSTRING),
    (modules_are_short, "a.py", "\n" * (MODULE_LINES_MAX + 1), "\n" * MODULE_LINES_MAX),
    (modules_say_what_they_are, "a.py", "x = 1\n", "'''One.'''\n"),
    (public_names_are_declared, "a.py", "def f(): ...\n", "__all__ = ['f']\ndef f(): ...\n"),
    (public_names_are_declared, "a.py", "_b, C = 1, 2\n", "_b = 1\n"),
    (the_core_is_pure, "src/holdfast/errors.py", "import os.path\n", "import enum\n"),
    (the_core_is_pure, "src/holdfast/core/a.py", "if x:\n from time import time\n", "import re\n"),
    (the_core_is_pure, "src/holdfast/core/state.py", "import asyncio\n", "import math\n"),
    (the_core_is_pure, "src/holdfast/core/loop.py", "import time\n", "import asyncio\n"),
    (only_the_top_imports_the_root, "a.py", "import holdfast\n", "import os\n"),
    (only_the_top_imports_the_root, "a.py", "from holdfast import App\n", "import holdfast.app\n"),
    (one_word_per_idea, "a.py", "class OldWorkflow: ...\n", "class Agent: ...\n"),
    (one_word_per_idea, "a.py", "def f(activity): ...\n", "f(workflow_name=1)\n"),
    (one_word_per_idea, "a.py", "self.journal_mode = 1\n", "x = 'PRAGMA journal_mode'\n"),
    (exceptions_have_a_reason, "a.py", "x  # noqa\n", "x = '# noqa'\n"),
    (exceptions_have_a_reason, "a.py", "x  # noqa: E501\n", "x  # noqa: E501, S1 - a URL\n"),
    (
        exceptions_have_a_reason,
        "a.py",
        "x  # type: ignore\n",
        "x  # type: ignore[misc]  # by now\n",
    ),
    (exceptions_have_a_reason, "a.py", "x  # type: ignore[misc]\n", "x  # the type: ignore it\n"),
    (nothing_is_left_for_later, "a.py", f"x = 1  # {LATER}: not yet\n", "x = 1  # done\n"),
    (no_test_sleeps, "a.py", f"{SLEEP}\n", "await asyncio.sleep(1)\n"),
    (no_path_of_one_machine, "a.md", f"see {ROOTED}", "https://example.org/root/x"),
    (no_path_of_one_machine, "a.md", f"run `{WORKED}`", "tests/work/x"),
]


@cache
def sources() -> list[Source]:
    """Every text file that git tracks, or would if all were added."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [path for path in sorted(set(listed.split("\0"))) if (ROOT / path).is_file()]
    contents = ((path, (ROOT / path).read_bytes()) for path in paths)
    return [
        Source(path, text.decode(errors="replace")) for path, text in contents if b"\0" not in text
    ]


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_every_file_keeps_the_rule(rule: Rule):
    ending = "" if RULES[rule] == ANY else ".py"
    judged = [s for s in sources() if s.path.startswith(RULES[rule]) and s.path.endswith(ending)]
    assert judged, f"no file under {RULES[rule]} to judge"
    complaints = [f"{s.path}:{line}: {text}" for s in judged for line, text in rule(s)]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(("rule", "path", "bad", "good"), SAMPLES, ids=name_of)
def test_the_rule_sees_a_bad_sample_alone(rule: Rule, path: str, bad: str, good: str):
    assert list(rule(Source(path, bad)))
    assert not list(rule(Source(path, good)))


def test_every_rule_has_a_sample():
    assert {rule for rule, *_ in SAMPLES} == set(RULES)


def test_the_lock_pins_every_dependency_with_nothing_but_names_versions_and_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), start=project["dependencies"])
    lock = (ROOT / "requirements.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert {re.split(r"[^\w.-]", name)[0] for name in wanted} <= pinned, "Hint: make lock"
    assert not re.search(r"^ *-(?!-hash=sha256:)|://| @ ", lock, re.MULTILINE)
