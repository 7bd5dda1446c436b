"""From answers to a page: a row a goal, tables of the contestants, between markers in the docs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Goal", "goals", "page", "write"]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
OURS, FLOOR = "holdfast SQLite", "floor SQLite"
PEER_LIMITS = (("Restate", 6), ("LangGraph SQLite", 35), ("DBOS SQLite", 100))


@dataclass(frozen=True)
class Goal:
    """A row: what is wanted, what was measured, by which command, and whether it is met."""

    number: int
    what: str
    wanted: str
    figure: str
    spread: str
    command: str
    met: bool | None
    """None when it was not measured."""


def goals(answers: dict[str, Any]) -> list[Goal]:
    """Return a row for each goal; what was not measured says so."""
    return [*_speed(answers), *_replays(answers), *_sizes(answers), *_scale(answers)]


def _row(
    number: int,
    what: str,
    figure: dict[str, Any] | None,
    command: str,
    *,
    most: float | None = None,
    least: float | None = None,
    digits: int = 1,
) -> Goal:
    """Return a row of a figure that is to be at most, or at least, something."""
    limit = f"≤ {most:,g}" if most is not None else f"≥ {least:,g}"
    if figure is None:
        return Goal(number, what, limit, "not measured", "", command, None)
    value = figure["median"]
    unit = f" {figure['unit']}" if figure["unit"] else ""
    met = value <= most if most is not None else least is not None and value >= least
    spread = f"{figure['low']:,.{digits}f} to {figure['high']:,.{digits}f}"
    if figure.get("rounds") == 1:
        spread = "one round"
    return Goal(number, what, limit + unit, f"{value:,.{digits}f}{unit}", spread, command, met)


def _get(facts: Any, *path: str) -> Any:
    for name in path:
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts


def _speed(answers: dict[str, Any]) -> Iterator[Goal]:
    command = "canonical.py"
    facts = answers.get("canonical")
    for shape in ("200 x 20", "2000 x 5"):
        figure = _get(facts, "ratios", f"{OURS} / {FLOOR}", shape)
        yield _row(1, f"{shape}, x the floor", figure, command, least=0.5, digits=2)
        for peer, least in PEER_LIMITS:
            figure = _get(facts, "ratios", f"{OURS} / {peer}", shape)
            yield _row(1, f"{shape}, x {peer}", figure, command, least=least)
    ours = _get(facts, "contestants", OURS)
    p50 = _get(ours, "1 x 1000", "p50")
    floor = _get(facts, "contestants", FLOOR, "1 x 1000", "p50")
    if p50 and floor:
        p50 = (
            p50
            | {key: p50[key] / floor["median"] for key in ("median", "low", "high")}
            | {"unit": ""}
        )
    what = "1 x 1000, an effect's p50 x a floor commit's"
    yield _row(2, what, p50 if floor else None, command, most=1.4, digits=2)
    reads = _get(ours, "1 x 1000 reads", "rate")
    yield _row(2, "1 x 1000 reads", reads, command, least=5_000, digits=0)
    yield _row(3, "200 x 20, CPU", _get(ours, "200 x 20", "CPU"), command, most=70, digits=0)


def _replays(answers: dict[str, Any]) -> Iterator[Goal]:
    replay = answers.get("replay")
    yield _row(4, "replay, fed", _get(replay, "feeding"), "replay.py", most=15)
    figure = _get(replay, "reading and feeding")
    yield _row(4, "replay, read and fed", figure, "replay.py", most=15)
    ours = _get(answers.get("recovery"), "contestants", OURS)
    for steps, most in (("2000", 0.5), ("50000", 1.5)):
        figure = _get(ours, steps, "seconds")
        what = f"recovery of {int(steps):,} steps"
        yield _row(4, what, figure, "recovery.py", most=most, digits=2)
    figure = _get(ours, "50000", "memory")
    yield _row(4, "memory for it, results not counted", figure, "recovery.py", most=15)


def _sizes(answers: dict[str, Any]) -> Iterator[Goal]:
    ours = _get(answers.get("canonical"), "contestants", OURS)
    for shape in ("1 x 1000", "200 x 20", "2000 x 5"):
        figure = _get(ours, shape, "bytes")
        yield _row(5, f"{shape}, on disk", figure, "canonical.py", most=1_100, digits=0)
    sizes = _get(answers.get("conversation"), "bytes") or {}
    figure = None
    if "200" in sizes:
        figure = dict.fromkeys(("median", "low", "high"), sizes["200"] / 1e6) | {"unit": "MB"}
    yield _row(5, "conversation, 200 turns, 400 KB", figure, "conversation.py", most=1.3, digits=2)
    figure = None
    if "400" in sizes and "200" in sizes:
        growth = sizes["400"] / sizes["200"]
        figure = dict.fromkeys(("median", "low", "high"), growth) | {"unit": ""}
    what = "400 turns x 200 turns"
    yield _row(5, what, figure, "conversation.py", most=2.2, digits=2)


def _scale(answers: dict[str, Any]) -> Iterator[Goal]:
    parked = answers.get("parked")
    few, many = _get(parked, "1000", "resident"), _get(parked, "100000", "resident")
    figure = None
    if few and many:
        beyond = [many["median"] - few["median"], many["low"] - few["high"]]
        beyond.append(many["high"] - few["low"])
        figure = dict(zip(("median", "low", "high"), beyond, strict=True)) | {"unit": "MB"}
    what = "resident at 100,000 parked runs, less that at 1,000"
    yield _row(6, what, figure, "parked.py", most=2)
    figure = _get(parked, "100000", "due to running")
    yield _row(6, "due to running at 100,000", figure, "parked.py", most=20)
    figure = _get(parked, "100000", "worker start")
    yield _row(6, "a worker starts on 100,000", figure, "parked.py", most=1, digits=2)
    finished = answers.get("finished")
    runs = f"{_get(finished, 'runs') or 1_000_000:,}"
    figure = _get(finished, "worker start")
    yield _row(6, f"a worker starts on {runs} finished", figure, "finished.py", most=1_000)
    for name in ("ls", "show", "show, by a beginning", "why", "claim"):
        yield _row(7, f"{name} at {runs} finished", _get(finished, name), "finished.py", most=20)
    ratio = _get(finished, "append / empty")
    yield _row(7, "an append x one to an empty store", ratio, "finished.py", most=1.3, digits=2)
    lines = _get(finished, "ls --json") or {}
    peaks = [value for key, value in lines.items() if key.startswith("peak")]
    figure = None
    if len(peaks) == 2:
        growth = dict.fromkeys(("median", "low", "high"), peaks[1] - peaks[0])
        figure = growth | {"unit": "MB"}
    what = "ls --json, memory from its first page to its last"
    yield _row(7, what, figure, "finished.py", most=2)
    for name, what, most in (
        ("import", "`import holdfast`", 120),
        ("help", "`holdfast --help`", 150),
    ):
        yield _row(8, what, _get(answers.get("start"), name), "start.py", most=most)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(figure: dict[str, Any] | None, digits: int = 0) -> str:
    return "-" if figure is None else f"{figure['median']:,.{digits}f}"


def _spread(figure: dict[str, Any] | None, digits: int = 0) -> str:
    if figure is None or figure.get("rounds") == 1:
        return _number(figure, digits)
    low, high = (f"{figure[key]:,.{digits}f}" for key in ("low", "high"))
    return f"{_number(figure, digits)} ({low} to {high})"


def page(sitting: dict[str, Any]) -> str:
    """Return a sitting as markdown: goals first, then who took part, then who did not."""
    answers = sitting["answers"]
    said = {True: "met", False: "**missed**", None: "-"}
    rows = [
        [str(g.number), g.what, g.wanted, g.figure, g.spread, f"`{g.command}`", said[g.met]]
        for g in goals(answers)
    ]
    heads = ["", "goal", "wanted", "figure (median)", "spread", "command", ""]
    parts = [_machine(sitting), _table(heads, rows), *_contestants(answers), *_rest(answers)]
    parts += [*_proof(answers), *_fleet(answers)]
    missing = {
        name: why
        for question in ("canonical", "recovery", "fleet")
        for name, why in (_get(answers.get(question), "absent") or {}).items()
    }
    missing |= {question: f"the question failed: {why}" for question, why in sitting["failed"]}
    if missing:
        parts.append(_table(["absent", "why"], [[n, w] for n, w in missing.items()]))
    return "\n\n".join(parts)


def _machine(sitting: dict[str, Any]) -> str:
    facts = sitting["machine"]
    peers = ", ".join(f"{name} {version}" for name, version in facts["peers"].items())
    load = ", ".join(map(str, sitting["load"]))
    sentences = [
        f"Measured by `{sitting['command']}` in {sitting['minutes']:.1f} minutes",
        f"at {sitting['when']}, {sitting['rounds']} rounds where nothing else is said.",
        _rounds_made(sitting),
        f"{facts['machine']}, {facts['system']}, {facts['file system']}, Python {facts['python']},",
        f"SQLite {facts['sqlite']}, PostgreSQL {facts['postgres']}, holdfast {facts['holdfast']}.",
        f"Peers: {peers}. Syncing: {facts['fsync']}.",
        f"Load over 1, 5 and 15 minutes when it began: {load}.",
        sitting["note"],
    ]
    return " ".join(filter(None, sentences))


def _rounds_made(sitting: dict[str, Any]) -> str:
    """Say how many rounds the steps were given, where the machine was too busy for all of them."""
    rate = _get(sitting["answers"], "canonical", "contestants", OURS, "200 x 20", "rate", "rounds")
    if rate is None or rate == sitting["rounds"]:
        return ""
    return f"The machine was too busy for more than {rate} of the steps of everybody."


def _contestants(answers: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of rates, and of what else a step costs."""
    facts = _get(answers.get("canonical"), "contestants") or {}
    recovered = _get(answers.get("recovery"), "contestants") or {}
    shapes = ("1 x 1000", "200 x 20", "2000 x 5", "1 x 1000 reads")
    rows = []
    for name, slots in facts.items():
        cells = [_spread(_get(slots, shape, "rate")) for shape in shapes]
        cells.append(_spread(_get(slots, "200 x 20", "start to result"), 1))
        seconds = [
            _spread(_get(recovered, name, steps, "seconds"), 2)
            for steps in (_get(recovered, name) or {})
            if steps != "50000"
        ]
        rows.append([name, *cells, *(seconds[:1] or ["-"])])
    if rows:
        heads = ["steps/s, median (spread)", *shapes]
        yield _table([*heads, "one step, ms", "recovery, s"], rows)
    rows = []
    for pair, slots in (_get(answers.get("canonical"), "ratios") or {}).items():
        if slots:
            rows.append([pair, *(_spread(slots.get(shape), 2) for shape in shapes[:3])])
    if rows:
        yield _table(["ratio, median (spread)", *shapes[:3]], rows)
    rows = []
    for name, slots in facts.items():
        synced = {key: slot["syncs"] for key, slot in slots.items() if key.startswith("syncs")}
        alone = next((figure for key, figure in synced.items() if key == "syncs 1 x 100"), None)
        among = next((figure for key, figure in synced.items() if key != "syncs 1 x 100"), None)
        p50 = _get(slots, "1 x 1000", "p50")
        cells = [_number(p50, 2), _number(_get(slots, "200 x 20", "CPU"))]
        cells.append(_number(_get(slots, "200 x 20", "CPU, starts included")))
        cells.append(_number(_get(slots, "200 x 20", "bytes")))
        rows.append([name, *cells, _number(alone, 2), _number(among, 2)])
    if rows:
        heads = ["", "p50 at 1 x 1000, ms", "CPU µs/step at 200 x 20", "the same, starts included"]
        heads += ["bytes/step", "syncs/step at 1 x 100", "syncs/step at 20 x 10"]
        yield _table(heads, rows)


