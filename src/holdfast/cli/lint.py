"""The determinism lint: what an agent does that a replay of its log could not repeat.

An agent's code runs again at each replay, so whatever may give another value the second time is
made a step or asked of holdfast. The lint reads a file with ``ast`` and never imports or runs it.
It looks at the file's agents, at what is nested in them, and at plain functions of the file that
they refer to, directly or not; the bodies of tools and steps may do anything. ``RULES`` and the
tables after it are the whole knowledge; the rest finds the dotted name of an expression.

Invariants: names are followed through imports, aliases and scopes, so a method or variable called
``time`` is not the module; walks keep their own stack, so deep code cannot exhaust Python's; a
source that does not parse is a finding, never an exception. Limits: it follows neither methods of
the file's classes nor functions of other files.
"""

import ast
import contextlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

__all__ = ["REMEDIES", "Finding", "lint_source"]

# Each rule: first what to write instead, then the calls that break it, by dotted name. `{a,b}` is a
# or b, `*` any name, dotted or not, `**` calls as well, and `f()` what a call of `f` gives. The
# first rule that fits counts. Rules without calls are found in the shape of the code.
RULES: Mapping[str, str] = {
    "wall-clock": """hf.now(), or hf.now().timestamp() for seconds
        time.{time,monotonic,perf_counter,process_time,localtime,gmtime,ctime}
        time.{time_ns,monotonic_ns,perf_counter_ns,process_time_ns}
        datetime.datetime.{now,utcnow,today} datetime.date.today""",
    "blocking-sleep": """await asyncio.sleep(...), a durable timer; time.sleep(...) in a sync agent
        time.sleep""",
    "randomness": """hf.random(), or a generator made in the agent: random.Random(hf.random())
        {random,secrets,numpy.random}.* os.{urandom,getrandom}""",
    "identifier": """hf.uuid()
        uuid.{uuid1,uuid4,uuid6,uuid7,getnode}""",
    "network": """hf.http_client(), hf.async_http_client(), also as `http_client=`, or a @hf.step
        {requests,urllib.request,urllib3,http.client,socket,aiohttp,boto3}.*
        {httpx,httpx2}.{get,options,head,post,put,patch,delete,request,stream}
        {httpx,httpx2}.{Client,AsyncClient} anthropic.{Anthropic,AsyncAnthropic}
        openai.{OpenAI,AsyncOpenAI,AzureOpenAI,AsyncAzureOpenAI} openai.{chat,responses}.*
        asyncio.{open_connection,open_unix_connection,start_server,start_unix_server}""",
    "environment": """an input of the agent, or read it in a @hf.step
        {os.environ,os.environb,sys.argv} os.{getenv,getenvb,getpid,getppid,getcwd,getlogin}
        os.{cpu_count,uname} platform.*""",
    "process": """a @hf.step or @hf.tool that runs the process
        {subprocess,multiprocessing}.* asyncio.{create_subprocess_exec,create_subprocess_shell}
        os.{system,popen,fork,kill} os.{exec,spawn,posix_spawn}*""",
    "console": """hf.ask(question, schema)
        input""",
    "file": """a @hf.step that reads or writes it
        open {io,codecs}.open {os,shutil,tempfile,glob}.* sqlite3.connect
        pathlib.Path.{cwd,home} pathlib.Path().replace
        pathlib.Path**.{open,read_text,read_bytes,write_text,write_bytes,mkdir,touch,rename}
        pathlib.Path**.{exists,is_file,is_dir,iterdir,glob,rglob,stat,resolve,unlink,rmdir}""",
    "thread": """a @hf.step; within an agent, a function meant for a thread runs inline
        threading.{Thread,Timer} concurrent.futures.* asyncio.to_thread
        asyncio.{get_running_loop,get_event_loop}().run_in_executor""",
    "hash": """hashlib: the hash of a string differs between processes
        hash""",
    "object-id": """a key of your own, or hf.uuid(): an address in memory is another each time
        id""",
    "unordered": "sorted(...) of the set: the order of strings differs between processes",
    "global-state": "the agent's `state`, or a variable of the agent itself",
    "swallowed-control-flow": "`except Exception:`, or end the handler with a bare `raise`",
    "suppression": "# holdfast: ignore[rule] reason",
    "syntax": "source that Python can parse; nothing else in this file was checked",
}
REMEDIES = {rule: text.partition("\n")[0] for rule, text in RULES.items()}
CALLS = {rule: text.partition("\n")[2] for rule, text in RULES.items() if "\n" in text}

