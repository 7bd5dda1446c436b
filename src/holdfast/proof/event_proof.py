"""One event, verified alone: its leaf and a ``.tlog-proof`` beside it, nothing of the log."""

from holdfast.errors import ProofRefused
from holdfast.proof.merkle import is_included, leaf_hash
from holdfast.proof.note import Checkpoint, EventProof
from holdfast.proof.policy import Policy

__all__ = ["verify_event"]


def verify_event(leaf: bytes, proof: bytes, trust: Policy) -> tuple[EventProof, Checkpoint]:
    """Check that an event is in a log that a trusted key has signed.

    Raises:
        ProofRefused: it is not, or what should be a proof is none.
    """
    found = EventProof.parse(proof)
    head = Checkpoint.parse(found.checkpoint.text)
    keys = [key for key in trust.logs if key.name == head.origin]
    if not any(found.checkpoint.signed_by(key) for key in keys):
        raise ProofRefused(
            f"the checkpoint of {head.origin!r} ({head.size} events) is signed by no trusted key"
        )
    if not trust.witnessed(found.checkpoint):
        raise ProofRefused("the checkpoint lacks the cosignatures that the policy asks for")
    if not is_included(leaf_hash(leaf), found.index, head.size, found.hashes, head.root):
        raise ProofRefused(
            f"the event is not number {found.index} of the {head.size} events that were signed"
        )
    return found, head
