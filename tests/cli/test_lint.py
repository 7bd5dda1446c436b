"""The determinism lint finds what a replay cannot repeat, and nothing else.

Goal: each rule fires on the line that breaks it, with a remedy; code that replays well is left in
peace; no source, however odd, makes the lint raise.
Method: tables of bad code, whose faulty lines end in `#! rule`, and of good code; every row of the
lint's own table, looked up in the real standard library; and Hypothesis over the sources of the
standard library, whole and damaged, with each of their functions declared an agent.
"""

import pkgutil
import re
import sysconfig
from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.cli.lint import CALLS, REMEDIES, Finding, lint_source

# One line, one agent: the line is its body.
BAD_LINES = """
import time; return time.time()  #! wall-clock
import time as t; return t.perf_counter_ns()  #! wall-clock
from time import monotonic as tick; return tick()  #! wall-clock
import time; clock = time.time; return clock()  #! wall-clock
import time; return time.localtime()  #! wall-clock
import time; return (lambda: time.time())()  #! wall-clock
import time; return await hf.step(a)(time.time())  #! wall-clock
import time, uuid; return time.time(), uuid.uuid4()  #! wall-clock identifier
import datetime; return datetime.datetime.utcnow()  #! wall-clock
from datetime import datetime as dt; return dt.now()  #! wall-clock
from datetime import date; return date.today().isoformat()  #! wall-clock
import time as t; t.sleep(1)  #! blocking-sleep
import random; return random.choice(a)  #! randomness
from random import Random; return Random().random()  #! randomness
import secrets; return secrets.token_hex()  #! randomness
import os; return os.urandom(8)  #! randomness
import numpy as np; return np.random.rand(3)  #! randomness
import numpy as np; return np.random.default_rng()  #! randomness
import uuid; return str(uuid.uuid4())  #! identifier
from uuid import uuid1; return uuid1()  #! identifier
import uuid; return a(default_factory=uuid.uuid4)  #! identifier
import requests; return requests.get(a).json()  #! network
import urllib.request; return urllib.request.urlopen(a)  #! network
import urllib.request as r; return r.urlopen(a)  #! network
import httpx; return httpx.AsyncClient()  #! network
import httpx2; return httpx2.post(a)  #! network
import aiohttp; return aiohttp.ClientSession()  #! network
import socket; return socket.create_connection(a)  #! network
import boto3; return boto3.client("s3")  #! network
import openai; return openai.AsyncOpenAI()  #! network
from openai import OpenAI; return OpenAI(api_key=a)  #! network
return open(a).read()  #! file
return [*map(open, a)]  #! file
from pathlib import Path; return (Path(a) / "x").read_text()  #! file
import pathlib; p = pathlib.Path(a); p.parent.mkdir()  #! file
import os; return os.listdir(a)  #! file
import os.path; return os.path.exists(a)  #! file
import os; return os.environ["HOME"]  #! environment
from os import environ; return environ.get("HOME")  #! environment
import os; return os.getenv("HOME")  #! environment
import sys; return sys.argv[1:]  #! environment
import subprocess; return subprocess.run(a)  #! process
import os; os.execv(a, [])  #! process
import multiprocessing as m; return m.Pool()  #! process
return await asyncio.create_subprocess_exec(a)  #! process
return input("sure?")  #! console
import threading; threading.Thread(target=a).start()  #! thread
import concurrent.futures; concurrent.futures.ThreadPoolExecutor()  #! thread
return await asyncio.to_thread(a)  #! thread
import requests; await asyncio.to_thread(requests.get, a)  #! thread network
await asyncio.get_running_loop().run_in_executor(None, a)  #! thread
for x in {"a", a}: x()  #! unordered
for x in set(a): x()  #! unordered
async for x in frozenset(a): x()  #! unordered
return [x for x in set(a) | {"b"}]  #! unordered
return {x: 1 for x in {"b"}.union(a)}  #! unordered
return all([await x() for x in set(a)])  #! unordered
return list(set(a))  #! unordered
return a(*{y for y in a})  #! unordered
return ", ".join({str(x) for x in a})  #! unordered
return hash(a) % 8  #! hash
return sorted(a, key=hash)  #! hash
return id(a)  #! object-id
global count; count = 1  #! global-state
import time; time.time()  # holdfast: ignore[wall-clock] #! suppression wall-clock
import time; time.time()  # holdfast: ignore[clock] shown #! suppression wall-clock
import time; time.time()  # holdfast: ignore shown #! suppression wall-clock
import time; time.time()  # holdfast: ignore[file] shown #! wall-clock
"""

