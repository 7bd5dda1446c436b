"""`holdfast verify`: whether a log is the one that was signed, and if not, which event is wrong."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from holdfast.app import vault_file
from holdfast.cli.fsck import store_path
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.cli.text import clean
from holdfast.errors import ProofRefused, StoreRefused, UsageError, VaultMissing
from holdfast.proof.note import Note, VerifierKey
from holdfast.proof.policy import Policy
from holdfast.proof.report import Report
from holdfast.proof.verify import verify
from holdfast.stores.vault import SubjectKey, Vault, place, sealed_for

if TYPE_CHECKING:
    from holdfast.proof.stored import Opener

__all__ = ["read_note", "read_policy", "verify_command"]


@command
async def verify_command(
    shell: Shell,
    *,
    log: Annotated[
        str,
        typer.Argument(metavar="[FILE|URL|DIR]", help="The log: a store file, or a published log."),
    ] = "",
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="CHECKPOINT", help="A checkpoint that was kept outside."),
    ] = None,
    trust: Annotated[
        str,
        typer.Option(
            "--trust", metavar="POLICY", help="Whose signature counts: a policy, or one key."
        ),
    ] = "",
) -> int:
    """Tell whether the log is the one that was signed.

    Exits with 1 and names the first event that is wrong. Without --trust the key is the one that
    the log itself names, and without --against an older copy of the whole log passes: keep the key
    and a checkpoint elsewhere.
    """
    notes = tuple(read_note(path) for path in against or ())
    policy = read_policy(trust) if trust else None
    log = log or shell.store_url
    if log.endswith(".json"):
        return _verify_event(shell, Path(log), policy)
    report = _verify(log, notes, policy)
    if shell.as_json:
        shell.emit(_as_json(report))
    else:
        _show(shell, report, kept=bool(notes))
    return DONE if report.ok else FAILED


def _verify(log: str, against: Sequence[Note], trust: Policy | None) -> Report:
    if log.startswith(("http://", "https://")) or Path(log).is_dir():
        from holdfast.proof.tiles_source import TilesSource, fetch_from  # noqa: PLC0415 - if wanted

        return verify(TilesSource(fetch_from(log), log), against=against, trust=trust)
    if log.startswith(("postgresql://", "postgres://")):
        from holdfast.proof.postgres_source import verify_database  # noqa: PLC0415 - if wanted

        return verify_database(log, against=against, trust=trust, opener=_opener(vault_file(None)))
    from holdfast.proof.sqlite_source import verify_file  # noqa: PLC0415 - if wanted

    path = store_path(log)
    return verify_file(path, against=against, trust=trust, opener=_opener(vault_file(path)))


def _opener(vault_path: Path) -> "Opener | None":
    """Return what opens encrypted payloads, None when their vault is not at hand."""
    if not vault_path.exists():
        return None
    vault, keys = Vault(vault_path), dict[bytes, SubjectKey]()

    def open_sealed(run: str, seq: int, wrapped: bytes, sealed: bytes) -> tuple[bytes, bytes]:
        try:
            sub = sealed_for(sealed)
            if wrapped not in keys:
                keys[wrapped] = SubjectKey(sub, vault.unwrap(sub, wrapped))
            return keys[wrapped].open(sealed, place("event", run, seq))
        except VaultMissing as error:
            raise LookupError(str(error)) from error
        except StoreRefused as error:
            raise ValueError(str(error)) from error

    return open_sealed


def _verify_event(shell: Shell, event: Path, trust: Policy | None) -> int:
    from holdfast.proof.event_proof import verify_event  # noqa: PLC0415 - if wanted

    if trust is None:
        raise UsageError(f"{event}: whose log? Hint: --trust KEY, as `holdfast key show` prints it")
    try:
        proof_text = event.with_name(f"{event.name}.tlog-proof").read_bytes()
        proof, head = verify_event(event.read_bytes(), proof_text, trust)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    except ProofRefused as error:
        if shell.as_json:
            shell.emit({"event": str(event), "ok": False, "why": str(error)})
        else:
            shell.show(Text(clean(f"{event}: NOT proved: {error}"), "red"))
        return FAILED
    facts = {"index": proof.index, "origin": head.origin, "size": head.size}
    if shell.as_json:
        shell.emit({"event": str(event), "ok": True, **facts})
    else:
        said = f"index {proof.index} of {head.size} events of the log {head.origin}"
        shell.show(f"{event}: it is {said}")
    return DONE


def read_note(path: Path) -> Note:
    """Read a checkpoint's file.

    Raises:
        UsageError: it cannot be read, or is no note.
    """
    try:
        return Note.parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ProofRefused as error:
        raise UsageError(f"{path}: {error}") from error


def read_policy(text: str) -> Policy:
    """Read a policy's file, or a key that is to be the only one.

    Raises:
        UsageError: it is neither.
    """
    try:
        if not Path(text).exists():
            return Policy(logs=[VerifierKey.parse(text)], quorum="none")
        return Policy.parse(Path(text).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ProofRefused) as error:
        raise UsageError(f"--trust {text}: {error}") from error


def _as_json(report: Report) -> dict[str, object]:
    head = report.checkpoint
    return {
        "log": report.name,
        "ok": report.ok,
        "events": report.events,
        "runs": report.runs,
        "payloads": report.payloads,
        "erasures": {
            sub: {"index": index, "payloads": payloads}
            for sub, (index, payloads) in report.erasures.items()
        },
        "collections": [
            {"index": index, "payloads": payloads} for index, payloads in report.collections.items()
        ],
        "checkpoint": head and {"origin": head.origin, "size": head.size, "root": head.root.hex()},
        "keys": report.keys,
        "trusted": report.trusted,
        "against": report.against,
        "findings": [asdict(finding) for finding in report.findings],
    }


def _show(shell: Shell, report: Report, *, kept: bool) -> None:
    for finding in report.findings:
        shell.show(Text(clean(str(finding)), "red"))
    counts = f"{report.events} events of {report.runs} runs"
    if not report.ok:
        verdict = "NOT what was signed" if report.keys else "NOT verified"
        shell.show(f"{report.name}: {verdict} ({counts} read)")
        return
    head = report.checkpoint
    assert head is not None
    shell.show(f"{report.name}: {counts}, all as they were signed")
    sealed = f", {n} sealed (no key at hand)" if (n := report.payloads["sealed"]) else ""
    none = f"{report.payloads['none']} events have none"
    shell.show(f"payloads: {report.payloads['ok']} ok{sealed}, {none}")
    for sub, (index, payloads) in report.erasures.items():
        said = f"{payloads} payloads of subject {sub!r}: erased by event {index} of the log"
        shell.show(clean(said))
    for index, payloads in report.collections.items():
        shell.show(f"{payloads} payloads of runs that ended long ago: collected by event {index}")
    whose = "trusted" if report.trusted else "as the log itself says"
    shell.show(f"checkpoint: {head.size} events, root {head.root.hex()}")
    shell.show(f"signed by: {report.keys[-1]} ({whose})")
    if kept:
        shell.show(f"in agreement with {report.against} checkpoint(s) kept outside")
    if not (kept and report.trusted):
        shell.note(
            "An older copy, or one signed anew by whoever has the key, would pass too."
            " Hint: --trust KEY and --against CHECKPOINT, both kept elsewhere"
        )
