"""Every exception of holdfast, as one tree.

::

    HoldfastError
    ├── UsageError                    the program asks for something that cannot be
    │   ├── NotInRun                  an ambient function was called outside a run
    │   └── IoOutsideStep             code in a turn reached for a socket, a thread or a file
    descriptor
    ├── CodecError                    a value does not survive the trip through the log
    │   └── PayloadTooLarge
    ├── StepFailed                    a step's recorded failure, raised in the agent
    ├── RunFailed                     the run of interest ended failed or cancelled
    │   └── RunWasCancelled
    ├── RunParked                     the run waits for a person or a message and cannot go on by
    itself
    ├── NotDone                       raised by a body: nothing happened, another attempt is
    harmless
    ├── Diverged                      the code asks for something else than the log holds
    ├── AgentUnknown                  the log names an agent that no loaded module declares
    ├── RunUnknown                    no run, or several, by that id or prefix
    ├── RunConflict                   an id that is taken by a run of another agent or subject
    ├── ProofRefused                  a key, note, checkpoint or proof is not what it should be
    ├── PayloadCollected              the run ended too long ago, its payloads are not kept any more
    ├── SubjectErased                 nothing may be recorded under this subject any more
    └── StoreError
        ├── StoreUnavailable          nothing was written; the same call may go through later
        ├── StoreRefused              not a store of ours, or of a newer version, or torn
        │   └── KeyMissing            the store is signed, and its private key is not at hand
        ├── VaultMissing              payloads are encrypted, and their keys not at hand
        ├── Conflict                  the stream has another length than the append expected
        └── Fenced                    another epoch owns the run

    BaseException
    ├── RunSuspended                  unwinds a coroutine whose run leaves memory
    └── RunFenced                     unwinds one whose lease was lost

The last two are control flow that an agent must not swallow, so ``except Exception`` does not catch
them. The docstring of each class is the default message.
"""

from typing import Any

__all__ = [
    "AgentUnknown",
    "CodecError",
    "Conflict",
    "Diverged",
    "Fenced",
    "HoldfastError",
    "IoOutsideStep",
    "KeyMissing",
    "NonDurableWarning",
    "NotDone",
    "NotInRun",
    "PayloadCollected",
    "PayloadTooLarge",
    "ProofRefused",
    "RunConflict",
    "RunFailed",
    "RunFenced",
    "RunParked",
    "RunSuspended",
    "RunUnknown",
    "RunWasCancelled",
    "StepFailed",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "SubjectErased",
    "UsageError",
    "VaultMissing",
]


class HoldfastError(Exception):
    """Something went wrong in holdfast."""

    def __init__(self, message: str | None = None, /, **facts: Any) -> None:
        super().__init__(message or type(self).__doc__)
        self.facts = facts
        self.__dict__.update(facts)


class UsageError(HoldfastError):
    """The program asks for something that cannot be."""


class NotInRun(UsageError):  # noqa: N818 - it states a fact
    """This may only be called inside a run."""


class IoOutsideStep(UsageError):  # noqa: N818 - it states a fact
    """Code in a turn reached for the outside world. Hint: do it in a function under @hf.step."""


class CodecError(HoldfastError):
    """A value does not survive the trip through the log."""


class PayloadTooLarge(CodecError):  # noqa: N818 - it states a fact
    """A value is larger than the log takes."""


class StepFailed(HoldfastError):  # noqa: N818 - the glossary's word for it
    """A step failed.

    Attributes:
        error_type: The name of the exception's class, such as ``ValueError``.
        error_message: Its text.
        step: The step key, such as ``refund#1``.
        retryable: Whether another attempt could have gone through.
    """

    def __init__(
        self, error_type: str, error_message: str, *, step: str = "", retryable: bool = True
    ) -> None:
        text = (
            f"step {step}: {error_type}: {error_message}"
            if step
            else (f"{error_type}: {error_message}")
        )
        super().__init__(text)
        self.error_type = error_type
        self.error_message = error_message
        self.step = step
        self.retryable = retryable


class RunFailed(HoldfastError):  # noqa: N818 - the glossary's word for it
    """The run failed."""


class RunWasCancelled(RunFailed):
    """The run was cancelled."""


class RunParked(HoldfastError):  # noqa: N818 - the glossary's word for it
    """The run is parked and cannot go on by itself."""


class NotDone(HoldfastError):  # noqa: N818 - it states a fact, as a body would say it
    """Nothing happened: the effect's body proves that the world is as it was before."""


class Diverged(HoldfastError):  # noqa: N818 - the glossary's word for it
    """The agent asked for something else than the log holds.

    Attributes:
        seq: The recorded event that does not match, 0 when the log ends before the request.
        recorded: What the log holds, one line.
        requested: What the code asked for, one line.
    """

    def __init__(self, message: str, *, seq: int, recorded: str, requested: str) -> None:
        super().__init__(message)
        self.seq = seq
        self.recorded = recorded
        self.requested = requested


class AgentUnknown(HoldfastError):  # noqa: N818 - it states a fact
    """No loaded module declares this agent."""


class RunUnknown(HoldfastError):  # noqa: N818 - it states a fact
    """There is no such run."""


class RunConflict(HoldfastError):  # noqa: N818 - it states a fact
    """The id belongs to a run of another agent."""


class ProofRefused(HoldfastError):  # noqa: N818 - it states a fact
    """A key, a note, a checkpoint or a proof is not what it should be."""


class PayloadCollected(HoldfastError):  # noqa: N818 - it states a fact
    """The run ended so long ago that its payloads are not kept any more."""


class SubjectErased(HoldfastError):  # noqa: N818 - it states a fact
    """The subject was erased; nothing may be recorded under it any more."""


class StoreError(HoldfastError):
    """The store did not do what it was asked."""


class StoreUnavailable(StoreError):  # noqa: N818 - it states a fact
    """The store cannot write now; nothing was written."""


class StoreRefused(StoreError):  # noqa: N818 - it states a fact
    """The file is not a store that this version can use."""


class KeyMissing(StoreRefused):
    """The store is signed, and its private key is not at hand; nothing was written."""


class VaultMissing(StoreError):  # noqa: N818 - it states a fact
    """Payloads are encrypted, and the key that opens them is not at hand; nothing was written."""


class Conflict(StoreError):  # noqa: N818 - the glossary's word for it
    """The stream has another length than the append expected; nothing was written."""


class Fenced(StoreError):  # noqa: N818 - the glossary's word for it
    """Another epoch owns the run; nothing was written."""


class RunSuspended(BaseException):
    """The run leaves memory; its log has all that is needed to carry on."""


class RunFenced(BaseException):
    """The run's lease was lost; another worker carries it on."""


class NonDurableWarning(UserWarning):
    """A step or an agent was called outside a run: nothing of it is recorded."""
