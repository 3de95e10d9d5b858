"""Robust training as a value: how images are changed, what is minimised on them, how weights are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import Linf
from medaegis.attacks.base import Until
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.steps import Adaptive
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier
from medaegis.models.learning import Batch, Trainer
from medaegis.robust.losses import Answer, Distilled, RobustLoss
from medaegis.robust.perturbing import Inner, Noise

WATCHED, WATCH_STEPS = 200, 10  # images and steps of the attack that scores an epoch


class Robust(BaseModel):
    """How a classifier learns to withstand attacks; `parse_recipe` knows the ones that have a name.

    >>> from medaegis.robust import Inner, Robust, Trades
    >>> mine = Robust(inner=Inner(eps=8 / 255, steps=5), loss=Trades(beta=3.0), average=0.999)
    >>> mine.identity()["loss"]
    {'kind': 'trades', 'beta': 3.0}

    Attributes:
        inner: how images are changed; None: they are not, and no epoch is scored.
        loss: what is minimised.
        share: of each batch that is changed, the others are learned from as they are; with `Answer` alone.
        chance: of a batch being changed at all (MPAdvT).
        replays: steps for each batch, whose change goes on by the gradient of each (Shafahi 2019, algorithm 1): one
            pass then serves both. It starts anew for each batch, so that nothing need be kept. With `Answer` alone.
        average, awp: see `medaegis.models.learning.TrainingRecipe`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inner: Inner | Noise | None
    loss: RobustLoss = Field(default_factory=Answer)
    share: float = Field(default=1.0, gt=0, le=1)
    chance: float = Field(default=1.0, gt=0, le=1)
    replays: int = Field(default=1, ge=1)
    average: float = Field(default=0.0, ge=0, lt=1)
    awp: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Robust:
        if (self.share < 1 or self.replays > 1) and not isinstance(self.loss, Answer):
            raise ValueError("a share of the batch and replays go with the plain loss alone")
        if self.inner is None and not isinstance(self.loss, Answer | Distilled):
            raise ValueError("this loss is of changed images, and inner changes none")
        if self.inner is None and (self.share < 1 or self.chance < 1 or self.replays > 1):
            raise ValueError("nothing is changed, so there is no share, chance or replay of it")
        if self.replays > 1 and (isinstance(self.inner, Noise) or self.awp):
            raise ValueError("replays go on by the steps' own gradients, which noise and moved weights do not have")
        return self

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json") | {"loss": self.loss.identity()}

    def losses(self, learner: Trainer, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        if self.replays > 1:
            yield from self._replayed(learner, batch)
            return
        yield partial(self.loss, learner, batch, self.changed(learner, batch))

    def changed(self, learner: Trainer, batch: Batch) -> Tensor:
        """The images to learn from, in the order of the batch; the last ones are the changed share."""
        if self.inner is None:
            return batch.x
        if self.chance < 1:
            lot = Draws(batch.seed, torch.zeros(1, dtype=torch.int64), "robust/chance").uniform(1).item()
            if lot >= self.chance:
                return batch.x
        rows = slice(len(batch.x) - round(self.share * len(batch.x)), None)
        if rows.start == len(batch.x):  # too few for that share
            return batch.x
        part = Batch(batch.x[rows], batch.labels[rows], batch.ids[rows], batch.done, batch.seed)
        found = self.inner(learner.classifier, part)
        learner.spent(found.forwards, found.backwards)
        return torch.cat([batch.x[: rows.start], found.x])

    def _replayed(self, learner: Trainer, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        assert isinstance(self.inner, Inner)
        radius, size, _ = self.inner.drawn(batch)
        eps = batch.x.new_full((len(batch.x), 1, 1, 1), radius)
        z = Linf().random(batch.x, eps, Draws(batch.seed, batch.ids, "robust").to(batch.x.device))
        for _ in range(self.replays):
            z = z.detach().requires_grad_()
            yield partial(self.loss, learner, batch, z)
            assert z.grad is not None
            with torch.no_grad():
                z = Linf().project_(z + size * z.grad.sign(), batch.x, eps)

    @own_modes()
    def score(self, classifier: Classifier, dataset: Dataset, places: Sequence[int], *, seed: int) -> dict[str, Any]:
        """Robust accuracy over at most 200 validation images: under Auto-PGD (Croce 2020) at eps, or under the noise.

        Its first steps are as long as the ball is wide: a network that learns from short steps may stop only those.

        Of findings the share that is right, of masks the mean Dice. Nothing where images are not changed. With noise
        this alone counts, for such a classifier is asked about noisy images.
        """
        if self.inner is None:
            return {}
        task = classifier.task
        until: Until = "broken" if task.name == "single" else "end"  # elsewhere more than one answer can be lost
        chosen = torch.tensor(places)
        chosen = chosen[Draws(seed, dataset.ids[chosen], "robust/watched").keys().argsort(stable=True)[:WATCHED]]
        x, labels, ids = dataset.pixels(chosen, device=classifier.device), dataset.labels[chosen], dataset.ids[chosen]
        if isinstance(self.inner, Noise):
            changed = self.inner(classifier, Batch(x, labels, ids, 1.0, seed)).x
            with torch.no_grad():
                said = torch.cat([task.predicted(classifier(part)) for part in changed.split(64)]).cpu()
            right = float(task.quality(said, labels).double().mean())
            return {"robust_accuracy": right, "worth": right}
        attack = Attack(objective=CrossEntropy(), rule=Adaptive(), steps=WATCH_STEPS, random_start=True)
        run = attack.run(
            Victim(classifier), x, labels, eps=self.inner.eps, ids=ids, seed=seed, batch_size=64, until=until
        )
        return {"robust_accuracy": float(task.quality(run.verdict.predicted, labels).double().mean())}
