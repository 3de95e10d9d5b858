"""How good an attack is: the smallest change it finds of each image, beside the smallest that any attack found.

After AttackBench (Cinà et al. 2025, "AttackBench: Evaluating gradient-based attacks for adversarial examples"). Changes
are measured on the images as they were judged, rounded to 8 bits where the victim rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.catalogue import find_attack
from medaegis.bench.outcome import Outcomes, pixels_of
from medaegis.bench.plan import Planned, norm_of
from medaegis.bench.records.assessment import Measure, Strength
from medaegis.bench.store import Piece


def optimality(found: Tensor, best: Tensor) -> float | None:
    """Local optimality of an attack: 1 if it found the best change of each image, 0 if none below the largest of them.

    With rho(e) the share of images whose smallest change found is longer than e, rho*(e) the same of the best found by
    any attack, and e0 the largest of those best changes,

        1 - (A - A*) / (rho*(0) e0 - A*),  A and A* the areas under rho and rho* from 0 to e0,

    as in AttackBench (`analysis/print_tables.py`, commit cb475a2, there by trapezoids). The area under rho is the mean
    of min(d, e0) over the images, d their smallest changes, which gives it exactly:
    1 - sum(min(d, e0) - d*) / sum(e0 - d*). Images that no attack turned are e0 everywhere and add nothing.

    Args:
        found: smallest change of each image by this attack, `(N,)`; infinite where it turned none.
        best: by any attack, this one among them.

    Returns:
        None where the best changes are all the same, or there is none: nothing lies between to be told apart.

    >>> best = torch.tensor([1.0, 2.0, 4.0])
    >>> optimality(best, best), optimality(torch.tensor([4.0, 5.0, torch.inf]), best)
    (1.0, 0.0)
    """
    turned = best.isfinite()
    least = best[turned].double()
    if not len(least) or bool((least == least.max()).all()):
        return None
    most = least.max()
    lost = (found[turned].double().clamp_max(most) - least).sum()
    return max(0.0, float(1 - lost / (most - least).sum()))


def strengths(outcomes: Outcomes, further: Outcomes, clean: Tensor, right: int | None = None) -> list[Strength]:
    """A row for each attack and way through the Cushion, over all its eps.

    Args:
        outcomes: of the plan.
        further: of checks, which count among the best.
        clean: the images `(N, C, H, W)` that were attacked.
        right: how many of them were right from the start, and can be turned; None: all.
    """
    sizes = [sizes_of(planned, piece, clean) for planned, piece in outcomes]
    others = [sizes_of(planned, piece, clean) for planned, piece in further]
    measures = [measure_of(planned) for planned, _ in outcomes]
    of_all = [*zip(measures, sizes, strict=True), *zip((measure_of(p) for p, _ in further), others, strict=True)]
    best = {name: _least([size for measure, size in of_all if measure == name]) for name in measures}
    rows: dict[tuple[str, str], list[int]] = {}
    for place, (planned, _) in enumerate(outcomes):
        rows.setdefault((planned.attack, planned.gradient), []).append(place)
    told = []
    for places in rows.values():
        planned, measure = outcomes[places[0]][0], measures[places[0]]
        found = _least([sizes[place] for place in places])
        turned = found.isfinite()
        cost = sum(float(outcomes[place][1]["cost"][:, 1:].sum()) for place in places)
        told.append(
            Strength(
                attack=planned.attack,
                gradient=None if find_attack(planned.attack).access == "black-box" else planned.gradient,
                norm=measure,
                n=len(clean) if right is None else right,
                turned=int(turned.sum()),
                smallest=median(found[turned]),
                best=median(best[measure][turned]),
                optimality=optimality(found, best[measure]),
                passes=cost / len(clean),
            )
        )
    return told


def measure_of(planned: Planned) -> Measure:
    """What the changes of its attack are measured by: the norm of its ball; of few pixels, their number."""
    return "L0" if find_attack(planned.attack).sparse else norm_of(planned)


def sizes_of(planned: Planned, piece: Piece, clean: Tensor) -> Tensor:
    """Of each image the size of the change that turned it, `(N,)`, infinite where none did; see `measure_of`."""
    change, measure = (pixels_of(piece) - clean).double(), measure_of(planned)
    if not piece["images"].is_floating_point():
        change = (change * LEVELS).round() / LEVELS  # so that as many grey levels are as much wherever they begin
    if measure == "L0":
        size = (change != 0).any(1).sum((1, 2)).double()
    elif measure == "L2":
        size = change.flatten(1).norm(dim=1)
    else:
        size = change.abs().amax((1, 2, 3))
    return size.where(piece["fooled"], torch.inf)


def _least(sizes: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(sizes)).amin(0)


def median(values: Tensor) -> float | None:
    """None of none, and where there is no number."""
    middle = values.double().quantile(0.5) if len(values) else torch.tensor(torch.nan)
    return float(middle) if middle.isfinite() else None
