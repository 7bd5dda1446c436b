"""Secrets: named in the log, resolved on the worker.

``hf.Secret`` is a name that stands for a value. The name travels through arguments, inputs and
messages as ``{"$secret": NAME}``; the value is asked of the App's provider, in the process that
runs a step's body, each time a body begins. So a recovery anywhere gets it from that worker's
own provider, and a value that was rotated is the new one.

Invariants: the code of an agent never has a value, only bodies do; a value that was given to a body
is taken out of whatever that process records from then on (``core/redaction.py``).
"""

import contextvars
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_args

from holdfast.core.codec import SECRET, Codec
from holdfast.core.limits import SECRET_CHARS_MIN, SECRET_NAME_CHARS_MAX
from holdfast.core.machine import current_or_none
from holdfast.core.redaction import Cleaner, Finder, find_credentials
from holdfast.errors import CodecError, NotDone, UsageError
from holdfast.runtime.context import STEP

__all__ = ["Provider", "Secret", "Secrets", "from_environment"]

T = TypeVar("T")

Provider = Mapping[str, str] | Callable[[str], str | None]
"""Where values come from: a mapping, or a function, which returns None for an unknown name."""

_NAME = re.compile(rf"[A-Z][A-Z0-9_]{{0,{SECRET_NAME_CHARS_MAX - 1}}}")
"""Capitals, so that a value that was given instead of its name is no name: names are recorded."""
_FOUND: contextvars.ContextVar["list[str] | None"] = contextvars.ContextVar(
    "holdfast_secrets", default=None
)
"""Collects the names of the secrets that are decoded, while somebody wants to know."""


def from_environment(name: str) -> str | None:
    """Return the value of ``HOLDFAST_SECRET_NAME``: the provider of an App that was given none.

    The prefix is there so that an input from outside, which may name a secret, cannot name any
    variable of the process.
    """
    return os.environ.get(f"HOLDFAST_SECRET_{name}")


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and not find_credentials(name, "")  # such as an access key's id, which is in capitals
    )


class Secret(Generic[T]):
    """A value that is named in the log and known to the bodies of steps alone.

    ::

        @hf.tool(effect="read")
        async def lookup(order: str, key: hf.Secret[str]) -> str:
            return await fetch(order, key.value)


        await lookup("order-7", hf.Secret("SHOP_KEY"))

    Args:
        name: What the provider knows it by, such as ``SHOP_KEY``: capitals, digits and ``_``.

    Raises:
        UsageError: that is no name; maybe it is the value, so it is not shown.
    """

    __slots__ = ("_type", "name")

    def __init__(self, name: str) -> None:
        if not _is_name(name):
            raise UsageError(
                "hf.Secret takes the name of a secret, such as 'SHOP_KEY': up to"
                f" {SECRET_NAME_CHARS_MAX} capitals, digits and '_'. What was given is not shown."
                " Hint: the value goes into the environment of the workers, as"
                " HOLDFAST_SECRET_SHOP_KEY, or into hf.App(secrets=…)."
            )
        self.name = name
        self._type: Any = str

    @property
    def value(self) -> T:
        """The value, in the body of a step.

        Raises:
            UsageError: this is the code of an agent, or this worker's provider does not know it.
            CodecError: the value is not of the annotated type.
        """
        step = STEP.get()
        if step is None and current_or_none() is not None:
            raise UsageError(
                f"secret {self.name!r} was asked for its value in the code of an agent, from where"
                " it could get into the log. Hint: pass the secret on to a step."
            )
        if step is not None and step.secrets is not None:
            text = step.secrets.reveal(self.name)
        else:
            text = Secrets().reveal(self.name)  # outside a run nothing is recorded
        if self._type is str:
            typed: T = text  # type: ignore[assignment]  # T is str then
            return typed
        try:
            typed = Codec(self._type, f"secret {self.name!r}").decode(text)
        except CodecError:
            raise CodecError(f"secret {self.name!r} is not JSON of {self._type!r}") from None
        return typed

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __str__(self) -> str:
        return f"[secret {self.name}]"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Secret, self.name))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, _handler: Any) -> Any:
        from pydantic_core import PydanticCustomError, core_schema  # noqa: PLC0415 - heavy

        (kind,) = get_args(source) or (str,)

        def read(value: Any) -> Any:
            if isinstance(value, Secret):
                return value
            name = value.get(SECRET) if isinstance(value, dict) and len(value) == 1 else None
            if not isinstance(name, str) or not _is_name(name):
                # Whatever it is, it is not quoted: it may be the value itself.
                raise PydanticCustomError(SECRET, 'expected a secret, {{"$secret": NAME}}')
            secret = cls(name)
            secret._type = kind
            if (found := _FOUND.get()) is not None:
                found.append(name)
            return secret

        def write(value: Any) -> dict[str, str]:
            if not isinstance(value, Secret):
                raise TypeError("not a secret")
            return {SECRET: value.name}

        named = {SECRET: {"type": "string"}}
        return core_schema.no_info_plain_validator_function(
            read,
            json_schema_input_schema=core_schema.any_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(write),
            metadata={
                "pydantic_js_functions": [
                    lambda _schema, _handler: {
                        "type": "object",
                        "properties": named,
                        "required": [SECRET],
                    }
                ]
            },
        )


