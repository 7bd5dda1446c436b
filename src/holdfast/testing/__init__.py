"""What users test with: the conformance suite for stores, and streams to feed it.

These modules need ``pip install holdfast[test]``, and nothing that runs an agent imports them.
"""
