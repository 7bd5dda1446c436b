"""Typed values to JSON bytes and back; what cannot survive fails here, with the path to it.

Values cross the log, objects do not: whoever asked for a value receives the *decoded* bytes, live
as on replay. Annotations say what a value is, pydantic does the work (imported on first use: it is
the heaviest import we have). Where an annotation says nothing (``Any``, none at all), only what
JSON itself can tell apart passes.
"""

import dataclasses
import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from holdfast.core.limits import PAYLOAD_BYTES_MAX
from holdfast.errors import CodecError, PayloadTooLarge, UsageError

__all__ = ["SECRET", "ArgsCodec", "Codec", "annotations_of", "json_bytes", "path_text"]

SECRET = "$secret"  # noqa: S105 - the name of a field
"""The only field of what stands for a secret: its name."""


EXCERPT_CHARS = 80
CONFIG: Any = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "strings",
}
"""How pydantic writes what JSON has no words for; models have a configuration of their own."""


def json_bytes(value: Any) -> bytes:
    """Return compact JSON of plain data that is known to be JSON; for holdfast's own payloads."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def path_text(parts: tuple[int | str, ...]) -> str:
    """Return a path such as ``$.items[3].when``."""
    return "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)


def _says_nothing(annotation: Any) -> bool:
    """Tell whether a type is, or contains, one that leaves the value's type open."""
    if annotation in (Any, object, dict, list, tuple, set, frozenset, inspect.Parameter.empty):
        return True
    return any(_says_nothing(part) for part in typing.get_args(annotation) if part is not Ellipsis)


_PLAIN = frozenset({str, int, bool, bytes, type(None), Ellipsis})
_BUILT = frozenset({list, tuple, set, frozenset, typing.Union, types.UnionType, typing.NotRequired})


