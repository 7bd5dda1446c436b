"""From ``FILE:AGENT`` to agents: a file or a module is imported, and all its agents are collected.

A file is loaded under its own name with its directory on ``sys.path``, as ``python FILE`` would do
it, except that ``__name__`` is not ``"__main__"``. ``files_declaring`` finds an agent's file by
reading sources, without importing any.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from holdfast.core.specs import AgentSpec, spec_of
from holdfast.errors import UsageError
from holdfast.runtime.schedules import Schedule

__all__ = ["Code", "agents_of", "files_declaring", "load", "load_agent", "schedules_of"]

_MAIN_HINT = 'Hint: put what starts runs under `if __name__ == "__main__":`.'


@dataclass(frozen=True)
class Code:
    """A loaded module and the agents in it."""

    where: str
    """As the user named it."""
    agents: dict[str, Callable[..., Any]]
    """By name; those it imports from elsewhere included, for they may be called as children."""
    own: tuple[str, ...]
    """The names of those that it declares itself."""
    schedules: tuple[Schedule, ...] = ()

    def agent(self, name: str) -> Callable[..., Any]:
        """Return an agent by its name, or the only one if the name is empty.

        Raises:
            UsageError: there is none, or there are several.
        """
        listed = ", ".join(self.own or sorted(self.agents))
        if not listed:
            raise UsageError(
                f"{self.where} declares no agent. Hint: put @hf.agent above a function."
            )
        if name:
            if name not in self.agents:
                raise UsageError(f"{self.where} declares no agent {name!r}; it declares {listed}")
            return self.agents[name]
        names = self.own or tuple(self.agents)
        if len(names) > 1:
            raise UsageError(
                f"{self.where} declares several agents: {listed}."
                f" Hint: name one, such as {self.where}:{names[0]}"
            )
        return self.agents[names[0]]


def load(where: str) -> Code:
    """Import ``FILE`` or a dotted module and collect its agents.

    Raises:
        UsageError: there is no such file, or it raises while it is imported.
    """
    path = Path(where)
    module = _import_file(path, where) if _is_path(where) else _import_module(where)
    agents: dict[str, Callable[..., Any]] = {}
    own: list[str] = []
    for value in vars(module).values():
        spec = spec_of(value)
        if isinstance(spec, AgentSpec) and spec.name not in agents:
            agents[spec.name] = value
            if spec.fn.__module__ == module.__name__:
                own.append(spec.name)
    schedules = [value for value in vars(module).values() if isinstance(value, Schedule)]
    return Code(where, agents, tuple(own), tuple(schedules))


def load_agent(where: str) -> tuple[Code, Callable[..., Any]]:
    """Import ``FILE[:AGENT]`` and return its agents and the one that is named.

    Raises:
        UsageError: as ``load`` and ``Code.agent`` do.
    """
    place, colon, name = where.rpartition(":")
    code = load(place if colon else where)
    return code, code.agent(name if colon else "")


def agents_of(codes: Sequence[Code]) -> list[Callable[..., Any]]:
    """Return the agents of several modules, each once.

    Raises:
        UsageError: two different agents have one name.
    """
    found: dict[str, tuple[str, Callable[..., Any]]] = {}
    for code in codes:
        for name, agent in code.agents.items():
            where, other = found.setdefault(name, (code.where, agent))
            if other is not agent:
                raise UsageError(f"{where} and {code.where} both declare an agent {name!r}")
    return [agent for _, agent in found.values()]


def schedules_of(codes: Sequence[Code]) -> list[Schedule]:
    """Return the schedules of several modules, each once."""
    found: list[Schedule] = []
    for code in codes:
        found += [one for one in code.schedules if not any(one is known for known in found)]
    return found


def files_declaring(agent: str, directory: Path | None = None) -> list[Path]:
    """Return a directory's files whose source declares an agent of this name; none is imported.

    Args:
        agent: The agent's name.
        directory: By default the one that the process is in.
    """
    found = []
    for path in sorted((directory or Path()).glob("*.py")):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            source = path.read_text()
            if agent in source and agent in _declared(ast.parse(source)):
                found.append(path)
    return found


def _declared(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            called = mark.func if isinstance(mark, ast.Call) else mark
            if (getattr(called, "attr", "") or getattr(called, "id", "")) == "agent":
                options = mark.keywords if isinstance(mark, ast.Call) else []
                given = (getattr(o.value, "value", "") for o in options if o.arg == "name")
                yield next(given, node.name)


def _is_path(where: str) -> bool:
    return where.endswith(".py") or "/" in where or Path(where).is_file()


def _import_file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{where}: there is no such file. Hint: give FILE.py or FILE.py:AGENT")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        name = f"{name}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{where}: not a Python file. Hint: give FILE.py or FILE.py:AGENT")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        _guarded(where, lambda: loader.exec_module(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import_module(where: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        found = None
    if found is None:
        hint = f" Hint: did you mean {where}.py?" if Path(f"{where}.py").is_file() else ""
        raise UsageError(f"{where}: there is neither such a file nor such a module.{hint}")
    modules: list[ModuleType] = []
    _guarded(where, lambda: modules.append(importlib.import_module(where)))
    return modules[0]


def _guarded(where: str, run: Callable[[], None]) -> None:
    """Run a module's code; what it raises becomes one error that names the line."""
    try:
        run()
    except SyntaxError as error:
        raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except SystemExit as error:
        raise UsageError(f"{where} ends the program while it is imported. {_MAIN_HINT}") from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
        line = f", line {frames[-1].lineno}" if frames else ""
        place = frames[-1].filename if frames else where
        said, _, hint = str(error).partition(" Hint: ")
        said = said.removesuffix(".")
        starts_runs = "asyncio.run" in said or "hf.run" in said
        hint = _MAIN_HINT if starts_runs else f"Hint: {hint or '--debug shows more.'}"
        raise UsageError(f"{place}{line}: {type(error).__name__}: {said}. {hint}") from error


def _is_users(filename: str) -> bool:
    """Tell the user's files from those of Python, of holdfast and of installed packages."""
    ours = str(Path(__file__).parent.parent)
    return not filename.startswith(("<", ours, sys.base_prefix)) and "site-packages" not in filename
