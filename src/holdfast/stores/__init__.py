"""The stores: each keeps the contract of ``holdfast.ports.Store``, and none knows of another."""