BAD_FILES = """
== an agent declared with options
import time, holdfast
@holdfast.agent(version=2)
def a(): time.time()  #! wall-clock

== an agent declared by name
import time
from holdfast import agent as durable
@durable
async def a(): time.time()  #! wall-clock

== an agent declared by an alias of the module, in a class in a function
import time, holdfast as x
def make():
    class Desk:
        @x.agent()
        async def a(): time.time()  #! wall-clock

== what is nested in an agent
import time, holdfast as hf
@hf.agent
async def a(x):
    def inner(now=time.time()):  #! wall-clock
        class Kind:
            time = 3
            def method(self):
                match x:
                    case [y, *z]:
                        time.time()  #! wall-clock
        return max(
            x,
            time.time(),  #! wall-clock
        )
    return inner()

== helpers of helpers
import time, holdfast as hf
def unused(): time.time()
def deep(): return time.time()  #! wall-clock
def helper(): return [helper() if 0 else deep()]
@hf.agent
async def a(): return helper()

== a helper handed on
import uuid, holdfast as hf
def fresh(_): return uuid.uuid4()  #! identifier
@hf.agent
def a(xs): return [*map(fresh, xs)]

== a reconcile that the agent calls itself
import requests, holdfast as hf
def find(order): return requests.get(order)  #! network
@hf.tool(reconcile=find)
def refund(order): requests.post(order)
@hf.agent
def a(order): return find(order)

== what the module made for all runs
import openai, random, holdfast as hf
client = openai.AsyncOpenAI()
RNG = random.Random(7)
@hf.agent
async def a():
    RNG.random()  #! randomness
    await client.chat.completions.create()  #! network

== annotated arguments
import holdfast as hf
from pathlib import Path
@hf.agent
def a(path: Path, tags: set[str]):
    names = tags - {"x"}
    for name in names:  #! unordered
        path.read_text()  #! file

== a nonlocal of the function around the agent
import holdfast as hf
def make():
    count = 0
    @hf.agent
    async def a():
        nonlocal count  #! global-state
        count += 1

== an import that may fail
import holdfast as hf
try:
    import httpx
except ImportError:
    httpx = None
@hf.agent
async def a(url): return httpx.get(url)  #! network

== handlers that swallow
import holdfast as hf
@hf.agent
async def a(f):
    try: f()
    except:  #! swallowed-control-flow
        pass
    try: f()
    except (BaseException, OSError) as e:  #! swallowed-control-flow
        raise ValueError from e

== no Python
import holdfast
def broken(:  #! syntax
"""