def _rest(answers: dict[str, Any]) -> Iterator[str]:
    sizes = _get(answers.get("conversation"), "bytes")
    if sizes:
        texts = answers["conversation"]["text bytes"]
        rows = [[n, f"{texts[n]:,}", f"{size:,}"] for n, size in sizes.items()]
        yield _table(["turns of the conversation", "bytes of text", "bytes on disk"], rows)
    parked = answers.get("parked")
    if parked:
        first = next(iter(parked.values()))
        heads = [f"{name}, {figure['unit']}" for name, figure in first.items()]
        rows = [
            [f"{int(count):,}", *(_spread(figure, 2) for figure in slot.values())]
            for count, slot in parked.items()
        ]
        yield _table(["parked runs", *heads], rows)
    finished = answers.get("finished")
    if finished:
        lines = ", ".join(f"{name}: {value:,}" for name, value in finished["ls --json"].items())
        yield (
            f"A store of {finished['runs']:,} finished runs takes {finished['bytes'] / 1e9:.2f} GB"
            f" and was built in {finished['built in s']:.0f} s. `ls --json`, ms with the process's"
            f" start: {lines}. CPU of the looks, ms: "
            + ", ".join(
                f"{name.removesuffix(', CPU')} {_spread(figure, 1)}"
                for name, figure in finished.items()
                if name.endswith(", CPU")
            )
            + "."
        )


