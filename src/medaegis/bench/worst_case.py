"""The worst case: for each image the strongest result of all attacks that stay within one ball, whatever made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medaegis.attacks.balls import Ball, Linf
from medaegis.bench.figures import Figures
from medaegis.bench.metrics import as_fields, auroc, share_interval
from medaegis.bench.outcome import Outcomes, as_array, broken_by, within
from medaegis.bench.plan import Planned, attacker_of, norm_of
from medaegis.bench.records.archive import Array
from medaegis.bench.records.evaluation import Attacker, Further, Missed, Through, WorstCase

SHOWN_THROUGH = 48  # images that got through whose pixels are kept


@dataclass(frozen=True)
class Reached:
    """What of the outcomes lies in one ball by its pixels, whatever ball it was made in; all bool `(outcomes, N)`.

    Attributes:
        inside: the attacked image does.
        fooled: it does and is diagnosed wrongly.
        broken: it is accepted too; without Shields the same as `fooled`.
    """

    outcomes: Outcomes
    inside: Tensor
    fooled: Tensor
    broken: Tensor

    @classmethod
    def of(cls, outcomes: Outcomes, clean: Tensor, ball: Ball, eps: float) -> Reached:
        """Args: clean: the images `(N, C, H, W)` that were attacked; eps: in pixel units."""
        inside = torch.stack([within(piece, clean, ball, eps) for _, piece in outcomes])
        fooled = torch.stack([piece["fooled"] for _, piece in outcomes]) & inside
        accepted = torch.stack([piece["accepted"] for _, piece in outcomes])
        return cls(outcomes, inside, fooled, fooled & accepted)

    def further(self) -> list[Further]:
        """What checks among the outcomes tried beyond the plan, if anything of it lies in the ball."""
        planned = torch.tensor([not p.check for p, _ in self.outcomes])
        by_plan, told = self.broken[planned].any(0), []
        for check in dict.fromkeys(p.check for p, _ in self.outcomes if p.check):
            mine = torch.tensor([p.check == check for p, _ in self.outcomes])
            tried = torch.stack([piece["tried"] for p, piece in self.outcomes if p.check == check]) & self.inside[mine]
            if tried.any():
                more = (self.broken[mine].any(0) & ~by_plan).sum()
                told.append(Further(check=check, n=int(tried.any(0).sum()), more=int(more)))
        return told


def worst_cases(figures: Figures, outcomes: Outcomes, attacker: Attacker = "anyone") -> list[WorstCase]:
    """Of a guard at each eps and norm: of each image what is broken first, then the lowest suspicion.

    A row for every place of the plan in whose ball all that one of this attacker's attacks made is bound to lie, and
    for those of his checks.
    """
    mine = [(p, piece) for p, piece in outcomes if attacker in ("anyone", attacker_of(p))]
    plan = [p for p, _ in outcomes if not p.check]
    checks = [p for p, _ in mine if p.check]
    places = {(p.eps, p.value.ball.name): p for p in (*checks, *plan)}  # where there is a cell, it names the place
    rows = []
    for _, place in sorted(places.items()):
        reaching = [p for p, _ in mine if _lies_within(p, place)]
        if reaching:
            by_checks = bool(place.check) or all(p.check for p in reaching)
            rows.append(_worst_case(figures, mine, place, attacker, by_checks=by_checks))
    return rows


def _lies_within(planned: Planned, place: Planned) -> bool:
    """Whether all it makes lies in the ball of the place; of the same eps L-infinity lies in L2, a root mean square."""
    return planned.eps <= place.eps and planned.value.ball.name in (place.value.ball.name, Linf().name)


def _worst_case(
    figures: Figures, outcomes: Outcomes, place: Planned, attacker: Attacker, *, by_checks: bool
) -> WorstCase:
    """At the eps and in the norm of `place`; an image counts that lies in that ball, whatever it was made in.

    Args:
        by_checks: no figures, only what checks tried on some of the images.
    """
    sample, ball = figures.sample, place.value.ball
    reached = Reached.of(outcomes, sample.pixels, ball, place.eps)
    about: dict[str, Any] = {
        "attacker": attacker,
        "eps": place.eps,
        "eps_text": place.eps_text,
        "norm": norm_of(place),
        "n": len(sample),
        "further": reached.further(),
    }
    if by_checks:
        return WorstCase(**about)
    broken = reached.broken.any(0)
    alone = [piece["fooled_bare"] for p, piece in outcomes if "fooled_bare" in piece and _lies_within(p, place)]
    unguarded = share_interval(torch.stack(alone).any(0), sample.patients) if alone else None
    wanted = torch.stack([piece["wanted"] for _, piece in outcomes]).where(reached.inside, torch.inf).amin(0)
    undetected, robust = figures.shares(broken)
    given, as_healthy = _given_out(figures, reached)
    return WorstCase(
        **about,
        **as_fields("unguarded", unguarded),
        missed=_missed(figures, as_healthy),
        confusion=figures.confusion(given),
        **as_fields("auroc", figures.area(_weakest_score(reached, place))),
        auroc_wanted=auroc(figures.clean_scores(), as_array(wanted)),
        **as_fields("undetected", undetected),
        **as_fields("robust_accuracy", robust),
    )


def _weakest_score(reached: Reached, place: Planned) -> Tensor:
    """Of each image the lowest suspicion, `(N,)`.

    Only an image that fools the classifier harms; the suspicion of others counts where nothing fools, and of cells at
    this very place: of a check alone most images have no score, then what lies in the ball from elsewhere has to do.
    """
    here = torch.tensor([(p.eps, p.value.ball.name) == (place.eps, place.value.ball.name) for p, _ in reached.outcomes])
    scores = torch.stack([piece["score"] for _, piece in reached.outcomes])
    planned = any(bool(at) and not p.check for at, (p, _) in zip(here, reached.outcomes, strict=True))
    unharmed = here[:, None].expand_as(reached.inside) if planned else reached.inside
    weakest = scores.where(reached.fooled, torch.inf).amin(0)
    return torch.where(reached.fooled.any(0), weakest, scores.where(unharmed, torch.inf).amin(0))


def _given_out(figures: Figures, reached: Reached) -> tuple[Tensor, Tensor]:
    """The class given out for each attacked image, K for withheld, and which are accepted as healthy though they are
    not.

    Of what is broken in several ways: as healthy first, then by the lowest suspicion. Of the rest: withheld if that
    happens at all.
    """
    predicted = torch.stack([piece["predicted"] for _, piece in reached.outcomes])
    accepted = torch.stack([piece["accepted"] for _, piece in reached.outcomes])
    scores = torch.stack([piece["score"] for _, piece in reached.outcomes])
    healthily = reached.broken & (predicted == figures.healthy)
    least = scores.where(reached.broken, torch.inf).where(~healthily.any(0) | healthily, torch.inf).argmin(0)
    became = predicted.gather(0, least[None]).squeeze(0)
    withheld = (reached.inside & ~accepted).any(0)
    sample = figures.sample
    kept = torch.where(withheld, len(sample.test.classes), sample.labels)
    return torch.where(reached.broken.any(0), became, kept), healthily.any(0)


def _missed(figures: Figures, as_healthy: Tensor) -> Missed | None:
    """Of diseased images those that were accepted as healthy, bool `(N,)` of all attacked ones."""
    sample = figures.sample
    diseased = sample.labels != figures.healthy
    if not diseased.any():
        return None
    found = share_interval(as_healthy[diseased], sample.patients_of(sample.rows[diseased]))
    return Missed(n=int(diseased.sum()), share=found.value, interval=found.bounds)


def got_through(figures: Figures, outcomes: Outcomes) -> tuple[list[Through], dict[str, Array]]:
    """Each image that got through in L-infinity, at the smallest eps whose ball holds it, and pixels."""
    sample = figures.sample
    clean = sample.pixels
    places = {p.eps: p for p, _ in outcomes if p.value.ball.name == "linf"}
    found: dict[int, tuple[Planned, int]] = {}
    for eps in sorted(places):
        broken = torch.stack([broken_by(piece) & within(piece, clean, Linf(), eps) for _, piece in outcomes])
        score = torch.stack([piece["score"] for _, piece in outcomes]).where(broken, torch.inf)
        least = score.min(0)
        for i in least.values.argsort(stable=True).tolist():
            if broken[:, i].any():
                found.setdefault(i, (places[eps], int(least.indices[i])))
    if not found:
        return [], {}
    shown = list(found.items())[:SHOWN_THROUGH]
    told, adversarial = [], []
    for i, (place, k) in shown:
        planned, piece = outcomes[k]
        told.append(
            Through(
                cell=None if planned.check else planned.id,
                check=planned.check,
                title=figures.title(planned),
                eps=place.eps,
                eps_text=place.eps_text,
                example=figures.example(i, piece),
            )
        )
        adversarial.append(piece["images"][i])
    pixels = sample.test.images[sample.rows[torch.tensor([i for i, _ in shown])]]
    return told, {"through/clean": pixels.numpy(), "through/adversarial": torch.stack(adversarial).numpy()}