# Names among them that compute from their arguments alone.
PURE = """
    **{Error,Exception,Timeout,Expired} requests.exceptions.* urllib.request.Request
    secrets.compare_digest numpy.random.Generator os.environ.* os.{fspath,fsencode,fsdecode}
    os.{sep,altsep,pathsep,linesep,curdir,pardir,extsep,devnull,name}
    os.path.{basename,commonpath,commonprefix,dirname,isabs,join,normpath,split,splitext}"""

# The argument that puts a call in order. `*` is any; it does not excuse a generator of the module,
# which all runs share. `step`: the first argument is a tool or a step.
EXCUSES: Mapping[str, str] = {
    "*": "random.Random numpy.random.{default_rng,RandomState} time.{localtime,gmtime,ctime}",
    "http_client": "{openai,anthropic}.*",
    "step": "asyncio.to_thread",
}

# Rules of calls whose result, kept in a variable of the module, is a fault where an agent uses it.
LASTING = frozenset({"wall-clock", "randomness", "identifier", "network", "thread"})
AGENTS = frozenset({"holdfast.agent", "holdfast.agents.agent"})
STEPS = frozenset({"holdfast.tool", "holdfast.step", "holdfast.tools.tool", "holdfast.tools.step"})

# Builtins that show the order of a set, and that hide it.
SHOWS_ORDER = frozenset({"list", "tuple", "enumerate", "iter"})
HIDES_ORDER = frozenset({"all", "any", "set", "frozenset", "sorted"})

_SET = re.compile(r"(frozen)?set\(\)(\.(union|\w*difference|intersection|copy)\(\))*")
_IGNORE = re.compile(r"(?:^|\s)#\s*holdfast:\s*ignore\b(?:\[([^\]]*)\])?([^#\w]*\w)?")


@dataclass(frozen=True, slots=True)
class Finding:
    """A place (line and column from 1) where an agent rests on what a replay cannot repeat."""

    path: str
    line: int
    column: int
    rule: str
    message: str
    remedy: str


