"""What a verifier reads and what it says: a log as a ``Source``, ``Finding`` and ``Report``."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from holdfast.proof.note import Checkpoint, Note

__all__ = ["Entry", "Finding", "Payload", "Report", "SignedHead", "Source"]


class Payload(NamedTuple):
    """What stands beside a leaf; ``lost`` says why it cannot be had, if it cannot."""

    salt: bytes
    data: bytes
    lost: str = ""


class Entry(NamedTuple):
    """A leaf as it was found; its index is how many came before it."""

    leaf: bytes
    payload: Payload | None
    place: tuple[str, int] | None = None
    """Run and seq, as the leaf's surroundings have them; None when they say nothing."""
    fault: str = ""
    """What is wrong with these surroundings."""


class SignedHead(NamedTuple):
    """A head with what should be its signature."""

    size: int
    root: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was signed."""

    kind: str
    """``event``, ``payload``, ``checkpoint``, ``tile``, ``run``, ``key``, ``log`` or ``file``."""
    what: str
    index: int = -1
    """Of the event in the log, from 0; -1 where there is none to name."""
    run: str = ""
    seq: int = 0

    def __str__(self) -> str:
        place = f"event {self.seq} of run {self.run!r}" if self.run else ""
        if self.index >= 0:
            place += f" (index {self.index})" if place else f"index {self.index}"
        return f"{place}: {self.what}" if place else self.what


class Source(Protocol):
    """A log to verify. Any of its methods may raise anything at all."""

    name: str

    def check(self) -> Iterator[Finding]:
        """Yield what is wrong with the container itself."""
        ...

    def signers(self) -> Iterable[tuple[str, int, str]]:
        """Return (key, since, statement) of those who signed, the first one first."""
        ...

    def heads(self) -> Iterator[SignedHead]:
        """Yield the signed heads, by size."""
        ...

    def checkpoints(self) -> Iterable[Note]:
        """Return the heads that are kept as notes."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Yield the leaves in order."""
        ...

    def tile(self, level: int, n: int, width: int) -> tuple[bytes, bytes] | None:
        """Return (hashes, root) of a tile; the root may be empty, None says that it is not there.

        Raises:
            LookupError: tiles of that kind are not kept here.
        """
        ...

    def rows(self) -> Iterator[tuple[str, int, str]]:
        """Yield (run, seq, leaf hash) of the last event of each run, where that is kept."""
        ...


@dataclass(slots=True)
class Report:
    """What came of a verification; ``findings`` is empty when all is well."""

    name: str
    events: int = 0
    runs: int = 0
    payloads: dict[str, int] = field(default_factory=dict)
    """How many are ``ok``, ``none``, ``sealed`` (no key at hand), ``erased``, ``collected`` or
    ``missing``."""
    erasures: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Subject → (index of the event that tells of its erasure, how many payloads that erased)."""
    collections: dict[int, int] = field(default_factory=dict)
    """Index of each event that tells of a collection → how many payloads went by it."""
    checkpoint: Checkpoint | None = None
    """The newest head."""
    keys: list[str] = field(default_factory=list)
    against: int = 0
    """How many checkpoints from outside were compared."""
    trusted: bool = False
    """Whether a policy said whose key signs, rather than the log itself."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
