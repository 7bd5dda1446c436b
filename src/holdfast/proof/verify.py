"""The verifier: tells whether a log is the one that was signed, and if not, which event is wrong.

It stands alone: it knows the formats (merkle.py, note.py, rotation.py, policy.py) and nothing of
stores, runs or agents. Whatever it is given, it answers with a ``Report``; no exception escapes.

One pass (reading.py) takes in the log from its first leaf to its last and grows a tree beside it.
Where the tree has the size of a signed head, or of a checkpoint that was kept outside, the roots
are compared. A log that is sound needs no more than that.

When a root does not come out, some leaf is not what was signed. Who contradicts whom suggests which
one; another pass puts the recorded hashes in the place of the suspects, and if the signed roots
come out of that, exactly these events were altered. Otherwise what can be said is the *window*: the
events between the last head that matches and the first that does not.

Memory is constant in the number of events; it grows with the number of runs.
"""

from collections.abc import Iterator, Mapping, Sequence

from holdfast.errors import ProofRefused
from holdfast.proof.note import Checkpoint, Note, VerifierKey
from holdfast.proof.policy import Policy
from holdfast.proof.reading import NOBODY, Expected, Reading
from holdfast.proof.report import Finding, Report, Source
from holdfast.proof.rotation import taken_over

__all__ = ["verify"]

FINDINGS_MAX = 100


def verify(source: Source, *, against: Sequence[Note] = (), trust: Policy | None = None) -> Report:
    """Verify a log.

    Args:
        source: The log.
        against: Checkpoints that were kept outside, of any age.
        trust: Whose signatures count; without it, those of the keys that the log itself names.
    """
    report = Report(source.name)
    try:
        _Verification(source, report, against, trust).run()
    except Exception as error:  # noqa: BLE001 - a damaged log may raise anything anywhere
        says = f"it cannot be read to its end: {type(error).__name__}: {error}"
        report.findings.append(Finding("file", says[:500]))
    unique = dict.fromkeys(report.findings)
    report.findings = sorted(unique, key=lambda finding: (finding.index < 0, finding.index))
    del report.findings[FINDINGS_MAX:]
    return report


class _Verification:
    """One verification: keys and checkpoints, then passes over the leaves, then conclusions."""

    def __init__(
        self, source: Source, report: Report, against: Sequence[Note], trust: Policy | None
    ) -> None:
        self.source = source
        self.report = report
        self.trust = trust
        self.outside = against
        self.keys: list[tuple[VerifierKey, int]] = []
        self.expected: list[Expected] = []

    def find(self, kind: str, what: str) -> None:
        self.report.findings.append(Finding(kind, what))

    def run(self) -> None:
        """Do it all."""
        self.report.findings += self.source.check()
        self.learn_keys()
        if not self.keys:
            return
        self.learn_checkpoints()
        first = self.read({})
        self.tell(first)
        for suspects in _suspects(first):
            second = self.read(suspects)
            if not second.bad:
                self.report.findings += _altered(first, second, suspects)
                return
        self.report.findings += [*first.findings, *_disputed(first), *_mismatched(first)]

    def read(self, instead: Mapping[int, bytes]) -> Reading:
        """Read the log once."""
        return Reading(self.source, self.signer_at, self.expected, instead).run()

    def learn_keys(self) -> None:
        """Read who signs, and check that each one was handed the log by the one before."""
        for text, since, statement in self.source.signers():
            try:
                self.keys.append((self.learn_key(text, since, statement), since))
            except ProofRefused as error:
                self.find("key", f"signer {len(self.keys) + 1} is not what it was: {error}")
                break
            self.report.keys.append(text)
        if not self.keys:
            if not self.report.findings:
                what = "the log is not signed: nothing shows what it was. Hint: holdfast key new"
                self.find("key", what)
        elif self.trust and self.trust.logs:
            self.report.trusted = any(key in self.trust.logs for key, _ in self.keys)
            if not self.report.trusted:
                newest = self.keys[-1][0]
                self.find("key", f"the log is signed by {newest}, which the policy does not know")

    def learn_key(self, text: str, since: int, statement: str) -> VerifierKey:
        """Return a signer's key.

        Raises:
            ProofRefused: the signer before did not hand over to it.
        """
        key = VerifierKey.parse(text)
        if self.keys:
            last = self.keys[-1][0]
            head, heir = taken_over(last, statement)
            if (heir, head.size) != (key, since):
                raise ProofRefused(f"{last} handed over to {heir} behind event {head.size}")
            says = f"the log was handed over behind {head.size} other events"
            self.expected.append(Expected(head.size, head.root, says, own=True))
        elif since or statement:
            raise ProofRefused("the one before it is missing")
        return key

    def signer_at(self, size: int) -> VerifierKey:
        """Return whose signature a head of some size must have; the first one's of no events."""
        return [key for n, (key, since) in enumerate(self.keys) if not n or since < size][-1]

    def learn_checkpoints(self) -> None:
        """Read the checkpoints that are notes, those from outside and the log's own."""
        witnessed = not self.trust or self.trust.quorum == "none"
        for own, notes in ((False, self.outside), (True, self.source.checkpoints())):
            for note in notes:
                try:
                    head = self.opened(note)
                except ProofRefused as error:
                    self.find("checkpoint", f"the {'log' if own else 'outside'}'s: {error}")
                    continue
                says = f"the checkpoint of {head.size} events has another root"
                if not own:
                    self.report.against += 1
                    says = (
                        f"split view: by a checkpoint kept outside, the first {head.size} events"
                        " were others"
                    )
                self.expected.append(Expected(head.size, head.root, says, own))
                witnessed = witnessed or bool(self.trust and self.trust.witnessed(note))
        if not witnessed:
            self.find("checkpoint", "none has the cosignatures that the policy asks for")

    def opened(self, note: Note) -> Checkpoint:
        """Return a checkpoint that the log's signer has signed.

        Raises:
            ProofRefused: it is another log's, or signed by nobody whom this log names.
        """
        head = Checkpoint.parse(note.text)
        key = self.signer_at(head.size)
        if head.origin != key.name:
            raise ProofRefused(f"it is of the log {head.origin!r}, this is {key.name!r}")
        if not note.signed_by(key):
            raise ProofRefused(f"the checkpoint of {head.size} events is not signed by {key}")
        return head

    def tell(self, reading: Reading) -> None:
        """Report how much there was."""
        self.report.events = reading.tree.size
        self.report.runs = reading.runs
        self.report.payloads = reading.payloads
        self.report.erasures = reading.erasures
        self.report.collections = reading.collections
        own = [expected for expected in self.expected if expected.own]
        newest = reading.newest or max(own, default=None)
        if newest:
            origin = self.keys[-1][0].name
            self.report.checkpoint = Checkpoint(origin, newest.size, newest.root)