def _survives(annotation: Any) -> bool:
    """Tell whether every value of a type that can be written can be read back."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return parts[0] in (str, int) and _survives(parts[1])
    if typing.get_origin(annotation) in _BUILT:
        return all(map(_survives, parts))
    return annotation in _PLAIN


def _children(value: Any) -> Iterator[tuple[int | str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    elif hasattr(type(value), "model_fields"):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)


def _changed_part(
    value: Any, decoded: Any, path: tuple[int | str, ...] = ()
) -> tuple[tuple[int | str, ...], Any]:
    """Return the path and value of the first part that is not what it was before the trip."""
    if type(value) is type(decoded):
        ours, theirs = list(_children(value)), dict(_children(decoded))
        for name, part in ours:
            if name in theirs and theirs[name] != part:
                return _changed_part(part, theirs[name], (*path, name))
    return path, value


def _unencodable_part(
    value: Any, path: tuple[int | str, ...] = ()
) -> tuple[tuple[int | str, ...], Any]:
    """Return the path and value of the first part that pydantic cannot turn into JSON."""
    from pydantic_core import PydanticSerializationError, to_json  # noqa: PLC0415 - heavy, on first use

    for name, part in _children(value):
        try:
            to_json(part)
        except (PydanticSerializationError, ValueError):
            return _unencodable_part(part, (*path, name))
    return path, value


class Codec:
    """Encodes the values of one annotation.

    Args:
        annotation: A type, or ``Any``.
        what: Names the value in errors, such as ``the result of tool 'refund'``.
        survives: Whether all that can be written can be read back; found out if None.
        is_plain: Whether it is made of JSON's own types alone; found out if None.
    """

    def __init__(
        self,
        annotation: Any,
        what: str,
        *,
        survives: bool | None = None,
        is_plain: bool | None = None,
    ) -> None:
        self.annotation = Any if annotation is inspect.Parameter.empty else annotation
        self.what = what
        self._open = _says_nothing(self.annotation)
        self._survives = _survives(self.annotation) if survives is None else survives
        self._is_plain = _survives(self.annotation) if is_plain is None else is_plain

    # Made on first use. ``write`` and ``read`` are what the adapter's own methods call.

    @functools.cached_property
    def _adapter(self) -> Any:
        return _make_adapter(self.annotation, self.what)

    @functools.cached_property
    def _write(self) -> Callable[..., bytes]:
        write: Callable[..., bytes] = self._adapter.serializer.to_json
        return write

    @functools.cached_property
    def _check(self) -> Callable[..., object]:
        check: Callable[..., object] = self._adapter.validator.validate_python
        return check

    @functools.cached_property
    def _read(self) -> Callable[[bytes | str], Any]:
        read: Callable[[bytes | str], Any] = self._adapter.validator.validate_json
        return read

    def encode(self, value: Any) -> bytes:
        """Return the JSON bytes of a value.

        Raises:
            CodecError: the value is not of the annotated type, or would come back as something
            else.
            PayloadTooLarge: over PAYLOAD_BYTES_MAX.
        """
        try:
            data = self._dump(value)
        except (ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
            raise self._encode_error(value, error) from None
        if len(data) > PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(
                f"{self.what} has {len(data)} bytes as JSON; at most {PAYLOAD_BYTES_MAX} are"
                " possible"
                " (PAYLOAD_BYTES_MAX). Hint: keep large data elsewhere and pass a reference."
            )
        if self._open:
            self.check_kept(value, self.decode(data))
        elif not self._survives or b"null" in data:  # pydantic writes None for any type
            self.decode(data)
        return data

    def _dump(self, value: Any) -> bytes:
        """Return the JSON bytes of a value, or raise pydantic's error.

        Having pydantic raise its warnings takes longer than all the rest of writing a small value,
        so for plain types a strict check stands in for it; what it does not pass is judged anew.
        """
        if self._is_plain:
            try:
                self._check(value, strict=True)
            except (ValueError, RecursionError):
                pass
            else:
                return self._write(value, by_alias=True)
        return self._write(value, warnings="error", by_alias=True)

    def check_kept(self, value: Any, decoded: Any, *path: int | str) -> None:
        """Check that a value of an open type came back as it was.

        Raises:
            CodecError: it did not; names the path, which begins with ``path``.
        """
        if decoded != value:
            parts, part = _changed_part(value, decoded, path)
            raise CodecError(
                f"{self.what}, {path_text(parts)}: {part!r} ({type(part).__name__}) would come"
                " back from the log as something else. Hint: annotate its type.",
                path=path_text(parts),
            )

    def decode(self, data: bytes | str) -> Any:
        """Return the value of JSON bytes.

        Raises:
            CodecError: the bytes are not JSON or not of the annotated type; names the path.
        """
        try:
            return self._read(data)
        except ValueError as error:  # pydantic's ValidationError
            raise self._decode_error(error) from None

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the annotation."""
        schema: dict[str, Any] = self._adapter.json_schema()
        return schema

    def _encode_error(self, value: Any, error: Exception) -> CodecError:
        from pydantic_core import ValidationError  # noqa: PLC0415 - heavy, on first use

        try:
            self._adapter.validate_python(value, strict=True)
            path, part = _unencodable_part(value)
        except ValidationError as mismatch:
            return self._decode_error(mismatch)
        except RecursionError:
            return CodecError(f"{self.what} contains itself or is nested too deeply")
        return CodecError(
            f"{self.what}, {path_text(path)}: {type(part).__name__} cannot be written as JSON"
            f" ({str(error).splitlines()[0]}). Hint: return plain data, a dataclass or a"
            " pydantic model.",
            path=path_text(path),
        )

    def _decode_error(self, error: Any) -> CodecError:
        first = error.errors(include_url=False)[0]
        path = path_text(tuple(first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == SECRET:  # what was given may be the secret itself
            return CodecError(f"{self.what}, {path}: {first['msg']}{more}", path=path)
        given = repr(first["input"])
        given = given if len(given) <= EXCERPT_CHARS else given[:EXCERPT_CHARS] + "…"
        return CodecError(f"{self.what}, {path}: {first['msg']}, not {given}{more}", path=path)


def _make_adapter(annotation: Any, what: str) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - heavy, on first use
    from pydantic.errors import (  # noqa: PLC0415 - heavy, on first use
        PydanticSchemaGenerationError,
        PydanticUndefinedAnnotation,
        PydanticUserError,
    )
    from typing_extensions import TypeAliasType  # noqa: PLC0415 - heavy, on first use

    try:
        try:
            return TypeAdapter(annotation, config=CONFIG)
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
        # A class is asked for its own configuration and gets ours only under another name.
        own = getattr(annotation, "__pydantic_config__", CONFIG)
        named: Any = TypeAliasType("Value", annotation)
        return TypeAdapter(named, config=own)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
        raise CodecError(
            f"{what}: {annotation!r} is not a type that can be written as JSON"
            f" ({str(error).splitlines()[0]})"
        ) from None


class ArgsCodec:
    """Encodes the arguments of a function as one JSON object, by parameter name.

    ``*args`` becomes an array and ``**kwargs`` an object under their own names.
    """

    def __init__(self, fn: Callable[..., Any], what: str, *, skip: int = 0) -> None:
        self._fn = fn
        self._what = what
        self.parameters = list(inspect.signature(fn).parameters.values())[skip:]
        self._names = [p.name for p in self.parameters]
        self._name_set = set(self._names)
        self._defaults = {
            p.name: p.default for p in self.parameters if p.default is not inspect.Parameter.empty
        }
        kinds = {p.kind for p in self.parameters}
        self._plain = kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        """Whether every argument may be given by name."""
        self._signature = inspect.Signature(self.parameters)
        self._open: list[str] = []
        """Names of the parameters whose annotation leaves the value's type open."""

    @functools.cached_property
    def _codec(self) -> Codec:
        import typing_extensions  # noqa: PLC0415 - heavy, on first use

        hints = annotations_of(self._fn, self._what)
        shape = {p.name: self._shape(p, hints.get(p.name, Any)) for p in self.parameters}
        make: Any = typing_extensions.TypedDict
        typed = make("Arguments", shape)
        typed.__pydantic_config__ = {**CONFIG, "extra": "forbid"}
        self._open = [name for name, hint in shape.items() if _says_nothing(hint)]
        survives = all(map(_survives, shape.values()))
        what = f"the arguments of {self._what}"
        return Codec(typed, what, survives=survives or bool(self._open), is_plain=survives)

    def _shape(self, parameter: inspect.Parameter, hint: Any) -> Any:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            hint = types.GenericAlias(tuple, (hint, ...))
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            hint = types.GenericAlias(dict, (str, hint))
        optional = parameter.default is not inspect.Parameter.empty or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        )
        return typing.NotRequired[hint] if optional else hint

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, defaults filled in.

        Raises:
            TypeError: they do not fit the signature.
        """
        if self._plain and not kwargs and len(args) == len(self._names):
            return dict(zip(self._names, args, strict=True))
        if self._plain and len(args) <= len(self._names) and kwargs.keys() <= self._name_set:
            bound = dict(zip(self._names, args, strict=False))
            if not bound.keys() & kwargs.keys():
                if len(bound) < len(self._names):
                    bound = {**self._defaults, **bound, **kwargs}
                if len(bound) == len(self._names):
                    return {name: bound[name] for name in self._names}
        try:
            by_signature = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._what}: {error}") from None
        by_signature.apply_defaults()
        return dict(by_signature.arguments)

    def encode(self, bound: dict[str, Any]) -> bytes:
        """Return the JSON object of bound arguments; raises as ``Codec.encode`` does."""
        codec = self._codec
        data = codec.encode(bound)
        if self._open:
            decoded = codec.decode(data)
            for name in self._open:
                if name in bound:
                    codec.check_kept(bound[name], decoded[name], name)
        return data

    def decode(self, data: bytes | str) -> dict[str, Any]:
        """Return bound arguments, defaults filled in; raises as ``Codec.decode`` does."""
        bound: dict[str, Any] = self._codec.decode(data)
        return bound if len(bound) == len(self._names) else {**self._defaults, **bound}

    def spread(self, bound: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return bound arguments as a call takes them."""
        if self._plain:
            return [], bound
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for p in self.parameters:
            if p.name not in bound:
                continue
            if p.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(bound[p.name])
            elif p.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(bound[p.name])
            elif p.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[p.name] = bound[p.name]
            else:
                args.append(bound[p.name])
        return args, kwargs

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments, as model providers take it.

        Parameters that are secrets are left out: they are not for a model to choose.

        Raises:
            UsageError: such a parameter has no default.
        """
        schema = self._codec.schema()
        schema.pop("title", None)
        properties = schema.setdefault("properties", {})
        for name, part in list(properties.items()):
            part.pop("title", None)
            if f'"{SECRET}"' in json.dumps(part):
                if name in schema.get("required", ()):
                    raise UsageError(
                        f"{self._what}: parameter {name!r} is a secret, which a model cannot give."
                        f" Hint: {name}: hf.Secret[str] = hf.Secret(NAME)"
                    )
                del properties[name]
        schema["additionalProperties"] = False
        return schema


def annotations_of(fn: Callable[..., Any], what: str) -> dict[str, Any]:
    """Return a function's annotations, strings resolved.

    Raises:
        CodecError: an annotation names something that does not exist.
    """
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise CodecError(
            f"{what}: its annotations cannot be read: {error}. Hint: define the type at module"
            " level."
        ) from None
