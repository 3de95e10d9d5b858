"""What an evaluation says in plain words: up to which change the guard holds, what gets through, what to doubt.

The words follow from the figures by fixed limits alone, and the limits are printed beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medaegis.bench.records.evaluation import Corrupted, Evaluation, Missed, WorstCase
from medaegis.bench.report.words import PLANTED, beyond, eps_in_words, eps_name, of, percent, percent_range

# Undetected success, worst case over all attacks: at most this share is "held", above the other one is "not held".
HELD, BROKEN = 0.05, 0.20
FEW_IMAGES = 100

State = Literal["held", "weakened", "not held", "not measured"]


@dataclass(frozen=True)
class Rung:
    """One eps of the worst case, with what it means."""

    name: str
    words: str
    worst: WorstCase
    state: State


@dataclass(frozen=True)
class Summary:
    """tone: "good" only when every figure asked for is there and holds; "doubt" when the figures cannot be trusted."""

    tone: Literal["good", "mixed", "bad", "doubt"]
    headline: str
    points: tuple[str, ...]
    rungs: tuple[Rung, ...]


def summarise(evaluation: Evaluation) -> Summary:
    """The verdict of an evaluation, a function of its figures alone."""
    rows = sorted(evaluation.worst_case, key=lambda worst: (worst.norm != "Linf", worst.eps))
    rungs = tuple(rung(worst) for worst in rows)
    plain = [rung for rung in rungs if rung.worst.norm == "Linf"] or rungs
    tone, headline = _headline(evaluation, plain)
    headline += _by_checks(plain) + _beside_no_guard(plain)
    if tone == "good" and any(control.passed is None for control in evaluation.controls):
        tone = "mixed"
        headline += " Some checks of this evaluation could not be judged."
    if evaluation.guard.unfinished:
        headline += f" The guard is not finished: {'; '.join(evaluation.guard.unfinished)}."
        tone = "mixed" if tone == "good" else tone
    points = [
        *_attacked(evaluation, plain),
        *_clean(evaluation),
        *_harmless(evaluation.corruptions),
        *_trust(evaluation, rungs),
    ]
    return Summary(tone, headline, tuple(points), rungs)


def rung(worst: WorstCase) -> Rung:
    """What a worst case means, by the fixed limits."""
    state: State
    if worst.undetected is None or worst.n == 0:
        state = "not measured"
    else:
        state = "held" if worst.undetected <= HELD else "weakened" if worst.undetected <= BROKEN else "not held"
    return Rung(eps_name(worst.eps_text, worst.norm), eps_in_words(worst.eps_text, worst.norm), worst, state)


def _headline(evaluation: Evaluation, rungs: Sequence[Rung]) -> tuple[Literal["good", "mixed", "bad", "doubt"], str]:
    failed = [control.kind for control in evaluation.controls if control.passed is False]
    if "control" in failed:
        count = failed.count("control")
        controls = "one control" if count == 1 else f"{count} controls"
        return "doubt", f"Do not rely on these figures yet: {controls} of this evaluation failed."
    if failed:
        alarms = "one alarm" if len(failed) == 1 else f"{len(failed)} alarms"
        return "doubt", f"Do not rely on these figures yet: {alarms} of masked gradients went off."
    if not rungs or rungs[0].state == "not measured":
        return "doubt", "No worst case was measured: this page does not say how well the guard holds."
    held = next((k for k, rung in enumerate(rungs) if rung.state != "held"), len(rungs))
    if held == 0:
        told = f"The guard did not hold in this test, not even at ε = {rungs[0].name}, the smallest change tried."
        return "bad", told
    missing = []
    if not any(cell.adaptive for cell in evaluation.cells):
        missing.append("no attack knew the guard")
    if not any(control.passed for control in evaluation.controls):
        missing.append("no control or alarm shows that the attacks were working")
    if all(rung.worst.unguarded is not None and rung.worst.unguarded <= HELD for rung in rungs):
        missing.append("the attacks hardly turn a diagnosis without any guard")
    if missing:
        return "doubt", f"What was tried does not show that the guard holds: {' and '.join(missing)}."
    if held == len(rungs):
        return "good", f"The guard held in this test at every change tried, up to ε = {rungs[-1].name}."
    words = {"not measured": "it was not measured", "weakened": "it is weakened", "not held": "it does not hold"}
    told = f"The guard held in this test up to ε = {rungs[held - 1].name}. At {rungs[held].name} "
    return "mixed", f"{told}{words[rungs[held].state]}."


def _beside_no_guard(rungs: Sequence[Rung]) -> str:
    """What attacks do without a guard, and with it, at the largest eps at which it held, else at the first."""
    measured = [rung for rung in rungs if rung.state != "not measured" and rung.worst.unguarded is not None]
    if not measured:
        return ""
    shown = next((rung for rung in reversed(measured) if rung.state == "held"), measured[0])
    worst = shown.worst
    return (
        f" At ε = {shown.name} attacks turned {of(worst.unguarded, worst.n)} of the diagnoses without a guard; with it "
        f"{of(worst.undetected, worst.n)} got through."
    )


def _by_checks(rungs: Sequence[Rung]) -> str:
    """What no attack of the plan got through: it was looked for on a few images alone, so there may be more."""
    found = {one.check: one.more for rung in rungs for one in rung.worst.further if one.more}
    named = ", ".join(f"{check} ({more})" for check, more in found.items())
    return f" On a few images checks got more through than all attacks of the plan: {named}." if found else ""


def _attacked(evaluation: Evaluation, rungs: Sequence[Rung]) -> list[str]:
    points = []
    measured = [rung for rung in rungs if rung.state != "not measured"]
    for rung in measured[:1] if len(measured) == 1 else [*measured[:1], *measured[-1:]]:
        bounds = percent_range(rung.worst.undetected_interval)
        interval = f" (95 % interval {bounds} %)" if bounds else ""
        without = rung.worst.unguarded
        beside = "" if without is None else f" Without any guard: {of(without, rung.worst.n)}."
        points.append(
            f"At ε = {rung.name} ({rung.words}), {of(rung.worst.undetected, rung.worst.n)} of the attacked images"
            f"{interval} led to a wrong diagnosis that the guard let through, taking for each image the strongest of "
            f"all attacks.{beside}"
        )
        if rung.worst.missed is not None:
            points.append(_missed(evaluation, rung, rung.worst.missed))
    points += [
        f"Beyond the plan, checks tried a few of the {rung.worst.n} images at ε = {rung.name} and no others: "
        f"{beyond(rung.worst.further)}. What they got through counts."
        for rung in measured
        if rung.worst.further
    ]
    runs, adaptive = len(evaluation.cells), sum(cell.adaptive for cell in evaluation.cells)
    if not evaluation.cells:
        points.append("No attack was run.")
    elif adaptive:
        points.append(f"{adaptive} of {runs} attack runs knew the whole guard and were aimed at it, Shield included.")
    else:
        points.append("No attack was aimed at the guard itself, so nothing is known about an attacker who knows it.")
    return points


def _missed(evaluation: Evaluation, rung: Rung, missed: Missed) -> str:
    healthy = evaluation.healthy
    why = "" if evaluation.healthy_told else " (the first class: nobody said which is the healthy one)"
    return (
        f"At ε = {rung.name}, of the attacked images of other classes {of(missed.share, missed.n)} were accepted as "
        f"{healthy}{why}; 95 % interval {percent_range(missed.interval)} %."
    )


def _clean(evaluation: Evaluation) -> list[str]:
    clean, points = evaluation.clean, []
    if clean.tnr_reached is not None:
        points.append(
            f"Of {clean.n} images nobody attacked, the guard accepts {percent(clean.tnr_reached)} (it was set to "
            f"{percent(evaluation.guard.tnr_target)}); the others are withheld without need and go to a person."
        )
    if clean.accuracy is not None:
        without = clean.accuracy_without_cushion
        beside = f"; without the Cushion it would be {percent(without)}" if without is not None else ""
        points.append(f"The classifier's diagnosis is right on {percent(clean.accuracy)} of these images{beside}.")
    return points


def _harmless(corruptions: Sequence[Corrupted]) -> list[str]:
    """How far acceptance falls under changes that are no attack: at the lowest severity and in the middle."""
    points = []
    for severity, words in ((1, "that are hardly seen"), (3, "that are plainly seen")):
        rows = [row for row in corruptions if row.severity == severity]
        if rows:
            worst = min(rows, key=lambda row: row.accepted)
            points.append(
                f"Under each of {len(rows)} harmless changes {words} (severity {severity} of 5), the guard accepts at "
                f"least {percent(worst.accepted)} of {worst.n} images (fewest: {worst.title.lower()}); without any "
                f"change {percent(corruptions[0].accepted)}."
            )
    return points


def _trust(evaluation: Evaluation, rungs: Sequence[Rung]) -> list[str]:
    points = []
    fewest = min((rung.worst.n for rung in rungs if rung.worst.n), default=FEW_IMAGES)
    if fewest < FEW_IMAGES:
        points.append(
            f"Few images: a figure here rests on {fewest} attacked images. Read the intervals, not the values."
        )
    controls = evaluation.controls
    open_ones = sum(control.passed is None for control in controls)
    if not controls:
        points.append("No controls were run, so a broken attack could pass for a strong guard.")
    elif not any(control.passed is False for control in controls):
        rest = f", {open_ones} were not judged, which is no pass" if open_ones else ""
        points.append(
            f"Controls and alarms of the evaluation itself: {len(controls) - open_ones} came out as expected{rest}."
        )
    else:
        names = ", ".join(control.name for control in controls if control.passed is False)
        points.append(f"Failed controls and alarms: {names}. See the table of controls for what that means.")
    if controls and not any(control.name == PLANTED for control in controls):
        points.append(
            "One control was left out (--no-planted): whether these attacks get past Shields that are known to be weak."
        )
    points.append("This is a test with known attacks, not a proof: a stronger attack may exist.")
    return points
