"""One pass over a log: what its leaves add up to, and who contradicts whom.

A leaf's hash is recorded elsewhere too: in the ``prev`` of the run's next event, in a tile, in the
run's row. Who records another hash than the leaf has is in *dispute* with it. A pass may be told to
take other hashes *instead* of some leaves': then these leaves' contents count for nothing, and what
others record of them is compared with the hash that they are said to have had.
"""

import hmac
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.proof.merkle import HASH_BYTES, TILE_HASHES, Tree, leaf_hash
from holdfast.proof.note import Checkpoint, VerifierKey
from holdfast.proof.report import Entry, Finding, Payload, SignedHead, Source

__all__ = ["NOBODY", "Dispute", "Expected", "Reading"]

LEAF_BYTES_MAX = 65_535
KEPT_MAX = 1_000
"""Findings and disputes beyond so many are not remembered."""
NOBODY = -1
"""Who accuses a leaf when it is no other leaf."""
_FIRST = "0" * 64
_ERASED, _COLLECTED = "subject.erased", "payloads.collected"
_ENDS = {"run.succeeded", "run.failed", "run.cancelled"}
_HASH = re.compile("[0-9a-f]{64}")


class Expected(NamedTuple):
    """A root that the log must have at some size, and what to say if it has another."""

    size: int
    root: bytes
    says: str
    own: bool
    """Whether the log itself says so, rather than somebody outside."""


class Dispute(NamedTuple):
    """Somebody records another hash for a leaf than it has."""

    recorded: bytes
    found: bytes
    accuser: int
    """The index of the leaf that says so, or NOBODY."""
    run: str
    seq: int
    where: str
    """Who says so, in words."""


class _Facts(NamedTuple):
    """What a verifier reads of a leaf."""

    run: str
    seq: int
    prev: str
    payload: str
    sub: str
    """On whose behalf, empty for nobody's: then the payload is encrypted."""
    erases: str
    """The subject whose erasure it tells of, empty for none."""
    collects: int
    """The time before which runs must have ended of which payloads may be gone; 0 for none."""
    ended_at: int
    """When its run ended, if this is its end, else 0."""


@dataclass(slots=True)
class _Gone:
    """The payloads of a run, and of one subject or nobody, that are not there."""

    first: tuple[int, str, int]
    """Index, run, seq."""
    count: int = 0
    last: int = -1
    """The index of the last."""
    ended: tuple[int, int] = (-1, 0)
    """The index of the event that ended the run, and when that was."""


@dataclass(slots=True)
class _Subject:
    """What was met of a subject so far."""

    last_there: tuple[int, str, int] = (-1, "", 0)
    """The last payload that is there."""
    erased: int = -1
    """The index of the event that tells of the erasure."""


class _Last(NamedTuple):
    """The last event of a run so far."""

    seq: int
    hash: bytes
    at: int
    """Its index in the log."""


