"""Measure how well a guard holds, and certify it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medaegis.ambient import own_modes
from medaegis.arrays import Images, Labels, as_dataset
from medaegis.bench.certify import certify_guard
from medaegis.bench.evaluate import evaluate_guard
from medaegis.bench.radius import Terms
from medaegis.bench.records.certificate import Certificate
from medaegis.bench.records.evaluation import Evaluation
from medaegis.bench.suites import plan_suite
from medaegis.guard.guard import Guard
from medaegis.guard.site import find_site
from medaegis.guard.smoothing import check_guard
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress, silent


@own_modes()
def evaluate(
    guard: Guard,
    images: Images,
    labels: Labels | None = None,
    *,
    out: Path | str,
    suite: str = "quick",
    patients: Sequence[object] | None = None,
    attacks: Sequence[str] | None = None,
    eps: Sequence[str] | None = None,
    steps: int | None = None,
    queries: int | None = None,
    limit: int | None = None,
    cascade: int | None = None,
    corruptions: bool = False,
    surrogates: Sequence[Classifier] = (),
    planted: bool = True,
    healthy: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Attack a guard with everything that a suite holds, with controls, by somebody who knows all of it.

    Of the images of its fit those are attacked that nothing was trained on, split as the fit split them; of other
    images those that it does not know. Called again after a kill it goes on where it was. `medaegis report` makes
    pages of the folder.

    >>> import tempfile, medaegis as ma
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = ma.evaluate(guard, "phantom-xray?n=240", out=folder, attacks=["pgd"], eps=["8/256"], limit=8)
    >>> [(cell.attack, cell.eps_text) for cell in found.cells], found.worst_case[0].n
    ([('pgd', '8/256')], 4)

    Args:
        images, labels, patients: as of `fit`.
        out: folder for the record, scores and pictures.
        suite: "quick" (minutes), "standard", "paper" or "worst-case" (`medaegis suites`); what follows takes the place
            of what it says: `attacks` (names), `eps`, `steps` of the attacks that know the guard, `queries` of those
            that see answers alone, `limit` (test images drawn).
        cascade: also tell of so many test images, more than `limit`, how many any of the attacks breaks; each is left
            alone once one does.
        corruptions: also tell what the guard does with harmless changes, such as noise, blur or another contrast, at
            five severities: how many diagnoses are right, how many images are accepted.
        surrogates: classifiers of somebody who knows nothing of the guard, to make conventional attacks on.
        planted: also train a weak Shield, and show that the attacks break it.
        healthy: the class that no disease is; None: the first.

    Raises:
        ConfigError, DataError, ArtefactError: see `evaluate_guard`, `plan_suite` and `find_site`.
    """
    plan = plan_suite(
        guard, suite, attacks=attacks, eps=eps, steps=steps, queries=queries, limit=limit, transfer=bool(surrogates)
    )
    dataset = as_dataset(images, labels, guard.classifier, patients=patients)
    return evaluate_guard(
        guard,
        find_site(guard, lambda *_: dataset, seed=seed),
        cells=plan.cells,
        surrogates=surrogates,
        out_dir=Path(out),
        limit=plan.limit,
        cascade=cascade,
        corruptions=corruptions,
        planted=planted,
        stamina=plan.stamina,
        healthy=healthy,
        seed=seed,
        command="ma.evaluate",
        progress=progress,
    )


@own_modes()
def certify(
    guard: Guard,
    images: Images,
    labels: Labels | None = None,
    *,
    out: Path | str,
    sigma: float = 0.25,
    radii: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    samples: int = 10_000,
    alpha: float = 0.001,
    patients: Sequence[object] | None = None,
    limit: int | None = None,
    calibrate: bool = True,
    attack_check: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> Certificate:
    """Certify a guard under noise: L2 radii within which no attack, known or not, gets a wrong diagnosis accepted.

    The certificate is of the smoothed guard, which gives a diagnosis only if more than half of many noisy copies of an
    image are accepted as it (`medaegis.guard.smoothing`). Which images: as of `evaluate`. Called again after a kill it
    goes on where it was.

    >>> import tempfile, medaegis as ma
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> options = {"sigma": 0.1, "radii": [0.05, 0.1], "samples": 200, "limit": 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = ma.certify(guard, "phantom-xray?n=240", out=folder, **options)
    >>> [row.radius for row in found.shares], found.n, len(found.images)
    ([0.0, 0.05, 0.1], 4, 4)
    >>> all(row.no_harm.share >= max(row.right.share, row.plain_no_harm.share) for row in found.shares)
    True

    Args:
        images, labels, patients: as of `fit`.
        out: folder for record and page.
        sigma: standard deviation of the noise, in units of full brightness; the classifier should be trained with it.
        radii: asked about, in units of full brightness.
        samples: noisy copies of an image at most.
        alpha: chance at most that anything said of an image is not so.
        limit: at most so many test images.
        calibrate: set the thresholds on noisy copies of validation images; else those of the guard stay.
        attack_check: attack so many certified images within their radius; none may be broken.

    Raises:
        ConfigError, DataError, ArtefactError: see `certify_guard`, `Terms` and `find_site`.
    """
    check_guard(guard)
    terms = Terms(sigma, tuple(sorted(set(radii))), samples, alpha)
    dataset = as_dataset(images, labels, guard.classifier, patients=patients)
    return certify_guard(
        guard,
        find_site(guard, lambda *_: dataset, seed=seed),
        terms=terms,
        out_dir=Path(out),
        limit=limit,
        calibrate=calibrate,
        attack_check=attack_check,
        seed=seed,
        command="ma.certify",
        progress=progress,
    )