def lint_source(source: str, filename: str) -> list[Finding]:
    """Return what a replay of the agents in ``source`` could not repeat, by line and column.

    A comment ``# holdfast: ignore[rule, rule] reason`` silences these rules on its line. One with
    no reason or with an unknown rule silences nothing and is a finding itself.

    Args:
        source: The text of one Python file.
        filename: The path that findings carry; the file is not opened.
    """
    # `ast` and `tokenize` count lines alike only where "\n" ends them
    text = re.sub(r"\r\n?", "\n", source.removeprefix("\ufeff"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is not our subject
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = (getattr(error, "lineno", None) or 1, getattr(error, "offset", None) or 1)
        faults = [(*place, "syntax", getattr(error, "msg", str(error)) or type(error).__name__)]
    else:
        silenced, faults = _suppressions(text)
        lines = text.encode(errors="replace").split(b"\n")
        for node, rule, message in _Reader(tree).faults():
            column = len(lines[node.lineno - 1][: node.col_offset].decode()) + 1  # bytes to letters
            if rule not in silenced.get(node.lineno, ()):
                faults.append((node.lineno, column, rule, message))
    first = {(line, column, rule): what for line, column, rule, what in reversed(faults)}
    return [Finding(filename, *key, first[key], REMEDIES[key[2]]) for key in sorted(first)]


def _suppressions(text: str) -> tuple[dict[int, set[str]], list[tuple[int, int, str, str]]]:
    """Return the rules silenced on each line, and the suppressions that say too little to count."""
    silenced: dict[int, set[str]] = {}
    faults: list[tuple[int, int, str, str]] = []
    tokens = tokenize.generate_tokens(io.StringIO(text).readline) if "holdfast:" in text else ()
    # the parser took the file; comments after what only the tokenizer refuses are lost
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for kind, comment, (line, column), _, _ in tokens:
            if kind != tokenize.COMMENT or not (mark := _IGNORE.search(comment)):
                continue
            rules = {name.strip() for name in (mark[1] or "").split(",")}
            wrong = "" if mark[2] else f"ignore[{mark[1]}] gives no reason"
            for unknown in rules - REMEDIES.keys():
                wrong = f"no rule {unknown!r}; there are {', '.join(REMEDIES)}"
            if wrong:
                faults.append((line, column + 1, "suppression", wrong))
            else:
                silenced[line] = rules
    return silenced, faults


@lru_cache
def _pattern(names: str) -> re.Pattern[str]:
    meaning = {"**": ".*", "*": r"[\w.]+", "{": "(?:", ",": "|", "}": ")", " ": "|"}
    names = " ".join(names.split())
    return re.compile(re.sub(r"\*\*|\W", lambda sign: meaning.get(sign[0], "\\" + sign[0]), names))


def _look_up(table: Mapping[str, str], name: str) -> str | None:
    if _pattern(PURE).fullmatch(name):
        return None
    return next((key for key, names in table.items() if _pattern(names).fullmatch(name)), None)


_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
# What a name stands for: an imported dotted name, a function, an expression, or anything.
_Binding: TypeAlias = str | _Function | ast.expr | None
_Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Scoped: TypeAlias = _Function | ast.Lambda | ast.ClassDef | _Comprehension
_Fault: TypeAlias = tuple[ast.expr | ast.stmt | ast.excepthandler, str, str]


@dataclass(eq=False, slots=True)
class _Scope:
    parent: "_Scope | None" = None
    is_class: bool = False
    names: dict[str, _Binding] = field(default_factory=dict)

    def bind(self, name: str, what: _Binding) -> None:
        """Imports win over functions, functions over variables; one set twice is anything."""
        if name not in self.names or isinstance(what, str):
            self.names[name] = what
        elif not isinstance(self.names[name], str):
            self.names[name] = what if isinstance(what, _Function) else None

    def owner(self, name: str) -> "_Scope | None":
        """Return the scope that binds a name seen from here, as Python looks it up."""
        scope: _Scope | None = self
        while scope and (name not in scope.names or (scope.is_class and scope is not self)):
            scope = scope.parent
        return scope


def _bindings(node: ast.AST) -> Iterator[tuple[str, _Binding]]:
    """Give the names that a node binds in its scope."""
    match node:
        case ast.Import(names):  # `import a.b` binds a, `import a.b as c` binds c
            for each in names:
                top = each.name.partition(".")[0]
                yield each.asname or top, each.name if each.asname else top
        case ast.ImportFrom(module, names, level):
            origin = "." * level + (module or "")
            yield from ((each.asname or each.name, f"{origin}.{each.name}") for each in names)
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
            yield name, node
        case ast.Assign(targets, value):
            yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))
        case ast.NamedExpr(ast.Name(name), value) | ast.AnnAssign(ast.Name(name), _, value):
            yield name, value
        case ast.arg(name, annotation):  # an argument is taken for an instance of its annotation
            kind = annotation.value if isinstance(annotation, ast.Subscript) else annotation
            yield name, ast.Call(kind, [], []) if kind else None
        case ast.ClassDef() | ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar() if node.name:
            yield node.name, None
        case ast.Name(name, ast.Store() | ast.Del()) | ast.MatchMapping(rest=str(name)):
            yield name, None
        case _:
            pass