def _suspects(first: Reading) -> Iterator[dict[int, bytes]]:
    """Yield guesses which leaves were altered, with their hashes before, the likeliest first."""
    if not first.bad:
        return
    sure, every = dict[int, bytes](), dict[int, bytes]()
    for index, disputes in first.disputes.items():
        disputes.sort(key=lambda dispute: dispute.accuser != NOBODY)
        every[index] = disputes[0].recorded
        clean = [one.recorded for one in disputes if one.accuser not in first.disputes]
        if clean:
            sure[index] = clean[0]
    if sure:
        yield sure
    if every != sure:
        yield every


def _altered(first: Reading, second: Reading, suspects: Mapping[int, bytes]) -> Iterator[Finding]:
    """Yield the events that were found out, and whatever else is wrong."""
    for index, recorded in suspects.items():
        one = first.disputes[index][0]
        run, seq = second.named.get(index, (one.run, one.seq))
        says = f"altered: its leaf has the hash {one.found.hex()}, signed was {recorded.hex()}"
        yield Finding("event", says, index, run, seq)
    yield from (finding for finding in second.findings if finding.index not in suspects)
    yield from _disputed(second)


def _disputed(reading: Reading) -> Iterator[Finding]:
    """Yield who contradicts leaves without being proved right."""
    for index, disputes in reading.disputes.items():
        for one in disputes:
            says = f"{one.where} has the hash {one.recorded.hex()} for it, it has {one.found.hex()}"
            kind = "tile" if one.accuser == NOBODY else "event"
            yield Finding(kind, says, index, one.run, one.seq)


def _mismatched(reading: Reading) -> Iterator[Finding]:
    """Yield the first root of the log's own that did not come out, and each one from outside."""
    size = reading.tree.size
    own = [expected for expected in reading.bad if expected.own]
    for expected in (*own[:1], *(other for other in reading.bad if not other.own)):
        if expected.size > size:
            who = "signed" if expected.own else "in a checkpoint kept outside"
            yield Finding("log", f"truncated: {expected.size} events are {who}, here are {size}")
        elif expected.own:
            window = f"{reading.good + 1} to {expected.size} of the log"
            yield Finding("log", f"{expected.says}: events {window} were others when it was signed")
        else:
            yield Finding("log", expected.says)
