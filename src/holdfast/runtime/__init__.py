"""The imperative shell: it carries out what machines ask for, on asyncio, against a store."""

__all__: list[str] = []
