"""holdfast lets an agent survive anything that happens to its process.

::

    import holdfast as hf

    @hf.tool(effect="idempotent")
    async def refund(order: str, cents: int) -> str: ...

    @hf.agent
    async def triage(ticket: str) -> str:
        return await refund(ticket, 500)

    print(hf.run(triage, "order-7", id="ticket-7"))

Public names are loaded on first use, so that importing holdfast costs little.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from holdfast.agents import agent
    from holdfast.ambient import (
        NOT_DONE,
        UNKNOWN,
        ask,
        attempt,
        emit,
        idempotency_key,
        now,
        random,
        receive,
        run_id,
        send,
        transaction,
        uuid,
        version_guard,
    )
    from holdfast.app import App, SyncClient, connect, run
    from holdfast.client import Client, Retracted
    from holdfast.core.redaction import find_credentials
    from holdfast.core.retry import Retry
    from holdfast.errors import (
        AgentUnknown,
        CodecError,
        Diverged,
        HoldfastError,
        NonDurableWarning,
        NotDone,
        NotInRun,
        PayloadCollected,
        RunConflict,
        RunFailed,
        RunParked,
        RunUnknown,
        RunWasCancelled,
        StepFailed,
        StoreError,
        StoreRefused,
        StoreUnavailable,
        SubjectErased,
        UsageError,
        VaultMissing,
    )
    from holdfast.integrations.http import async_http_client, http_client
    from holdfast.runtime.births import Place
    from holdfast.runtime.schedules import Schedule, schedule
    from holdfast.runtime.secrets import Secret
    from holdfast.runtime.worker import Worker, WorkerSettings
    from holdfast.tools import call, schemas, step, tool

_HOMES = {
    "holdfast.agents": ["agent"],
    "holdfast.ambient": [
        "NOT_DONE",
        "UNKNOWN",
        "ask",
        "attempt",
        "emit",
        "idempotency_key",
        "now",
        "random",
        "receive",
        "run_id",
        "send",
        "transaction",
        "uuid",
        "version_guard",
    ],
    "holdfast.app": ["App", "SyncClient", "connect", "run"],
    "holdfast.client": ["Client", "Retracted"],
    "holdfast.core.redaction": ["find_credentials"],
    "holdfast.core.retry": ["Retry"],
    "holdfast.errors": [
        "AgentUnknown",
        "CodecError",
        "Diverged",
        "HoldfastError",
        "NonDurableWarning",
        "NotDone",
        "NotInRun",
        "PayloadCollected",
        "RunConflict",
        "RunFailed",
        "RunParked",
        "RunUnknown",
        "RunWasCancelled",
        "StepFailed",
        "StoreError",
        "StoreRefused",
        "StoreUnavailable",
        "SubjectErased",
        "UsageError",
        "VaultMissing",
    ],
    "holdfast.integrations.http": ["async_http_client", "http_client"],
    "holdfast.runtime.secrets": ["Secret"],
    "holdfast.runtime.births": ["Place"],
    "holdfast.runtime.schedules": ["Schedule", "schedule"],
    "holdfast.runtime.worker": ["Worker", "WorkerSettings"],
    "holdfast.tools": ["call", "schemas", "step", "tool"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "NOT_DONE",
    "UNKNOWN",
    "AgentUnknown",
    "App",
    "Client",
    "CodecError",
    "Diverged",
    "HoldfastError",
    "NonDurableWarning",
    "NotDone",
    "NotInRun",
    "PayloadCollected",
    "Place",
    "Retracted",
    "Retry",
    "RunConflict",
    "RunFailed",
    "RunParked",
    "RunUnknown",
    "RunWasCancelled",
    "Schedule",
    "Secret",
    "StepFailed",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "SubjectErased",
    "SyncClient",
    "UsageError",
    "VaultMissing",
    "Worker",
    "WorkerSettings",
    "__version__",
    "agent",
    "ask",
    "async_http_client",
    "attempt",
    "call",
    "connect",
    "emit",
    "find_credentials",
    "http_client",
    "idempotency_key",
    "now",
    "random",
    "receive",
    "run",
    "run_id",
    "schedule",
    "schemas",
    "send",
    "step",
    "tool",
    "transaction",
    "uuid",
    "version_guard",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
