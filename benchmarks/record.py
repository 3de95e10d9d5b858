"""What a benchmark leaves behind: one JSON file with every raw timing, and a page of tables made from those files.

The JSON is written again after each round, so that a run that is stopped keeps what it has.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Case, Ratio, Seconds, interleave, ratio
from medaegis.provenance import environment

PEERS = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")


class Record:
    """One benchmark's results as they grow.

    Args:
        name, about: what is measured; the heading and the first line of its section.
        command: how it was started.
        out: folder of the results.
        seed: of weights and pictures.
        quick: tiny sizes: shows that it runs, says nothing about speed.
        tell: called with a line of text when something was measured.
    """

    def __init__(
        self,
        name: str,
        about: str,
        *,
        command: str,
        out: Path,
        seed: int,
        quick: bool,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.path, self.seed, self.quick, self.tell = out / f"{name}.json", seed, quick, tell
        self._started = time.perf_counter()
        self.content: dict[str, Any] = {
            "benchmark": name,
            "about": about,
            "complete": False,
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "quick": quick,
            "threads": torch.get_num_threads(),
            "load_before": os.getloadavg()[0],
            "seconds": 0.0,
            **environment(),
            "settings": {},
            "measurements": [],
            "ratios": [],
            "notes": [],
        }
        self.content["versions"] |= {name: found for name in PEERS if (found := _version(name))}

    def settings(self, **values: Any) -> None:
        self.content["settings"] |= values

    def measure(self, group: str, cases: Sequence[Case], *, unit: str, rounds: int, budget: float) -> Seconds:
        """Time the cases in turn and keep every second; `unit` is what `Case.work` counts."""
        rows = {case.name: {"group": group, "name": case.name, "unit": unit, "work": case.work} for case in cases}
        self.content["measurements"] += rows.values()

        def keep(seconds: Seconds) -> None:
            for case in cases:
                median = statistics.median(seconds[case.name])
                rows[case.name] |= {
                    "rate": case.work / median,
                    "median_s": median,
                    "seconds": [round(value, 6) for value in seconds[case.name]],
                }
            self.save()

        seconds = interleave(cases, rounds=rounds, budget=budget, after_round=keep)
        for name, row in rows.items():
            self.tell(f"  {group}: {name}: {row['rate']:.4g} {unit}/s")
        return seconds

    def ratio(self, what: str, seconds: Seconds, over: str, under: str, *, scale: float = 1.0, goal: str = "") -> None:
        """Keep the seconds of `over` by those of `under`; see `add` for the goal."""
        self.add(what, ratio(seconds, over, under, scale=scale), goal=goal)

    def add(self, what: str, value: Ratio, *, goal: str = "") -> None:
        """Keep a figure.

        Args:
            goal: ">= 4" or "<= 1.05": judged against the median.
        """
        row = {"what": what, "value": value.median, "low": value.low, "high": value.high}
        row |= {"goal": goal or None, "met": reached(value.median, goal) if goal else None}
        self.content["ratios"].append(row)
        self.tell(f"  {what}: {value.median:.3f} ({value.low:.3f} to {value.high:.3f}) {goal}")
        self.save()

    def note(self, text: str) -> None:
        self.content["notes"].append(text)
        self.tell(f"  {text}")

    def save(self, *, complete: bool = False) -> None:
        """Write the JSON in one step."""
        self.content |= {
            "complete": complete,
            "seconds": round(time.perf_counter() - self._started, 1),
            "load_after": os.getloadavg()[0],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".json.tmp")
        draft.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)


def reached(value: float, goal: str) -> bool:
    """Whether a value meets a goal such as ">= 4"."""
    sign, _, number = goal.partition(" ")
    if sign not in (">=", "<="):
        raise ValueError(f"goal {goal!r}: write '>= NUMBER' or '<= NUMBER'")
    return value >= float(number) if sign == ">=" else value <= float(number)


def write_page(folder: Path, order: Sequence[str]) -> Path:
    """`README.md` from the JSON files of a folder, in this order; what was not measured is left out."""
    found = [json.loads(path.read_text("utf-8")) for name in order if (path := folder / f"{name}.json").exists()]
    lines = [
        "# Benchmarks",
        "",
        "Made by `python -m benchmarks`; every timing is in the JSON files beside this page.",
        "",
    ]
    for content in found:
        lines += _section(content)
    page = folder / "README.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def _section(content: dict[str, Any]) -> list[str]:
    machine, versions = content["machine"], content["versions"]
    lines = [f"## {content['benchmark']}", "", content["about"], ""]
    if content["quick"]:
        lines += ["**Quick run with tiny sizes: it shows that the benchmark works and says nothing about speed.**", ""]
    if not content["complete"]:
        lines += ["**Stopped before its end.**", ""]
    lines += [
        f"`{content['command']}` · {content['date']} · commit {content['commit'] or 'unknown'} · "
        f"{machine['cpu']}, {machine['cores']} cores, {content['threads']} threads, {machine['memory_gib']} GiB"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''} · load {content['load_before']:.1f} before, "
        f"{content['load_after']:.1f} after · {content['seconds']:.0f} s · seed {content['seed']}",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".",
        "",
    ]
    if content["settings"]:
        lines += ["Settings: " + ", ".join(f"{name} {value}" for name, value in content["settings"].items()) + ".", ""]
    rows = [row for row in content["measurements"] if "rate" in row]
    if rows:
        extra = list(dict.fromkeys(key for row in rows for key in row.get("extra", {})))
        lines += _table(
            ["", "case", "per second", "median", "runs", *extra],
            [
                [
                    row["group"],
                    row["name"],
                    f"{row['rate']:.3g} {row['unit']}",
                    _time(row["median_s"] / row["work"]) + f" per {row['unit']}",
                    str(len(row["seconds"])),
                    *(str(row.get("extra", {}).get(key, "")) for key in extra),
                ]
                for row in rows
            ],
        )
    if content["ratios"]:
        lines += _table(
            ["ratio", "median", "range over rounds", "goal", "met"],
            [
                [
                    row["what"],
                    f"{row['value']:.3g}",
                    f"{row['low']:.3g} to {row['high']:.3g}",
                    row["goal"] or "",
                    {True: "yes", False: "**no**", None: ""}[row["met"]],
                ]
                for row in content["ratios"]
            ],
        )
    lines += [f"- {note}" for note in content["notes"]]
    return [*lines, ""] if content["notes"] else lines


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