class _Reader:
    """One parsed file: what its names stand for, and what its agents do that they should not."""

    def __init__(self, tree: ast.Module) -> None:
        self._module = _Scope()
        self._scopes: dict[ast.AST, _Scope] = {}
        self._marks: dict[ast.AST | None, str] = {}
        self._unseen: set[ast.AST] = set()  # expressions whose order nobody sees
        for node, scope in self._walk([tree], self._module):
            for name, what in _bindings(node):
                scope.bind(name, what)
        for node, scope in list(self._walk([tree], self._module)):
            names = {self._name(node.func, scope)} if isinstance(node, ast.Call) else set()
            if isinstance(node, _Function):
                names = {self._name(each, scope).removesuffix("()") for each in node.decorator_list}
            if names & (AGENTS | STEPS):
                self._marks[node] = "step" if names & STEPS else "agent"

    def faults(self) -> Iterator[_Fault]:
        """Give the node, rule and message of each fault; a node may come twice."""
        seen: set[ast.AST] = set()
        for agent in (node for node, mark in self._marks.items() if mark == "agent"):
            reached = [agent] if isinstance(agent, _Function) else []
            for function in reached:  # grows while it is read
                if function in seen:
                    continue
                seen.add(function)
                top = self._scopes[function]
                via = "in" if function is agent else f"in {function.name!r}, called from"
                for node, scope in self._walk(function.body, top):
                    seen.add(node)
                    if (helper := self._function(node, scope)) and helper not in self._marks:
                        reached.append(helper)
                    for place, rule, what in self._node_faults(node, scope, top):
                        early = ""
                        if rule == "blocking-sleep" and isinstance(agent, ast.FunctionDef):
                            if not self._is_early(place, scope):
                                continue  # a sync agent has no other, and it is a durable timer
                            early = ", imported before an agent made it a durable timer,"
                        yield place, rule, f"{what}{early} {via} agent {reached[0].name!r}"

    def _is_early(self, place: ast.AST, scope: _Scope) -> bool:
        """Tell whether a function was taken out of its module when the file was loaded."""
        called = place.func if isinstance(place, ast.Call) else place
        name = called.id if isinstance(called, ast.Name) else ""
        return bool(name) and scope.owner(name) is self._module

    def _walk(self, nodes: Iterable[ast.AST], scope: _Scope) -> Iterator[tuple[ast.AST, _Scope]]:
        """Give nodes in source order, each with its scope; marked ones are passed over."""
        stack = [(node, scope) for node in nodes][::-1]
        while stack:
            node, here = stack.pop()
            if node in self._marks:
                continue
            yield node, here
            inner = here
            if isinstance(node, _Scoped):
                inner = self._scopes.setdefault(node, _Scope(here, isinstance(node, ast.ClassDef)))
            assigns = isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr)
            parts = [  # a name that is bound with its value is not bound again
                part
                for part in ast.iter_child_nodes(node)
                if not (assigns and isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            ]
            stack += [(part, inner) for part in reversed(parts)]

    def _name(self, expression: ast.AST | str | None, scope: _Scope) -> str:
        """Return the dotted name that an expression stands for, or "" if it cannot be told."""
        suffix = ""
        for _ in range(1000):  # `x = x.next` must end
            match expression:
                case ast.Attribute(value, attribute):
                    suffix, expression = f".{attribute}{suffix}", value
                case ast.Call(function):
                    suffix, expression = f"(){suffix}", function
                case ast.BinOp(left):  # Path("a") / "b" is a Path, a set less another is a set
                    expression = left
                case ast.Set(items) if all(type(getattr(i, "value", "")) is int for i in items):
                    break  # these hash alike everywhere
                case ast.Set() | ast.SetComp():
                    return f"set(){suffix}"
                case ast.Name(name):
                    owner = scope.owner(name)
                    expression = owner.names[name] if owner else name
                    scope = owner or scope
                case str(origin):
                    return origin + suffix
                case _:
                    break
        return ""

    def _function(self, node: ast.AST, scope: _Scope) -> _Function | None:
        """Return the function of this file that a name refers to."""
        owner = scope.owner(node.id) if isinstance(node, ast.Name) else None
        binding = owner.names[node.id] if owner and isinstance(node, ast.Name) else None
        return binding if isinstance(binding, _Function) else None

    def _node_faults(self, node: ast.AST, scope: _Scope, top: _Scope) -> Iterator[_Fault]:
        match node:
            case ast.Call():
                yield from self._call_faults(node, scope)
            case ast.Name(name, ast.Load()) if rule := self._lasting(name, scope):
                yield node, rule, f"{name!r}, the module's {self._name(node, scope)},"
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                if _look_up(CALLS, dotted := self._name(node, scope)) == "environment":
                    yield node, "environment", dotted  # read without a call
            case ast.Global(names):
                yield node, "global-state", f"global {', '.join(names)}"
            case ast.Nonlocal(names) if scope is top:  # deeper down it may be the agent's own
                yield node, "global-state", f"nonlocal {', '.join(names)}"
            case ast.ExceptHandler() if self._swallows(node, scope):
                yield node, "swallowed-control-flow", "catching everything without raising it again"
            case _:
                pass
        for source in () if node in self._unseen else self._iterated(node, scope):
            if _SET.fullmatch(self._name(source, scope)):
                yield source, "unordered", "the order of a set"

    def _call_faults(self, call: ast.Call, scope: _Scope) -> Iterator[_Fault]:
        name = self._name(call.func, scope)
        if rule := self._judge(call, scope):
            yield call, rule, f"{name}()"
        for given in [*call.args, *(keyword.value for keyword in call.keywords)]:
            if name in HIDES_ORDER and not any(isinstance(p, ast.Await) for p in ast.walk(given)):
                self._unseen.add(given)
            if isinstance(given, ast.Name | ast.Attribute):  # to_thread(requests.get, url)
                handed = self._name(given, scope)
                is_class = handed.rpartition(".")[2][:1].isupper()
                if (rule := _look_up(CALLS, handed)) and not is_class:
                    yield given, rule, f"{handed} as an argument"

    def _judge(self, call: ast.Call, scope: _Scope, *, shared: bool = False) -> str | None:
        """Return the rule that a call breaks; ``shared`` if what it makes outlives the run."""
        name, keywords = self._name(call.func, scope), {each.arg for each in call.keywords}
        match _look_up(EXCUSES, name):
            case "*":
                excused = not shared and bool(call.args or keywords)
            case "step" if call.args:
                function = self._function(call.args[0], scope)
                made_by = self._name(call.args[0], scope).removesuffix("()")
                excused = made_by in STEPS or self._marks.get(function) == "step"
            case str(keyword):  # f(**options) may well hold it
                excused = bool(keywords & {keyword, None})
            case _:
                excused = False
        return None if excused else _look_up(CALLS, name)

    def _lasting(self, name: str, scope: _Scope) -> str | None:
        """Return the rule broken by what made a variable of the module, if using it does."""
        made = self._module.names.get(name) if scope.owner(name) is self._module else None
        rule = self._judge(made, self._module, shared=True) if isinstance(made, ast.Call) else None
        return rule if rule in LASTING else None

    def _swallows(self, handler: ast.ExceptHandler, scope: _Scope) -> bool:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if all(kind and self._name(kind, scope) != "BaseException" for kind in kinds):
            return False
        nodes = (node for statement in handler.body for node in ast.walk(statement))
        raised = [node.exc for node in nodes if isinstance(node, ast.Raise)]
        return not any(exc is None or getattr(exc, "id", "") == handler.name for exc in raised)

    def _iterated(self, node: ast.AST, scope: _Scope) -> list[ast.expr]:
        """Return what a node takes apart in an order that somebody sees."""
        match node:
            case ast.For(_, source) | ast.AsyncFor(_, source) | ast.Starred(source):
                return [source]
            case ast.ListComp() | ast.DictComp() | ast.GeneratorExp():
                return [generator.iter for generator in node.generators]
            case ast.Call(ast.Attribute(attr="join"), sources):
                return sources
            case ast.Call(function, sources) if self._name(function, scope) in SHOWS_ORDER:
                return sources
            case _:
                return []
