"""How features move: t-SNE of clean and attacked ones, the direction they go in, and how far a layer can be pushed.

t-SNE: HFC fig. 1, Ma 2021 fig. 9. Direction against the last weights: HFC theorem 1 and fig. 2. Stress test: HFC and
Medical Aegis, table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.evasion import FeatureShift
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws
from medaegis.models.classifier import Classifier
from medaegis.models.taps import pool, refuse_constant
from medaegis.progress import Progress, silent

NEIGHBOURS = 5  # odd: no vote is a tie
STEPS = 10  # of the stress test


def embed(features: Tensor, *, seed: int, tap: str = "features") -> Tensor:
    """t-SNE `(N, 2)` of features `(N, D)`, each channel scaled to deviation 1, started from their principal axes.

    Args:
        tap: what the features are of, for the error.

    Raises:
        DataError: they are the same for all images: t-SNE dies of them, with the whole process.
    """
    from sklearn.manifold import TSNE

    refuse_constant("t-SNE", {tap: features})
    scaled = (features.double() - features.double().mean(0)) / features.double().std(0).clamp_min(1e-12)
    if scaled.shape[1] == 1:  # two axes are asked for; the second has no length
        scaled = F.pad(scaled, (0, 1))
    made = TSNE(2, perplexity=min(30.0, (len(features) - 1) / 3), init="pca", random_state=seed)
    return torch.from_numpy(made.fit_transform(scaled.cpu().numpy())).float()


def told_apart(clean: Tensor, attacked: Tensor) -> float:
    """Share of features `(N, D)` whose nearest neighbours say rightly whether they are attacked; 0.5 is chance.

    Neither an image nor its own twin is among its neighbours: where attacks change little, the twin would always be
    the nearest and of the other kind. Channels are scaled by the clean ones' deviation.
    """
    n = len(clean)
    every = torch.cat([clean, attacked]).double() / clean.double().std(0).clamp_min(1e-12)
    apart = torch.cdist(every, every, compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.arange(2 * n, device=apart.device)
    apart[own, own] = apart[own, (own + n) % (2 * n)] = torch.inf
    near = apart.topk(NEIGHBOURS, largest=False).indices
    said = (near >= n).double().mean(1) > 0.5
    return float((said == (own >= n)).double().mean())


@dataclass(frozen=True)
class Head:
    """The last linear layer: `logits = features @ weight.T + bias`.

    Attributes:
        tap: module whose output the layer takes, the penultimate one.
        weight: `(K, D)`.
    """

    tap: str
    weight: Tensor


@torch.no_grad()
def find_head(classifier: Classifier, images: Tensor) -> Head | None:
    """The linear layer that makes the logits, found by what it computes; None where no module gives its input.

    Args:
        images: a few, `(N, C, H, W)`.
    """
    classes = len(classifier.classes)
    modules = [m for m in classifier.network.modules() if isinstance(m, nn.Linear)]
    linears = [head for m in modules if (head := classifier.outputs.last_layer(m, classes)) is not None]
    widths = {linear.in_features for linear in linears}
    shapes = classifier.tap_shapes(classifier.tap_names())
    taps = [tap for tap, shape in shapes.items() if shape[0] in widths and set(shape[1:]) <= {1}]
    seen = classifier.activations(images, taps=taps)
    for linear in reversed(linears):
        for tap in taps:
            features = pool(seen.features[tap])
            if features.shape[1] == linear.in_features and seen.logits is not None:
                # Less their mean: a common shift says nothing, and is lost where a network gives probabilities.
                made, known = linear(features.to(linear.weight)).float(), seen.logits
                made, known = (logits - logits.mean(1, keepdim=True) for logits in (made, known))
                if torch.allclose(made, known, rtol=1e-4, atol=1e-4 * float(known.abs().max())):
                    return Head(tap, linear.weight.detach().float())
    return None


def along_weights(shift: Tensor, weight: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cosine, `(N,)`, of the features' shift `(N, D)` with the weights of wanted minus true class (HFC theorem 1)."""
    return F.cosine_similarity(shift, weight[targets] - weight[labels], dim=1)


def mutual(shifts: Sequence[Tensor]) -> Tensor:
    """Mean cosine, `(A, A)`, between the shifts `(N, D)` that A attacks cause in the same images (HFC fig. 2b)."""
    units = F.normalize(torch.stack(list(shifts)).double(), dim=2)
    return torch.einsum("and,bnd->ab", units, units) / units.shape[1]


def noise(images: Tensor, levels: int, ids: Tensor, *, seed: int) -> Tensor:
    """The control: every pixel of an image moved by +-levels grey levels at random, inside [0, 1]."""
    signs = Draws(seed, ids, "noise").signs(*images.shape[1:]).to(images)
    return ((images * 255).round() + levels * signs).clamp(0, 255) / 255


@dataclass(frozen=True)
class Stress:
    """Mean activation of each tap over the images: clean, under noise and driven down and up, one value per eps."""

    taps: tuple[str, ...]
    clean: dict[str, float]
    noise: dict[str, list[float]]
    down: dict[str, list[float]]
    up: dict[str, list[float]]

    def relative(self, kind: str, tap: str) -> list[float]:
        """Change in units of the clean mean's magnitude (the tables' percentages, as shares)."""
        clean = self.clean[tap]
        return [(value - clean) / max(abs(clean), 1e-12) for value in getattr(self, kind)[tap]]


def stress_test(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    taps: tuple[str, ...],
    levels: Sequence[int],
    *,
    seed: int,
    steps: int = STEPS,
    progress: Progress = silent,
) -> Stress:
    """Push each tap's mean down and up as far as BIM gets, at radii of whole grey levels.

    Args:
        images: `(N, C, H, W)` on the 8-bit grid; labels `(N,)` say nothing to the attack and are only handed on.
        steps: of BIM.
    """

    def means(x: Tensor, wanted: tuple[str, ...]) -> dict[str, float]:
        return {tap: float(values.double().mean()) for tap, values in victim.pooled(x, wanted).items()}

    clean = means(images, taps)
    noisy = [means(noise(images, k, ids, seed=seed), taps) for k in levels]
    down, up = (FeatureShift(sign) for sign in (-1, 1))
    pushed: dict[FeatureShift, dict[str, list[float]]] = {down: {}, up: {}}
    done, total = 0, 2 * len(taps) * len(levels)
    for goal, found in pushed.items():
        for tap in taps:
            attack = Attack(objective=replace(goal, taps=(tap,)), steps=steps)
            found[tap] = []
            for k in levels:
                made = attack.run(victim, images, labels, eps=k / 255, ids=ids, seed=seed)
                found[tap].append(means(made.images, (tap,))[tap])
                done += 1
                progress(done, total, f"stress test of {tap}")
    by_tap = {tap: [one[tap] for one in noisy] for tap in taps}
    return Stress(taps, clean, by_tap, pushed[down], pushed[up])