GOOD_LINES = """
return hf.now().timestamp(), hf.uuid(), hf.random()
await asyncio.sleep(30 * 86400)
return asyncio.get_running_loop().time()
import random; return random.Random(hf.random()).choice(a)
import random; rng = random.Random(a); return rng.choice(a)
import numpy as np; return np.random.default_rng(seed=a).normal()
from clocks import time; from shop import uuid4, requests; requests.get(time(), uuid4())
from .random import choice; from . import time; choice(time.time())
a.time(); a.random.choice(a); a.open(); a.datetime.now(); a.os.environ["x"]; a.requests.get(a)
import time; return [time.time() for time in a], (lambda time: time.time())(a)
open = a; return open()
return sorted({y for y in a}), any(x in a for x in {"p", "q"}), sorted(list(set(a)))
for x in sorted(set(a)): x()
for x in {1, 2}: a(x)
names = set(a); names = sorted(names); return [*names]
names = sorted(a); a(*names); names = set(a)
return a in {"x", "y"}, len(set(a)), set(a) | {"z"}
from datetime import datetime, date; return datetime.fromisoformat(a), date(2026, 1, 1)
import time; return time.gmtime(a)
import os; return a.split(os.sep)
import os.path; return os.path.join(a, "x")
from pathlib import Path; return Path(a).name.replace("x", "")
import uuid; return uuid.uuid5(uuid.NAMESPACE_URL, a)
from openai import AsyncOpenAI; return AsyncOpenAI(http_client=hf.async_http_client())
from openai import AsyncOpenAI; return AsyncOpenAI(**a)
import subprocess; raise subprocess.TimeoutExpired(a, 1)
import socket; return isinstance(a, socket.AddressFamily)
import time; return await hf.step(lambda: time.time())(), await hf.step(time.time)()
import time; time.time()  # holdfast: ignore[wall-clock] only shown
import time as t; t.sleep(id(a))  # noqa # holdfast: ignore[object-id, blocking-sleep] only shown
return "# holdfast: ignore[nonsense]"
"""

GOOD_FILES = """
== tools and steps
import random, requests, time, holdfast as hf
from holdfast import step, tool
def find(order): return requests.get(order)
def undo(order): requests.delete(order)
@hf.tool(effect="once", reconcile=find, compensate=undo)
async def refund(order): requests.post(order)
@step
def roll(): return helper()
@tool
def clock(): return time.time()
def helper(): return random.random()
fetch = hf.step(helper)
@hf.agent
async def a(x):
    @hf.step(reconcile=find)
    def nested(): return time.time()
    await refund(x), roll(), clock(), fetch(), nested(), hf.schemas(refund, clock)
    return await asyncio.to_thread(clock), await asyncio.to_thread(fetch)

== a step declared by a kept decorator
import time, holdfast as hf
safe = hf.step(effect="idempotent")
@safe
def clock(): return time.time()
@hf.agent
async def a(): return clock()

== no agent
import time
def a(): return time.time()
for x in {"a"}: print(hash(x), id(x))

== an agent of another library
import time
from other import agent
@agent
def a(): time.time()

== a durable client of the module
import openai, holdfast as hf
client = openai.AsyncOpenAI(http_client=hf.async_http_client())
@hf.agent
async def a(): return await client.chat.completions.create()

== settings of the module
import os, holdfast as hf
MODEL = os.getenv("MODEL", "small")
@hf.agent
async def a(): return MODEL

== a name of its own
import time, holdfast as hf
@hf.agent
async def a(f):
    count = 0
    class open: pass
    open()
    def inner(time):
        nonlocal count
        count += time.time()
    inner(f)

== handlers that do not swallow
import requests, holdfast as hf
@hf.agent
async def a(f):
    try: f()
    except (requests.Timeout, Exception): pass
    try: f()
    except BaseException as e:
        f(e)
        raise
    try: f()
    except BaseException as e:
        raise e
"""


def agents_of(lines: str) -> dict[str, str]:
    head = "import asyncio\nimport holdfast as hf\n@hf.agent\nasync def subject(a):\n"
    return {line: f"{head}{indent(line, '    ')}\n" for line in lines.strip().split("\n")}


