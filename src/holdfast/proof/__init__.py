"""The log as a transparency log: leaves of a Merkle tree, signed heads, proofs, a verifier."""