class Reading:
    """One pass.

    Args:
        source: The log.
        signer_at: Whose signature a head of some size must have.
        expected: Roots to compare with.
        instead: Index → hash, of leaves that are to be taken for altered.
    """

    def __init__(
        self,
        source: Source,
        signer_at: Callable[[int], VerifierKey],
        expected: Sequence[Expected],
        instead: Mapping[int, bytes],
    ) -> None:
        self.tree = Tree()
        self.findings: list[Finding] = []
        self.payloads = {"ok": 0, "none": 0, "sealed": 0, "erased": 0, "collected": 0}
        self.payloads["missing"] = 0
        self.erasures: dict[str, tuple[int, int]] = {}
        """Subject → (index of the event that tells of its erasure, payloads that it erased)."""
        self.collections: dict[int, int] = {}
        """Index of each event that tells of a collection → how many payloads it accounts for."""
        self._subjects: dict[str, _Subject] = {}
        self._gone: dict[str, dict[str, _Gone]] = {}
        """Run → subject, empty for nobody → what is not there."""
        self._collects: list[tuple[int, int]] = []
        """(index, before), in order."""
        self.last: dict[str, _Last] = {}
        self.disputes: dict[int, list[Dispute]] = {}
        self.bad: list[Expected] = []
        """Roots that did not come out, the smallest size first."""
        self.good = 0
        """The size of the last head of the log's own that did."""
        self.newest: SignedHead | None = None
        self.runs = 0
        self.named: dict[int, tuple[str, int]] = {}
        """Run and seq of leaves in ``instead``, as their successors tell."""
        self._source = source
        self._signer_at = signer_at
        self._expected = sorted(expected, reverse=True)
        self._instead = instead
        self._missed: dict[str, int] = {}
        """Recorded hash → index, of leaves in ``instead`` whose run is unknown."""
        self._recent: list[tuple[str, int]] = []
        """Run and seq of the leaves behind the last full tile."""
        self._heads: Iterator[SignedHead] = iter(())
        self._head: SignedHead | None = None
        self._due = 0
        """The size at which a root is to be compared next."""

    def run(self) -> "Reading":
        """Read the log."""
        self._heads = self._source.heads()
        self._head = next(self._heads, None)
        self._meet()
        take, tree = self._take, self.tree
        for entry in self._source.entries():
            take(entry, tree.size)
            if tree.size >= self._due:
                self._meet()
        self.runs = len(self.last)
        self._compare_right_edge()
        self._compare_gone()
        self._compare_subjects()
        known = False
        for row in self._source.rows():
            known = True
            self._compare_row(*row)
        for run in self.last if known else ():
            self._find("run", f"run {run!r} has events and no row", -1, run)
        self._finish()
        return self

    def _find(self, kind: str, what: str, index: int = -1, run: str = "", seq: int = 0) -> None:
        if len(self.findings) < KEPT_MAX:
            self.findings.append(Finding(kind, what, index, run, seq))

    def _dispute(self, index: int, dispute: Dispute) -> None:
        if len(self.disputes) < KEPT_MAX or index in self.disputes:
            self.disputes.setdefault(index, []).append(dispute)

    # Roots.

    def _meet(self) -> None:
        """Compare the roots that are due at this size."""
        size = self.tree.size
        while self._head and self._head.size <= size:
            self._check_head(self._head)
            self._head = next(self._heads, None)
        while self._expected and self._expected[-1].size <= size:
            expected = self._expected.pop()
            if expected.root != self.tree.root():
                self.bad.append(expected)
            elif expected.own:
                self.good = size
        due = [next_.size for next_ in (self._head, *self._expected[-1:]) if next_]
        self._due = min(due, default=sys.maxsize)

    def _check_head(self, head: SignedHead) -> None:
        """Check a head's root and signature, and tell a damaged head from a damaged log."""
        size, root = self.tree.size, self.tree.root()
        key = self._signer_at(size)
        damaged = f"the signed head of {head.size} events is not what it was"
        if head.size != size:
            self._find("checkpoint", f"{damaged}: there is no such size")
        elif key.signed(Checkpoint(key.name, size, head.root).text(), head.signature):
            self.newest = head
            if head.root == root:
                self.good = size
            else:
                says = f"the signed head of {size} events has another root"
                self.bad.append(Expected(size, head.root, says, own=True))
        elif head.root == root:
            self._find("checkpoint", f"{damaged}: its signature is not one by {key}")
        elif key.signed(Checkpoint(key.name, size, root).text(), head.signature):
            self._find("checkpoint", f"{damaged}: its root was altered")
        else:
            self._find("checkpoint", f"{damaged}: its root and its signature do not match")

    def _finish(self) -> None:
        """Look at what is due behind the end of the log, and at what covers its end."""
        size = self.tree.size
        while head := self._head:
            key = self._signer_at(head.size)
            if key.signed(Checkpoint(key.name, head.size, head.root).text(), head.signature):
                self.newest = head
                self.bad.append(Expected(head.size, head.root, "a signed head", own=True))
            else:
                damaged = f"the signed head of {head.size} events is not what it was"
                self._find("checkpoint", f"{damaged}: it is not signed by {key}")
            self._head = next(self._heads, None)
        self.bad += reversed(self._expected)
        damaged_heads = any(finding.kind == "checkpoint" for finding in self.findings)
        if self.good < size and not (self.bad or damaged_heads):
            says = f"signed heads cover {self.good} of {size} events"
            self._find("log", f"{says}: nothing shows what those behind them were")

    # Leaves.

    def _take(self, entry: Entry, index: int) -> None:
        """Take in one leaf."""
        facts = _facts(entry.leaf)
        run, seq = entry.place or (("", 0) if isinstance(facts, str) else facts[:2])
        if entry.fault:
            self._find("file", entry.fault, index, run, seq)
        instead = self._instead.get(index) if self._instead else None
        if instead is None:
            hash_ = leaf_hash(entry.leaf)
            self.tree.append(hash_)
            if isinstance(facts, str):
                self._find("event", facts, index, run, seq)
            else:
                if entry.place and entry.place != facts[:2]:
                    says = f"it is kept as event {seq} of run {run!r}, and says otherwise"
                    self._find("event", says, index, run, seq)
                    if self._is_next(run, seq):  # then it is the leaf that was altered
                        facts = facts._replace(run=run, seq=seq)
                self._follow(index, hash_, facts)
                self._check_payload(index, facts, entry.payload)
                if facts.erases or facts.collects or facts.ended_at:
                    self._note_told(index, facts)
        else:
            self.tree.append(instead)
            if entry.place:
                self.last[run] = _Last(seq, instead, index)
            else:
                self._missed[instead.hex()] = index
        self._recent.append((run, seq))
        if not (index + 1) % TILE_HASHES:
            self._compare_full()
            self._recent.clear()

    def _note_told(self, index: int, facts: _Facts) -> None:
        """Take note of what bears on payloads that are not there."""
        if facts.erases:
            self._subjects.setdefault(facts.erases, _Subject()).erased = index
        if facts.collects:
            self._collects.append((index, facts.collects))
            self.collections[index] = 0
        if facts.ended_at and facts.run in self._gone:
            for gone in self._gone[facts.run].values():
                gone.ended = index, facts.ended_at

    def _is_next(self, run: str, seq: int) -> bool:
        last = self.last.get(run)
        return seq == (last.seq + 1 if last else 1)

    def _follow(self, index: int, hash_: bytes, facts: _Facts) -> None:
        """Check that an event follows the one before it in its run."""
        run, seq, prev = facts[:3]
        last = self.last.get(run)
        self.last[run] = _Last(seq, hash_, index)
        if prev in self._missed:
            self.named[self._missed[prev]] = (run, seq - 1)
        elif last is None:
            if seq != 1:
                self._find("event", "those before it in its run are missing", index, run, seq)
            elif prev != _FIRST:
                self._find("event", "it is a run's first and follows another", index, run, seq)
        elif seq != last.seq + 1:
            says = f"out of order: it comes behind event {last.seq} of its run"
            self._find("event", says, index, run, seq)
        elif prev != last.hash.hex():
            where = f"event {seq} (index {index})"
            recorded = bytes.fromhex(prev)
            dispute = Dispute(recorded, last.hash, index, run, last.seq, where)
            self._dispute(last.at, dispute)

    def _check_payload(self, index: int, facts: _Facts, payload: Payload | None) -> None:
        """Check that a payload is what its leaf commits to."""
        if not facts.payload:
            self.payloads["none"] += 1
            if payload:
                self._find("payload", "it has one that its leaf does not know", index, *facts[:2])
        elif payload is None:
            of_run = self._gone.setdefault(facts.run, {})
            gone = of_run.setdefault(facts.sub, _Gone((index, *facts[:2])))
            gone.count, gone.last = gone.count + 1, index
        elif payload.lost:
            self.payloads["missing"] += 1
            self._find("payload", f"its payload is missing: {payload.lost}", index, *facts[:2])
        elif "hs256:" + hmac.digest(payload.salt, payload.data, "sha256").hex() == facts.payload:
            self.payloads["ok"] += 1
            self._note_there(index, facts)
        elif facts.sub and _is_sealed(payload.salt + payload.data, facts.sub):
            self.payloads["sealed"] += 1
            self._note_there(index, facts)
        else:
            self.payloads["missing"] += 1
            says = "its payload was altered: it is not what the leaf commits to"
            self._find("payload", says, index, *facts[:2])

    def _note_there(self, index: int, facts: _Facts) -> None:
        if facts.sub:
            self._subjects.setdefault(facts.sub, _Subject()).last_there = (index, *facts[:2])

    def _compare_gone(self) -> None:
        """A payload may be gone if a later event says that it was erased, or collected."""
        for run, of_run in self._gone.items():
            for sub, gone in of_run.items():
                told = self._subjects[sub].erased if sub in self._subjects else -1
                if told > gone.last:
                    self.payloads["erased"] += gone.count
                    of_subject = self.erasures.get(sub, (told, 0))[1]
                    self.erasures[sub] = told, of_subject + gone.count
                elif (told := self._collected_by(run, gone)) >= 0:
                    self.payloads["collected"] += gone.count
                    self.collections[told] += gone.count
                else:
                    self.payloads["missing"] += gone.count
                    unsaid = f"no later event says that {sub!r} was erased"
                    why = unsaid if sub else "it is not there"
                    self._find("payload", f"its payload is missing: {why}", *gone.first)

    def _collected_by(self, run: str, gone: _Gone) -> int:
        """Return the index of an event that says that a run's payloads may be gone, or NOBODY.

        It may stand before the run's end: an import brings old runs late.
        """
        index, at = gone.ended
        if index < 0 or self.last[run].at != index or run.startswith("$"):
            return NOBODY
        by = [told for told, before in self._collects if before > at]
        return next((told for told in by if told > index), by[-1] if by else NOBODY)

    def _compare_subjects(self) -> None:
        """Of a subject that was erased nothing may be there."""
        for sub, subject in self._subjects.items():
            if subject.erased >= 0:
                self.erasures.setdefault(sub, (subject.erased, 0))
                index, run, seq = subject.last_there
                if index >= 0:
                    says = f"its payload is there, yet event {subject.erased} says it is erased"
                    self._find("payload", says, index, run, seq)

    # What is recorded of leaves.

    def _compare_full(self) -> None:
        for level, n, root, hashes in self.tree.take_full():
            self._compare(level, n, hashes, root)

    def _compare_right_edge(self) -> None:
        """Compare the tiles that are not full."""
        level, size = 0, self.tree.size
        while size:
            size, width = divmod(size, TILE_HASHES)
            if width:
                self._compare(level, size, self.tree.tail(level), b"")
            level += 1

    def _compare(self, level: int, n: int, hashes: bytes, root: bytes) -> None:
        """Compare a tile with what is kept of it; one of level 0 records leaf hashes."""
        try:
            kept = self._source.tile(level, n, len(hashes) // HASH_BYTES)
        except LookupError:
            return
        where = f"tile {level}/{n}"
        if kept is None:
            self._find("tile", f"{where} is missing")
        elif kept[1] and kept[1] != root and kept[0] == hashes:
            self._find("tile", f"{where} is not what it was: its root is another")
        elif len(kept[0]) != len(hashes) or (level and kept[0] != hashes):
            self._find("tile", f"{where} is not what it was: its hashes are others")
        elif kept[0] != hashes:
            for at in range(len(hashes) // HASH_BYTES):
                part = slice(at * HASH_BYTES, (at + 1) * HASH_BYTES)
                if hashes[part] != kept[0][part]:
                    index = n * TILE_HASHES + at
                    dispute = Dispute(kept[0][part], hashes[part], NOBODY, *self._recent[at], where)
                    self._dispute(index, dispute)

    def _compare_row(self, run: str, seq: int, head: str) -> None:
        """Compare the end of a run with its row."""
        last = self.last.pop(run, None)
        if last is None or last.seq != seq:
            has = f"its last event here is {last.seq}" if last else "there is none of it here"
            self._find("run", f"run {run!r} should have {seq} events: {has}", -1, run, seq)
        elif not _HASH.fullmatch(head):
            self._find(
                "run", f"the row of run {run!r} has no hash for its last event", -1, run, seq
            )
        elif last.hash.hex() != head:
            recorded = bytes.fromhex(head)
            dispute = Dispute(recorded, last.hash, NOBODY, run, seq, f"the row of run {run!r}")
            self._dispute(last.at, dispute)


_decode = json.JSONDecoder().raw_decode


def _facts(leaf: bytes) -> _Facts | str:
    """Return what matters of a leaf, or what is wrong with it."""
    try:
        text = leaf.decode()
        facts, end = _decode(text)
        run, seq, prev = facts["run"], facts["seq"], facts["prev"]
        payload = facts.get("payload", "")
        sub = facts.get("sub", "")
        kind = facts["type"]
        erases = facts["subject"] if kind == _ERASED else ""
        # Nobody can say it of what is still to end.
        collects = min(facts["before"], facts["at"]) if kind == _COLLECTED else 0
        ended_at = facts["at"] if kind in _ENDS else 0
        sound = (
            type(run) is str
            and type(seq) is int
            and seq > 0
            and type(payload) is str
            and type(sub) is str
            and type(erases) is str
            and type(collects) is int
            and type(ended_at) is int
            and _HASH.fullmatch(prev)
            and type(facts["v"]) is int
            and type(kind) is str
            and text[end:] == "\n"
            and len(leaf) <= LEAF_BYTES_MAX
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its leaf is not an event: {type(error).__name__}: {error}"[:200]
    if not sound:
        return "its leaf is not an event as it should be"
    return _Facts(run, seq, prev, payload, sub, erases, collects, ended_at)


def _is_sealed(data: bytes, sub: str) -> bool:
    """Tell whether bytes look like an encrypted payload of a subject: more cannot be seen."""
    name = sub.encode("utf-8", "surrogatepass")
    return (
        data[:1] == b"\1"
        and data[2:4] == len(name).to_bytes(2, "little")
        and data[4 : 4 + len(name)] == name
    )