def files_of(text: str) -> dict[str, str]:
    parts = re.split(r"(?m)^== (.*)\n", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


BAD = agents_of(BAD_LINES) | files_of(BAD_FILES)
GOOD = agents_of(GOOD_LINES) | files_of(GOOD_FILES)


def marked(source: str) -> list[tuple[int, str]]:
    """Return the lines and rules that the marks of a source ask for."""
    marks = [(n, re.search(r"#! (.*)", text)) for n, text in enumerate(source.split("\n"), 1)]
    return sorted((n, rule) for n, mark in marks if mark for rule in mark[1].split())


def found(source: str) -> list[tuple[int, str]]:
    unmarked = re.sub(r"#!.*", "", source)  # a mark must not pass for the reason of a suppression
    return sorted((finding.line, finding.rule) for finding in lint_source(unmarked, "a.py"))


@pytest.mark.parametrize("name", BAD)
def test_what_a_replay_cannot_repeat_is_found_on_its_line(name: str) -> None:
    assert marked(BAD[name]), "a snippet without a mark shows nothing"
    assert found(BAD[name]) == marked(BAD[name])


@pytest.mark.parametrize("name", GOOD)
def test_what_replays_well_is_left_in_peace(name: str) -> None:
    assert lint_source(GOOD[name], "a.py") == []


def test_every_rule_has_a_snippet_and_a_remedy() -> None:
    shown = {rule for source in BAD.values() for _, rule in marked(source)}
    assert shown == set(REMEDIES)
    assert all(REMEDIES.values())


def test_a_finding_says_what_is_called_where_and_what_to_write_instead() -> None:
    source = """import os, time as t, holdfast as hf
from random import choice as pick
def stamp(): return "é", t.time()
@hf.agent
async def first(): return pick("a"), stamp(), os.getenv("x")
@hf.agent
async def second(): return stamp()
"""
    helper = "time.time() in 'stamp', called from agent 'first'"
    assert lint_source(source, "desk.py") == [
        Finding("desk.py", 3, 26, "wall-clock", helper, REMEDIES["wall-clock"]),
        Finding(
            path="desk.py",
            line=5,
            column=27,
            rule="randomness",
            message="random.choice() in agent 'first'",
            remedy="hf.random(), or a generator made in the agent: random.Random(hf.random())",
        ),
        Finding(
            path="desk.py",
            line=5,
            column=47,
            rule="environment",
            message="os.getenv() in agent 'first'",
            remedy="an input of the agent, or read it in a @hf.step",
        ),
    ]


def test_line_ends_and_byte_order_marks_of_any_platform_are_read() -> None:
    source = "\ufeffimport time, holdfast as hf\r\n@hf.agent\rdef a():\f\r\n  return time.time()"
    assert found(source) == [(4, "wall-clock")]


def test_a_warning_of_the_parser_is_no_finding() -> None:
    assert lint_source(r"pattern = '\d'", "a.py") == []  # warnings are errors in these tests


def spelled_out(row: str) -> list[str]:
    """Return the names that a row of the table stands for."""
    braces = re.search(r"\{(.*?)\}", row)
    if braces is None:
        return [row]
    choices = braces[1].split(",")
    return [name for one in choices for name in spelled_out(row.replace(braces[0], one, 1))]


ROWS = [
    (rule, name.replace("**", "()"))
    for rule, rows in CALLS.items()
    for row in rows.split()
    for name in spelled_out(row)
    if "*" not in row.replace("**", "")
]
FOREIGN = {"httpx", "httpx2", "openai", "anthropic"}
LATER = {"uuid.uuid6", "uuid.uuid7"}  # from Python 3.14 on


@pytest.mark.parametrize(("rule", "name"), ROWS)
def test_every_row_of_the_table_is_found_and_exists(rule: str, name: str) -> None:
    top = name.partition(".")[0]
    line = f"import {top}; {name}()" if "." in name else f"{name}()"
    (source,) = agents_of(line).values()
    assert {finding.rule for finding in lint_source(source, "a.py")} == {rule}
    if top not in FOREIGN and name not in LATER:
        plain = name.replace("Path()", "Path").partition("()")[0]
        assert pkgutil.resolve_name(plain if "." in name else f"builtins.{name}")


STDLIB = sorted(
    path
    for path in Path(sysconfig.get_path("stdlib")).rglob("*.py")
    if "site-packages" not in path.parts and path.stat().st_size < 60_000
)


def all_agents(path: Path) -> str:
    """Return a source whose functions are all agents; the import may well stand at the end."""
    source = path.read_bytes().decode(errors="replace")
    declared = re.sub(r"(?m)^( *)(async def|def) ", r"\1@hf.agent\n\g<0>", source)
    return declared + "\nimport holdfast as hf\n"


def check_in_order(source: str) -> None:
    findings = lint_source(source, "a.py")
    places = [(finding.line, finding.column) for finding in findings]
    assert places == sorted(places)
    ends = source.count("\n") + source.count("\r")
    assert all(1 <= line <= ends + 1 and column >= 1 for line, column in places)


@settings(max_examples=60, deadline=None)
@given(path=st.sampled_from(STDLIB))
def test_no_module_of_the_standard_library_makes_it_raise(path: Path) -> None:
    check_in_order(all_agents(path))


@settings(max_examples=60, deadline=None)
@given(path=st.sampled_from(STDLIB), start=st.floats(0, 1), cut=st.integers(0, 40), new=st.text())
def test_no_damaged_source_makes_it_raise(path: Path, start: float, cut: int, new: str) -> None:
    source = all_agents(path)
    at = int(start * len(source))
    check_in_order(source[:at] + new + source[at + cut :])


@given(source=st.text())
def test_no_text_makes_it_raise(source: str) -> None:
    check_in_order(source)


DEEP = ("a" + ".b" * 1000, "a" + "()" * 1000, "+".join(["a"] * 1000), "lambda: " * 1000 + "a")


@pytest.mark.parametrize("expression", DEEP, ids=lambda deep: deep[:6])
def test_deep_code_does_not_exhaust_the_stack(expression: str) -> None:
    source = f"import holdfast as hf, time\n@hf.agent\ndef a(): x = {expression}\n"
    assert lint_source(source, "a.py") == []
    late = f"{source[:-1]}; time.time()\n"
    assert found(late) == [(3, "wall-clock")]


@pytest.mark.parametrize("source", ["(" * 500, "-" * 200_000 + "1", "'\ud800'", "\0"])
def test_what_the_parser_cannot_take_is_a_finding(source: str) -> None:
    assert [finding.rule for finding in lint_source(source, "a.py")] == ["syntax"]


def test_names_that_stand_for_each_other_come_to_an_end() -> None:
    (source,) = agents_of("x = x.y; y = z(); z = y(); x(); y(); z()").values()
    assert lint_source(source, "a.py") == []


def test_a_sync_agent_may_sleep():
    said = """
import time as t
import holdfast as hf

@hf.agent
{} chat():
    t.sleep(30 * 86400)
"""
    assert [f.rule for f in lint_source(said.format("async def"), "a.py")] == ["blocking-sleep"]
    assert not lint_source(said.format("def"), "a.py")


@pytest.mark.parametrize(
    ("early", "late", "call"),
    [
        ("from time import {0}", "", "{0}(9)"),
        ("from time import {0} as rest", "", "rest(9)"),
        ("from time import {0}", "", "[*map({0}, [9])]"),
        ("import time; rest = time.{0}", "", "rest(9)"),
        ("import time", "", None),
        ("", "from time import {0}", None),
    ],
)
def test_a_sync_agent_sleeps_by_the_module_that_holdfast_knows(early, late, call):
    said = f"""
{early}
import holdfast as hf

@hf.agent
def chat():
    {late}
    {call or ("{0}(9)" if late else "time.{0}(9)")}
"""
    found = lint_source(said.format("sleep"), "a.py")
    assert [f.rule for f in found] == (["blocking-sleep"] if call else [])
    assert all("imported before an agent made it a durable timer" in f.message for f in found)
