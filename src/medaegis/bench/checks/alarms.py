"""Alarms: signs that gradients are masked, so that an attack by gradients says nothing about the guard.

After Carlini et al. 2019 (On evaluating adversarial robustness, section 3.1) and Athalye 2018. An alarm that goes off
does not say that the guard is weak; it says that these figures cannot show it to be strong. Shares are judged by exact
tests (`exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from medaegis.attacks.balls import Linf
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.losses.shield import ShieldLogit
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import Campaign
from medaegis.bench.checks.exact import AtMost, check, gain, shown
from medaegis.bench.outcome import Outcomes, broken_by, elsewhere_nothing, harm_of
from medaegis.bench.plan import Planned, norm_of
from medaegis.bench.records.evaluation import Control
from medaegis.bench.records.quality import LOST, SLIGHT
from medaegis.bench.store import Piece
from medaegis.draws import Draws
from medaegis.progress import Progress

TOLERATED = 0.05  # more undetected success by more effort, or by less knowledge, that is let pass
ADDED = 0.02  # the same of what a check adds to all that was broken
ZERO = 0.01  # images without a gradient
UPHILL = 0.10  # images whose loss rises one grey level along its steepest descent
PROBE_EPS = 8 / 256
STAMINA = ((10, 1), (1, 5), (1, 20))  # times the steps, and restarts

Attacking = Callable[[Campaign, Outcomes, Progress], tuple[Control, Outcomes]]
"""An alarm that attacks further: it, and what it made, for the worst case."""


def run_alarms(campaign: Campaign, outcomes: Outcomes) -> list[Control]:
    """Every alarm that applies to what was measured; those that attack further are `run_guessing`, `run_stamina`."""
    alarms = [*steps_beat_one(outcomes), *_patience(outcomes), *knowledge_helps(outcomes, adaptive=True)]
    return alarms + gradient_alarms(campaign, outcomes, CarliniWagner(), ShieldLogit())


def followed(outcomes: Outcomes, classes: int, *always: Objective) -> dict[str, Objective]:
    """The losses on the answer that these attacks follow, by what they are of, after those that are looked at always.

    A loss can be flat where another is not: cross-entropy on saturated logits, whose margin has a slope everywhere.
    """
    planned = [p for p, _ in outcomes if find_attack(p.attack).misleads]
    objectives = [objective for p in planned for objective in p.value.followed(classes)]
    losses = (*always, *(loss for objective in objectives for loss in objective.walked()))
    return {loss.title: loss for loss in losses}


def steps_beat_one(outcomes: Outcomes) -> list[Control]:
    """PGD beside FGSM, where both were run."""
    own = [(p, harm_of(piece, piece["fooled"])) for p, piece in outcomes if not p.transferred]
    one = {p.eps: harm for p, harm in own if p.attack == "fgsm"}
    many = {p.eps: (p.eps_text, harm) for p, harm in own if p.attack == "pgd"}
    pairs = [(*found, one[eps]) for eps, found in many.items() if eps in one]
    if not pairs:
        return []
    return [
        check(
            [gain(fgsm, pgd, 0.0) for _, pgd, fgsm in pairs],
            kind="alarm",
            name="Many steps beat one",
            expectation="PGD fools at least as often as FGSM at every eps",
            measured=", ".join(f"{eps}: {shown(pgd)} and {shown(fgsm)}" for eps, pgd, fgsm in pairs),
        )
    ]


def _patience(outcomes: Outcomes) -> list[Control]:
    """Long attacks beside short ones: training against short attacks must not pass for robustness.

    Judged is the strongest of them, for one that is slow by nature gains by more steps and tells nothing of the rest.
    """
    pairs = [
        (long, broken_by(long_piece), short, broken_by(short_piece))
        for short, short_piece in outcomes
        for long, long_piece in outcomes
        if _alike(short) == _alike(long) and short.value.steps < long.value.steps
    ]
    alarms = []
    for eps in sorted({long.eps for long, *_ in pairs}):
        mine = [pair for pair in pairs if pair[0].eps == eps]
        most = max((high for _, high, _, _ in mine), key=torch.sum)
        fewest = max((low for *_, low in mine), key=torch.sum)
        alarms.append(
            check(
                [gain(most, fewest, TOLERATED)],
                kind="alarm",
                name=f"Long attacks beside short ones, {mine[0][0].eps_text}",
                expectation="the strongest long one gets no more of the same images through than the strongest short "
                f"one, {100 * TOLERATED:g} points let pass",
                measured=", ".join(
                    f"{long.attack} {shown(high)} ({long.value.steps} steps) and {shown(low)} ({short.value.steps})"
                    for long, high, short, low in mine
                ),
                detail="What stops short attacks alone is no robustness; an attack that still gains was cut short.",
            )
        )
    return alarms


def _alike(planned: Planned) -> tuple[str, float, str, bool, int]:
    """What two cells share that differ in their steps alone."""
    return planned.attack, planned.eps, planned.gradient, planned.transferred, planned.value.restarts


def knowledge_helps(outcomes: Outcomes, *, adaptive: bool) -> list[Control]:
    """Who knows the gradients must get at least as much through as who does not.

    Args:
        adaptive: of a guard he must know the Shield too.
    """
    alarms = []
    for eps in sorted({planned.eps for planned, _ in outcomes}):
        mine = [(p, piece) for p, piece in outcomes if p.eps == eps and p.value.ball.name == "linf"]
        knowing = _best(
            (p, piece) for p, piece in mine if p.access == "white-box" and find_attack(p.attack).adaptive == adaptive
        )
        blind = _best((p, piece) for p, piece in mine if p.access != "white-box")
        if knowing is None or blind is None:
            continue
        (by_gradient, most), (without, rest) = knowing, blind
        alarms.append(
            check(
                [gain(rest, most, TOLERATED)],
                kind="alarm",
                name=f"Gradients beat guessing, {mine[0][0].eps_text}",
                expectation="no attack without gradients gets more of the same images through than the best one with "
                f"them, {100 * TOLERATED:g} points let pass",
                measured=f"{by_gradient} {shown(most)}, {without} {shown(rest)}",
            )
        )
    return alarms


def _best(outcomes: Iterable[tuple[Planned, Piece]]) -> tuple[str, Tensor] | None:
    """The attack that did most harm, and how much to each image."""
    found = [(p.attack + " on surrogates" * p.transferred, harm_of(piece, broken_by(piece))) for p, piece in outcomes]
    return max(found, key=lambda pair: float(pair[1].sum())) if found else None


def gradient_alarms(campaign: Campaign, outcomes: Outcomes, *always: Objective) -> list[Control]:
    """Whether there are gradients, and whether losses fall along them, on clean images and random points near them.

    Of these losses and of every one that the attacks follow, without the Cushion: a loss that is quantised by a codec
    steps by nature, and the ways through it have a control of their own. A random point that gets through is left out:
    the ratio of logits is flat where the true class comes third.
    """
    few, victim = campaign.only(campaign.few(campaign.effort.probed)), campaign.smooth
    clean, goal = few.sample.pixels, few.goal
    eps = torch.full_like(clean[:, :1, :1, :1], PROBE_EPS)
    moved = Linf().random(clean, eps, Draws(few.seed, few.sample.ids, "slopes"))
    verdict = victim.verdicts(moved)
    held = ~(goal.reached(verdict.predicted) & verdict.accepted)
    points = [(clean, goal), *([(moved[held], goal[held])] if held.any() else [])]
    losses = followed(outcomes, len(victim.exact.classes), *always)
    none, uphill = {}, {}
    for name, loss in losses.items():
        seen = [probe(victim, part.to(victim.device), its.to(victim.device), loss) for part, its in points]
        none[name], uphill[name] = zip(*seen, strict=True)
    return [
        _rare(
            none,
            ZERO,
            name="There are gradients",
            expectation=f"at most {ZERO:.0%} of images without one, for any loss that the attacks follow",
            detail="A saturated or quantised network has none; then attacks by gradients stand still.",
        ),
        _rare(
            uphill,
            UPHILL,
            name="Losses fall along their gradients",
            expectation=f"one grey level along it, a loss rises for at most {UPHILL:.0%} of images",
            detail="A surface so rough that its gradient leads nowhere looks robust to whoever follows it.",
        ),
    ]


def _rare(seen: Mapping[str, tuple[Tensor, ...]], share: float, **about: str) -> Control:
    """An alarm for what may be seen, by loss, of few images: of the clean ones, and of the points near them."""
    claims = [AtMost(int(part.sum()), len(part), share) for parts in seen.values() for part in parts]
    measured = ", ".join(f"{shown(torch.cat(parts))} for the {name}" for name, parts in seen.items())
    return check(claims, kind="alarm", **about, measured=measured)


@torch.enable_grad()
def probe(victim: Victim, images: Tensor, goal: Goal, loss: Objective) -> tuple[Tensor, Tensor]:
    """For each image `(N, C, H, W)`: whether its gradient vanishes, and whether a small step along it fails to help.

    The step is one grey level in each pixel against the sign of the gradient, not rounded; where there is no gradient
    it fails.
    """
    z = images.clone().requires_grad_()
    before, grad = loss.pull(victim.look(z, goal, loss), z)
    vanished = ~grad.isfinite().flatten(1).all(1) | (grad.flatten(1) == 0).all(1)
    with torch.no_grad():
        after = loss(victim.look(images - grad.nan_to_num().sign() / 255, goal, loss))
    return vanished, ~(after < before.detach())


def guessing_is_missing(outcomes: Outcomes, *, adaptive: bool) -> bool:
    """Whether an attack in L-infinity followed gradients, and none on each image with the same aim saw answers alone.

    Args:
        adaptive: the aim is a guard; else a classifier alone.
    """
    linf = [(p.access, find_attack(p.attack)) for p, _ in outcomes if p.value.ball.name == "linf"]
    guessing = [entry for access, entry in linf if access == "black-box" and entry.adaptive == adaptive]
    asked = any(not (entry.minimal or entry.attack.learns) for entry in guessing)
    return any(access == "white-box" for access, _ in linf) and not asked


def run_guessing(
    campaign: Campaign,
    outcomes: Outcomes,
    progress: Progress,
    *,
    attack: str = "square-guard",
    harm: Callable[[Piece], Tensor] = broken_by,
) -> tuple[Control, Outcomes]:
    """Square, which sees answers alone, on a few images at the largest eps, where nothing got through.

    Args:
        attack: Square with the aim of the others.
        harm: which images an outcome breaks, or how far it harms each.

    Returns:
        The alarm, which says that gradients were masked, and the outcome for the worst case, as `run_stamina`.
    """
    linf = [(p, piece) for p, piece in outcomes if p.value.ball.name == "linf"]
    largest = max((p for p, _ in linf), key=lambda p: p.eps)
    places, more, added = campaign.few(campaign.effort.guessed), [], 0
    usual = torch.stack([harm(piece)[places].float() for p, piece in linf if p.eps == largest.eps]).amax(0)
    name, queries = f"Gradients beat Square, {largest.eps_text}", campaign.effort.queries
    left = (usual <= LOST).nonzero().squeeze(1)
    if len(left):
        square = Planned(attack, largest.eps, largest.eps_text, steps=queries, check=name)
        piece = campaign.only(places[left]).attack(square, progress)
        more.append((square, elsewhere_nothing(piece, places[left], len(campaign))))
        added = int((harm(piece).float() - usual[left] > SLIGHT).sum())
    alarm = check(
        [AtMost(added, len(usual), ADDED)],
        kind="alarm",
        name=name,
        expectation=f"Square, {queries} queries, adds at most {ADDED:.0%} to what all attacks broke",
        measured=f"all attacks {shown(usual)}, Square {added / len(usual):.1%} more",
        detail=f"On {len(usual)} images; Square is run on those of them that nothing broke, and what it "
        "breaks counts in the worst case.",
    )
    return alarm, more


def run_stamina(campaign: Campaign, outcomes: Outcomes, progress: Progress) -> tuple[Control, Outcomes]:
    """WB with far more steps and restarts on a few images at the largest eps, beside all that was tried there.

    Returns:
        The alarm, and the outcomes, in which the other images count as not fooled, for the worst case.
    """
    longest = max((p for p, _ in outcomes if p.attack == "wb"), key=lambda p: (p.eps, p.value.steps))
    places = campaign.few(campaign.effort.stamina)
    small = campaign.only(places)
    n, place = len(places), (longest.eps, norm_of(longest))
    usual = torch.stack([broken_by(piece)[places] for p, piece in outcomes if (p.eps, norm_of(p)) == place]).any(0)
    name, steps = f"Stamina: WB at {longest.eps_text} with more steps and restarts", longest.value.steps
    efforts = [(1, 1), *STAMINA]
    more = [replace(longest, steps=steps * times, restarts=restarts, check=name) for times, restarts in efforts]
    pieces = [(p, small.attack(p, progress)) for p in more]
    found = {_effort(p): broken_by(piece) for p, piece in pieces}
    added = torch.stack(list(found.values())).any(0) & ~usual
    told = ", ".join(f"{effort}: {shown(broken)}" for effort, broken in {"all attacks": usual, **found}.items())
    alarm = check(
        [AtMost(int(added.sum()), n, ADDED)],
        kind="alarm",
        name=name,
        expectation=f"ten times the steps and 20 restarts add at most {ADDED:.0%} to the worst case",
        measured=f"{shown(added)} added; {told}",
        detail=f"On {n} images, so one image is {1 / n:.1%}. What it breaks counts in the worst case.",
    )
    return alarm, [(p, elsewhere_nothing(piece, places, len(campaign))) for p, piece in pieces]


def _effort(planned: Planned) -> str:
    attack = planned.value
    return f"{attack.steps} steps" + (f" x {attack.restarts}" if attack.restarts > 1 else "")
