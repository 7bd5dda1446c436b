"""The `holdfast` command: thin, rendered with typer and rich."""