def _proof(answers: dict[str, Any]) -> Iterator[str]:
    """Yield the table of what the proof costs."""
    facts = answers.get("proof")
    if not facts:
        return
    wanted = {"commits of 1": "≤ 60", "commits of 10": "≤ 15", "commits of 100": "≤ 15"}
    rows = [
        [f"signing adds, CPU µs an event, {name}", wanted[name], _spread(figure, 1)]
        for name, figure in facts["signing adds"].items()
    ]
    alone = _spread(facts["a signature"], 1)
    rows.append(["of which the signature of a commit, made over and over, CPU µs", "-", alone])
    for count, figures in facts["verifying"].items():
        most = "≤ 40" if count == "1,000,000" else "-"
        rows.append([f"verifying {count} events, CPU s", most, _spread(figures["CPU"], 1)])
        rows.append([f"verifying {count} events, peak MB", "constant", _spread(figures["MB"])])
    proved = _spread(facts["proving one event"], 1)
    rows.append([f"proving one event of {count}, ms", "≤ 20", proved])
    yield _table(["proof", "wanted", "median (spread)"], rows)


def _fleet(answers: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of workers side by side, and of claims and of an idle fleet."""
    facts = answers.get("fleet")
    if not facts or facts.get("absent"):
        return
    workers = facts["workers"]
    alone = workers["1"]["rate"]["median"]
    units = {name: figure["unit"] for name, figure in workers["1"].items()}
    heads = [f"{name}, {unit}".removesuffix(", ") for name, unit in units.items()]
    share = f"{facts['share']:g} of a CPU each" if facts["share"] else facts["why no share"]
    rows = []
    for count, slot in workers.items():
        cells = [_spread(slot[name], 0 if unit else 2) for name, unit in units.items()]
        rows.append([count, *cells, f"{slot['rate']['median'] / alone:.2f}"])
    yield _table([f"workers on PostgreSQL, {share}", *heads, "x one"], rows)
    idle = facts["idle"]
    rows = [
        [f"{what} among {facts['parked']:,} parked runs, ms", f"{value:,.1f}"]
        for what, value in facts["claims"].items()
    ]
    what = f"transactions/s of {idle['workers']} workers with nothing to do"
    yield _table(["on PostgreSQL", ""], [*rows, [what, f"{idle['transactions/s']:,.1f}"]])


def write(document: Path, sitting: dict[str, Any]) -> None:
    """Put a sitting's page between the markers of a document, and its JSON beside it."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{page(sitting)}\n\n{END}{after}")
    facts = json.dumps(sitting, indent=1, ensure_ascii=False) + "\n"
    document.with_suffix(".json").write_text(facts)
