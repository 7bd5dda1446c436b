"""Print docs/reference.md: every public name of holdfast, from its docstring and signature.

``make reference`` writes the page; a test compares it with what this prints.
"""

import inspect
import re
import sys
from typing import Any

import holdfast

INTRO = """# Reference

Every public name, from its docstring; made by `make reference`. Programs `import holdfast as hf`.
"""


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value, eval_str=False))
    except (TypeError, ValueError):
        return ""
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z_]\w*\b)", "", text)


def _section(name: str, value: Any, level: str) -> list[str]:
    shown = _signature(value) if callable(value) and not _is_error(value) else ""
    doc = inspect.getdoc(value) or ""
    lines = [f"{level} `hf.{name}`", ""]
    if shown:
        lines += ["```python", f"{name}{shown}", "```", ""]
    return [*lines, *_prose(doc), ""]


def _prose(doc: str) -> list[str]:
    """Return a docstring as Markdown: literal blocks fenced, sections as lists."""
    lines: list[str] = []
    literal = section = False
    for line in doc.replace("``", "`").splitlines():
        if literal and line and not line.startswith("    "):
            lines = [*_stripped(lines), "```", ""]
            literal = False
        if line.strip() == "::":
            lines = [*_stripped(lines), "", "```python"]
            literal = True
        elif literal:
            if line or lines[-1] != "```python":
                lines.append(line[4:])
        elif re.fullmatch(r"(Args|Attributes|Raises|Returns):", line):
            lines += [f"**{line}**", ""]
            section = True
        elif section and line.startswith("    "):
            lines.append(re.sub(r"^    (?! )(?:([\w, *]+): )?", _item, line))
        else:
            section = section and not line
            lines.append(line)
    return [*_stripped(lines), "```"] if literal else lines


def _item(found: re.Match[str]) -> str:
    return f"- `{found[1]}`: " if found[1] else "- "


def _stripped(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _methods(value: type) -> list[tuple[str, Any]]:
    return [
        (name, member)
        for name, member in vars(value).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]


def main() -> None:
    """Print the page."""
    lines = INTRO.splitlines()
    for name in sorted(holdfast.__all__, key=str.lower):
        if name == "__version__":
            continue
        value = getattr(holdfast, name)
        lines += ["", *_section(name, value, "##")]
        if isinstance(value, type) and not _is_error(value):
            for method, member in _methods(value):
                lines += _section(f"{name}.{method}", member, "###")
    while lines[-1] == "":
        lines.pop()
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
