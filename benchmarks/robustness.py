"""Robustness: damaged files and folders, killed commands, full disks, missing rights. Goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import Record
from benchmarks.robustness_files import CASES, MEBIBYTES, SECONDS, run_kind
from benchmarks.robustness_places import full_disk, no_rights, no_room
from benchmarks.robustness_runs import Runner, kill_often, known_commands, reference

ABOUT = (
    "Damaged pictures, folders and tables, read one by one: each gives a picture (a guard, a data set) or is refused "
    "in our own words, within time and memory. Long commands killed (SIGKILL) at random moments and called again: what "
    "they give must be that of an unbroken run to the bit. A full disk, and files and folders without rights."
)
CHAINS, KILLS = 2, 10  # runs of each command, and kills of each run
ROOM = (0.05, 0.3, 0.7)  # of what is needed
PAGE = Path(__file__).parents[1] / "docs" / "results" / "robustness.md"


def run(record: Record) -> None:
    """All trials; what was done is kept in runs/robustness, by commit and seed."""
    commit = record.content["commit"] or "unknown"
    home = record.path.parent / "work" if record.quick else Path("runs") / "robustness" / f"{commit}-{record.seed}"
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"files": {}, "kills": {}, "room": {}, "rights": None}
    record.content["trials"] = found
    record.settings(seconds_limit=SECONDS, memory_limit_mib=MEBIBYTES)
    for kind, count in CASES.items():
        told = run_kind(kind, 24 if record.quick else count, record.seed, home / "files")
        found["files"][kind] = {name: told[name] for name in ("outcomes", "wrong", "slowest", "most_mebibytes")}
        record.tell(f"  {kind}: {told['outcomes']}, {len(told['wrong'])} wrong, slowest {told['slowest']} s")
        record.save()
    _runs(record, home / "runs", found)
    for line in summary(found):
        record.note(line)
    (record.path.parent / "robustness.md" if record.quick else PAGE).write_text(page(record.content), encoding="utf-8")


def _runs(record: Record, home: Path, found: dict[str, Any]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    runner = Runner(home)
    runner.prepare()
    commands = [name for name in known_commands() if not record.quick or name in ("train", "fit", "evaluate")]
    for name in commands:
        told = reference(runner, name, home)
        record.tell(f"  {name}: {told['seconds']:.1f} s unbroken; differs between two such runs: {told['unsteady']}")
        found["kills"][name] = {"unsteady": told["unsteady"], "seconds": told["seconds"], "turns": []}
    # In turn, so that a run that is stopped has as many of each.
    chains, kills = (1, 2) if record.quick else (CHAINS, KILLS)
    for turn in range(chains):
        for name in commands:
            told = _once(
                home / f"{name}.kill-{turn}.json",
                lambda n=name, t=turn: kill_often(runner, n, t, kills, record.seed, home),
            )
            found["kills"][name]["turns"].append(told)
            if not told["sound"] or told["lost"]:
                record.tell(f"  {name}, killed: {told.get('said', '')}, other than unbroken: {told['lost']}")
            record.save()
        record.tell(f"  {(turn + 1) * kills} kills of each command")
    shares = ROOM[1:2] if record.quick else ROOM
    for name in commands:
        trials = [
            _once(home / f"{name}.{how.__name__}-{share}.json", lambda h=how, n=name, s=share: h(runner, n, s, home))
            for how in (no_room, full_disk)
            for share in shares
        ]
        found["room"][name] = trials
        record.tell(f"  {name}, no room: {sum(_right(one) for one in trials)} of {len(trials)} as they must be")
        record.save()
    found["rights"] = _once(home / "rights.json", lambda: no_rights(runner, home))
    record.save()


def _once(kept: Path, work: Callable[[], Any]) -> Any:
    """What `work` gave, now or in a run before that was stopped."""
    if not kept.exists():
        draft = kept.with_suffix(".tmp")
        draft.write_text(json.dumps(work()))
        draft.replace(kept)
    return json.loads(kept.read_text())


def _right(one: dict[str, Any] | None) -> bool:
    return one is None or (one["sound"] and not one.get("lost") and one.get("sound_after", True))


def summary(found: dict[str, Any]) -> list[str]:
    """A line for each kind of trial."""
    total = sum(sum(told["outcomes"].values()) for told in found["files"].values())
    wrong = sum(len(told["wrong"]) for told in found["files"].values())
    turns = [turn for told in found["kills"].values() for turn in told["turns"]]
    bad = [turn for turn in turns if not turn["sound"] or turn["lost"]]
    room = [one for trials in found["room"].values() for one in trials]
    lines = [
        f"{total:,} damaged files, folders and tables: {wrong} not read and not refused in our own words.",
        f"{sum(turn['met'] for turn in turns)} kills that met a command at work, in {len(turns)} runs: {len(bad)} runs "
        "with another result in the end.",
        f"{sum(one is not None for one in room)} runs without room: {sum(not _right(one) for one in room)} wrong; "
        f"{sum(one is None for one in room)} skipped, for no small disk could be mounted.",
    ]
    if found["rights"] is None:
        return [*lines, "Without rights: skipped, for only root can give its rights up."]
    return [
        *lines,
        f"{len(found['rights'])} trials without rights: {sum(not _right(one) for one in found['rights'])} wrong.",
    ]


def page(content: dict[str, Any]) -> str:
    """The results for people."""
    found = content["trials"]
    lines = [
        "# Robustness",
        "",
        ABOUT,
        "",
        f"`{content['command']}` · {content['date']} · commit {content['commit'] or 'unknown'} · "
        f"seed {content['seed']} · {content['machine']['cpu']}, {content['machine']['cores']} cores, "
        f"load {content['load_before']:.1f} before, {content['seconds'] / 60:.0f} minutes",
        "",
        *(f"- {line}" for line in summary(found)),
        "",
        "## Damaged files, folders and tables",
        "",
        "Each has one to four damages: bits, bytes, numbers at their limits, pieces cut out, doubled, exchanged. "
        f"Limits: {SECONDS:g} s and {MEBIBYTES} MiB in any one process, decoders included. Most damages of "
        "folders come with hashes that fit, as whoever may write there can make them.",
        "",
        "| kind | cases | read | refused | anything else | slowest | most memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, told in found["files"].items():
        outcomes = told["outcomes"]
        read, refused = outcomes.get("read", 0), outcomes.get("refused", 0)
        total = sum(outcomes.values())
        lines.append(
            f"| {kind} | {total:,} | {read:,} | {refused:,} | {total - read - refused} | {told['slowest']:.1f} s | "
            f"{told['most_mebibytes']} MiB |"
        )
    wrong = [one for told in found["files"].values() for one in told["wrong"]]
    if wrong:
        lines += ["", "Anything else:", ""]
        lines += [f"- {one['kind']} {one['case']}: {one['outcome']} ({one['detail']})" for one in wrong[:40]]
    lines += [
        "",
        "## Killed and called again",
        "",
        "On drawn X-rays, 240 of 32 px; the command forked with all imports done.",
        "",
    ]
    lines += [
        "| command | unbroken | runs | kills | met it at work | ended with the same bits |",
        "|---|---|---|---|---|---|",
    ]
    for name, told in found["kills"].items():
        turns = told["turns"]
        same = sum(turn["sound"] and not turn["lost"] for turn in turns)
        counts = f"{len(turns)} | {sum(turn['kills'] for turn in turns)} | {sum(turn['met'] for turn in turns)}"
        lines.append(f"| {name} | {told['seconds']:.1f} s | {counts} | {same} of {len(turns)} |")
    unsteady = {name: told["unsteady"] for name, told in found["kills"].items() if told["unsteady"]}
    lines += [
        "",
        "Compared: arrays, pictures, tables and figures; not times, dates, places, HTML, SVG and hashes of those.",
    ]
    lines += [f"Differs between two unbroken runs too, and was left out: {unsteady}." if unsteady else ""]
    lines += [
        "## No room",
        "",
        "| command | trial | bytes | exit code | said so | then, with room |",
        "|---|---|---|---|---|---|",
    ]
    for name, trials in found["room"].items():
        for one in trials:
            if one is not None:
                after = (
                    "as unbroken"
                    if one.get("sound_after") and not one["lost"]
                    else f"**{one.get('lost', 'not tried')}**"
                )
                sound = "yes" if one["sound"] else f"**no**: {one['said'][-120:]!r}"
                lines.append(f"| {name} | {one['trouble']} | {one['bytes']:,} | {one['code']} | {sound} | {after} |")
    lines += ["", "## No rights", ""]
    for one in found["rights"] or []:
        lines.append(f"- {one['trouble']}: exit code {one['code']}, {'named' if one['named'] else '**not named**'}")
    return "\n".join([*lines, ""])
