"""``hf.http_client`` and ``hf.async_http_client``: stock clients whose requests in a run are steps.

Whatever takes an HTTP client (the OpenAI client, frameworks above it, plain calls) is durable with
one of these: on replay it gets the recorded answers, and nothing is sent. Neither library is
imported before a client is asked for.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from holdfast.errors import UsageError
from holdfast.integrations.http_exchange import Wire
from holdfast.integrations.http_transport import async_transport, sync_transport

if TYPE_CHECKING:
    import httpx
    import httpx2

__all__ = ["Contract", "Library", "async_http_client", "http_client"]

Contract = Literal["read", "idempotent", "once"]
Library = Literal["httpx2", "httpx"]

_WIRE_SETTINGS = frozenset(
    {"cert", "http1", "http2", "limits", "mounts", "proxy", "transport", "trust_env", "verify"}
)
"""Arguments of a client that say how it connects: they go to the clients that really send."""


@overload
def http_client(
    *,
    effect: Contract | Callable[[Any], Contract] = "read",
    effects: Mapping[str, Contract] | None = None,
    library: Literal["httpx2"] | None = None,
    **options: Any,
) -> "httpx2.Client": ...
@overload
def http_client(
    *,
    effect: Contract | Callable[[Any], Contract] = "read",
    effects: Mapping[str, Contract] | None = None,
    library: Literal["httpx"],
    **options: Any,
) -> "httpx.Client": ...
def http_client(
    *,
    effect: Contract | Callable[[Any], Contract] = "read",
    effects: Mapping[str, Contract] | None = None,
    library: Library | None = None,
    **options: Any,
) -> Any:
    """Return a stock HTTP client; each request that it sends in a run is a step.

    Outside a run, and in the body of a step, requests are simply sent. What is recorded: method,
    URL, body and the few headers that matter of a request, never its credentials (see
    ``http_record``); status, headers and body of an answer, but no cookies. So a client in a run
    does not log in by cookie.

    A ``read`` has every answer for its outcome, error statuses included, and a transport error is
    raised as the library raises it; whether to ask again is for the caller. The other contracts
    take 5xx, 408, 409, 425 and 429 for what they are: the deed may have been done. ``idempotent``
    requests are sent again with the same ``Idempotency-Key``, ``once`` requests are in doubt.

    Args:
        effect: The effect contract of requests, or a function from a request to it.
        effects: Contracts by method, ``{"POST": "idempotent"}``; these go first.
        library: ``httpx2`` or ``httpx``; the first that is installed, unless said.
        options: What the library's ``Client`` takes. ``transport`` and ``mounts`` are what really
            sends; in a run that is done by their async side.

    Raises:
        UsageError: neither library is installed, or a contract is none.
    """
    chosen = _library(library)
    outer, wire = _split(chosen, options)
    transport = sync_transport(chosen)(wire, _effect_of(effect, effects))
    return chosen.Client(transport=transport, **outer)


@overload
def async_http_client(
    *,
    effect: Contract | Callable[[Any], Contract] = "read",
    effects: Mapping[str, Contract] | None = None,
    library: Literal["httpx2"] | None = None,
    **options: Any,
) -> "httpx2.AsyncClient": ...
@overload
def async_http_client(
    *,
    effect: Contract | Callable[[Any], Contract] = "read",
    effects: Mapping[str, Contract] | None = None,
    library: Literal["httpx"],
    **options: Any,
) -> "httpx.AsyncClient": ...
def async_http_client(
    *,
    effect: Contract | Callable[[Any], Contract] = "read",
    effects: Mapping[str, Contract] | None = None,
    library: Library | None = None,
    **options: Any,
) -> Any:
    """Return a stock async HTTP client; as ``http_client``.

    ::

        model = openai.AsyncOpenAI(http_client=hf.async_http_client())
    """
    chosen = _library(library)
    outer, wire = _split(chosen, options)
    transport = async_transport(chosen)(wire, _effect_of(effect, effects))
    return chosen.AsyncClient(transport=transport, **outer)


def _library(name: str | None) -> Any:
    candidates = ("httpx2", "httpx") if name is None else (name,)
    for candidate in candidates:
        if candidate not in ("httpx2", "httpx"):
            raise UsageError(f"library={name!r}: expected 'httpx2' or 'httpx'")
        if importlib.util.find_spec(candidate) is not None:
            return importlib.import_module(candidate)
    raise UsageError(
        f"{' and '.join(candidates)} cannot be imported. Hint: pip install 'holdfast[http]'"
    )


def _split(library: Any, options: dict[str, Any]) -> tuple[dict[str, Any], Wire]:
    """Return the options of the client that the agent holds, and what really sends."""
    ours = {name: value for name, value in options.items() if name in _WIRE_SETTINGS}
    outer = {name: value for name, value in options.items() if name not in _WIRE_SETTINGS}
    return outer, Wire(library, ours) if ours else _shared_wire(library)


@functools.cache
def _shared_wire(library: Any) -> Wire:
    return Wire(library, {}, shared=True)


def _effect_of(effect: Any, effects: Mapping[str, str] | None) -> Callable[[Any], str]:
    by_method = {method.upper(): _contract(value) for method, value in (effects or {}).items()}
    if not callable(effect):
        _contract(effect)

    def effect_of(request: Any) -> str:
        if request.method in by_method:
            return by_method[request.method]
        return _contract(effect(request)) if callable(effect) else str(effect)

    return effect_of


def _contract(value: Any) -> str:
    if value in ("read", "idempotent", "once"):
        return str(value)
    raise UsageError(
        f"effect={value!r}: an HTTP request is 'read', 'idempotent' or 'once'."
        " Hint: only a function that uses hf.transaction() is 'transactional'."
    )
