"""Trust policies: whose signatures make a checkpoint count (c2sp.org/tlog-policy).

::

    log example.com/agents+5fa8d1e2+AQ…
    witness ann ann.example+0d6f2a11+BA…
    witness bob bob.example+77c0b9e4+BA…
    group people all ann bob
    quorum people
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.errors import ProofRefused
from holdfast.proof.note import COSIGNING, SIGNING, Note, VerifierKey, decode_number

__all__ = ["Policy"]

_NONE = "none"
_NAME, _KEY, _RULE = 1, 2, 2


@dataclass(slots=True)
class Policy:
    """Logs, witnesses, groups of witnesses, and which of them must have cosigned."""

    logs: list[VerifierKey] = field(default_factory=list)
    witnesses: dict[str, VerifierKey] = field(default_factory=dict)
    groups: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """Name → how many of which members."""
    quorum: str = ""

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read a policy.

        Raises:
            ProofRefused: a line is not one of a policy, or there is not one quorum.
        """
        policy = cls()
        for number, line in enumerate(text.split("\n"), 1):
            words = line.replace("\t", " ").split(" ")
            words = [word for word in words if word]
            if not words or words[0].startswith("#"):
                continue
            try:
                policy._add(words)
            except (ProofRefused, IndexError, ValueError) as error:
                raise ProofRefused(f"line {number} of the policy, {line!r}: {error}") from None
        if not policy.quorum:
            raise ProofRefused("a policy without a quorum line. Hint: quorum none")
        return policy

    def _add(self, words: Sequence[str]) -> None:
        match words[0]:
            case "log":
                self.logs.append(_key(words[1], SIGNING, self.logs))
            case "witness":
                known = list(self.witnesses.values())
                self._new(words[_NAME])
                self.witnesses[words[_NAME]] = _key(words[_KEY], COSIGNING, known)
            case "group":
                self._new(words[_NAME])
                members = tuple(words[_RULE + 1 :])
                inside = [name for _, names in self.groups.values() for name in names]
                for name in members:
                    self._known(name)
                    if name in inside or members.count(name) > 1:
                        raise ProofRefused(f"{name!r} is a member twice")
                counts = {"all": len(members), "any": 1}
                rule = words[_RULE]
                count = counts[rule] if rule in counts else decode_number(rule)
                if not 1 <= count <= len(members):
                    raise ProofRefused(f"{count} of {len(members)} members")
                self.groups[words[_NAME]] = (count, members)
            case "quorum":
                if self.quorum:
                    raise ProofRefused("a second quorum")
                if words[1] != _NONE:
                    self._known(words[1])
                self.quorum = words[1]
            case _:
                raise ProofRefused("expected log, witness, group or quorum")

    def _new(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise ProofRefused(f"{name!r} is taken")

    def _known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise ProofRefused(f"{name!r} stands for nobody so far")

    def witnessed(self, checkpoint: Note) -> bool:
        """Tell whether those who must have cosigned a checkpoint have."""
        return self.quorum == _NONE or self._has(self.quorum, checkpoint)

    def _has(self, name: str, checkpoint: Note) -> bool:
        if name in self.witnesses:
            return checkpoint.signed_by(self.witnesses[name])
        count, members = self.groups[name]
        return sum(self._has(member, checkpoint) for member in members) >= count


def _key(text: str, kind: int, known: Sequence[VerifierKey]) -> VerifierKey:
    key = VerifierKey.parse(text)
    if key.kind != kind:
        raise ProofRefused(f"a key of kind {key.kind}, expected {kind}")
    if any(key.public == other.public for other in known):
        raise ProofRefused("the same key twice")
    return key
