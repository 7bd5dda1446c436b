"""The deterministic heart: events in, commands out, and nothing else.

No module here reads a clock, opens a file or draws a random number; import-linter and the tidy
tests keep it so. What differs from one execution to the next comes in as an event.
"""

__all__: list[str] = []