class Secrets:
    """What one App knows of secrets: where values come from and what must not be recorded.

    Args:
        provider: Where values come from; the environment if None.
        find: Sees what must not be recorded beside them; None for nothing. A pattern will do.
    """

    def __init__(
        self, provider: Provider | None = None, find: "Finder | re.Pattern[str] | None" = None
    ) -> None:
        self._provider = provider if provider is not None else from_environment
        self.cleaner = Cleaner(_finder(find))
        self.clean = self.cleaner.clean
        """Takes secrets out of a payload."""

    @property
    def text(self) -> Callable[[str], str]:
        """What takes secrets out of a text, such as an error's."""
        return self.cleaner.text

    def reveal(self, name: str) -> str:
        """Return a secret's value, which is never recorded from now on.

        Raises:
            UsageError: the provider does not know it, or it is too short.
        """
        provider = self._provider
        try:
            value = provider.get(name) if isinstance(provider, Mapping) else provider(name)
        except LookupError:
            value = None
        if value is None:
            where = "the App's provider"
            if provider is from_environment:
                where = f"the environment (HOLDFAST_SECRET_{name})"
            raise UsageError(
                f"secret {name!r} is unknown to this worker: {where} has no value for it."
                " Hint: set it there, or hf.App(secrets=…)"
            )
        if not isinstance(value, str):
            raise UsageError(f"secret {name!r}: its provider gave {type(value).__name__}, not str")
        self.cleaner.learn(name, value)
        if value[:1] in ('"', "{", "["):
            for part in _parts(value):
                if len(part) >= SECRET_CHARS_MIN:
                    self.cleaner.learn(name, part)
        return value

    def decode(self, decode: Callable[[bytes], Any], data: bytes) -> Any:
        """Decode arguments of a step; the secrets in them are resolved before its body begins.

        Raises:
            CodecError: as ``decode`` does.
            NotDone: a secret cannot be resolved here; another attempt may go through.
        """
        if b'"$secret"' not in data:
            return decode(data)
        token = _FOUND.set([])
        try:
            decoded = decode(data)
            for name in _FOUND.get() or ():
                self.reveal(name)
        except UsageError as error:
            raise NotDone(str(error), retryable=True) from None
        finally:
            _FOUND.reset(token)
        return decoded


def _finder(find: "Finder | re.Pattern[str] | None") -> Finder | None:
    if isinstance(find, re.Pattern):
        pattern = find
        return lambda text, _field: [found[0] for found in pattern.finditer(text)]
    return find


def _parts(value: str) -> list[str]:
    """Return the strings in a value that is JSON."""
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict):
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    try:
        walk(json.loads(value))
    except ValueError:
        return []
    return found
