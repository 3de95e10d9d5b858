"""What every attack has in common: how it is run, and what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import Ball
from medaegis.attacks.normal import Mixtures
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.victim import Verdict, Victim
from medaegis.errors import ConfigError
from medaegis.progress import Progress, silent
from medaegis.task import SINGLE, PredictionTask

Until = Literal["end", "broken"]


@dataclass(frozen=True)
class AttackResult:
    """What an attack made of each image; all tensors have one row per image.

    >>> import medaegis as ma
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> data = ma.load_dataset("phantom-xray?n=8", size=32, channels="gray")
    >>> result = ma.attack("wb", guard, data.images, data.labels, eps="8/256", steps=2)
    >>> result.images.shape, result.broken.shape
    (torch.Size([8, 1, 32, 32]), torch.Size([8]))
    >>> bool((result.broken <= result.fooled).all())
    True

    Attributes:
        images: adversarial images, 8-bit values k / 255 in float32 (any float where the victim's Cushion does not
            round), inside the ball.
        verdict: of the victim on those images.
        reached: the classifier says what the attacker wants: his target, or where any wrong class will do, one of them.
        wrong: the classifier was wrong from the start, about the clean image.
        unmoved: the image is where the walk began.
        forwards, backwards: passes over single images that were spent on gradients; verdicts are not counted.
        checks: verdicts on single images on the way, after which those that were broken left (`until="broken"`).
        seconds: wall time.
    """

    images: Tensor
    verdict: Verdict
    reached: Tensor
    wrong: Tensor
    unmoved: Tensor
    forwards: int
    backwards: int
    checks: int
    seconds: float

    @property
    def fooled(self) -> Tensor:
        """The attack made the classifier say what the attacker wants; what was wrong from the start does not count."""
        return self.reached & ~self.wrong

    @property
    def broken(self) -> Tensor:
        """Fooled and accepted by the Shield: the attack got through."""
        return self.fooled & self.verdict.accepted

    @property
    def still(self) -> Tensor:
        """The attack stood still, without success: neither a gradient nor an answer led it away from its start."""
        return self.unmoved & ~self.reached

    def judged(self, verdict: Verdict, goal: Goal, *, clean: Verdict | None = None) -> AttackResult:
        """The same images under another verdict, or for another goal.

        Args:
            clean: the other verdict on the clean images; None: what was wrong from the start is so still.
        """
        wrong = self.wrong if clean is None else ~goal.task.is_right(clean.predicted, goal.labels)
        return replace(self, verdict=verdict, reached=is_reached(verdict, goal), wrong=wrong)

    def __getitem__(self, rows: Tensor) -> AttackResult:
        """Of these images; the costs stay those of all."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, **columns)

    def replaced(self, rows: Tensor, found: AttackResult) -> AttackResult:
        """With `found` in these rows `(M,)`; the costs are those of both together."""
        both: dict[str, Any] = {name: getattr(self, name) + getattr(found, name) for name in _COSTS}
        for name in _COLUMNS:
            old, new = getattr(self, name), getattr(found, name)
            both[name] = old.replaced(rows, new) if name == "verdict" else old.index_put((rows.to(old.device),), new)
        return replace(self, **both)


_COLUMNS = ("images", "verdict", "reached", "wrong", "unmoved")
_COSTS = ("forwards", "backwards", "checks", "seconds")


@dataclass(frozen=True)
class Request:
    """What an attack is asked for; the attributes are the arguments of `AnyAttack.run`."""

    images: Tensor
    labels: Tensor
    eps: Tensor
    targets: Tensor | None
    only_target: bool
    guides: Tensor | None
    normal: Mixtures | None
    known: tuple[Tensor, Tensor] | None
    ids: Tensor
    seed: int
    batch_size: int
    until: Until
    progress: Progress
    wrong: Tensor | None
    task: PredictionTask = SINGLE

    def __getitem__(self, rows: Tensor) -> Request:
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            eps=self.eps[rows] if self.eps.ndim else self.eps,
            targets=None if self.targets is None else self.targets[rows],
            guides=None if self.guides is None else self.guides[rows],
            ids=self.ids[rows],
            wrong=None if self.wrong is None else self.wrong[rows],
        )

    @property
    def goal(self) -> Goal:
        return Goal(self.labels, self.targets, self.guides, self.normal, self.only_target, self.task)


class AnyAttack(ABC):
    """A walk over each image (`Attack`), several of them (`Ensemble`), or what is learned for all images (`Learner`).

    Attributes:
        objective: what it minimises; of several attacks together, it says what any of them needs.
        ball: where its images are.
        steps, restarts, samples: gradient steps of one start, starts, and draws of a random Cushion at each step.
        random_start: whether it starts at a random point of the ball.
        learns: whether it learns from known images before it attacks others.
    """

    learns: ClassVar[bool] = False

    if TYPE_CHECKING:

        @property
        def objective(self) -> Objective: ...
        @property
        def ball(self) -> Ball: ...
        @property
        def steps(self) -> int: ...
        @property
        def restarts(self) -> int: ...
        @property
        def samples(self) -> int: ...
        @property
        def random_start(self) -> bool: ...

    @abstractmethod
    def with_options(
        self, *, steps: int | None = None, restarts: int | None = None, samples: int | None = None
    ) -> Self:
        """A copy with some settings changed; None leaves a setting as it is."""

    @property
    def serves_any_task(self) -> bool:
        """Whether it attacks what is said of findings and masks too."""
        return False

    def followed(self, classes: int) -> tuple[Objective, ...]:
        """The losses that it walks by on a classifier of so many classes."""
        return (self.objective,)

    @abstractmethod
    def passes(self, goal: Goal, classes: int) -> int:
        """Forwards and backwards together that it takes at most for the images of this goal."""

    @own_modes()
    def run(
        self,
        victim: Victim,
        images: Tensor,
        labels: Tensor,
        *,
        eps: float | Tensor,
        targets: Tensor | None = None,
        only_target: bool = True,
        guides: Tensor | None = None,
        normal: Mixtures | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 32,
        until: Until = "end",
        progress: Progress = silent,
        wrong: Tensor | None = None,
    ) -> AttackResult:
        """Attack every image.

        Args:
            images: `(N, C, H, W)` in [0, 1], on the 8-bit grid (values k / 255) where the victim rounds, float32 or
                float64; results are float32 and come back to their device.
            labels: true classes, int64 `(N,)`, or as the victim's task has them.
            eps: radius in pixel units, one number or one per image `(N,)`.
            targets: wanted classes, likewise; None: untargeted.
            only_target: with targets, no other wrong class counts as success, nor ends a restart.
            guides: clean images to imitate, `(N, C, H, W)`, for objectives that do.
            normal: mixtures of clean features (`fit_mixtures`), for objectives that hide among them.
            known: images and labels to learn from, none of the attacked ones among them, for attacks that do.
            ids: one number per image that seeds its random starts, and the draws of a random Cushion; None: its
                position.
            until: "broken": an image leaves as soon as it is broken, judged as results are, and its result is the image
                that broke. Nobody breaks less: what would be broken in the end is. Before a random Cushion the
                attacker's own draws say when. What looks for the smallest change stops at the first one within eps.
            wrong: which images are diagnosed wrongly when clean, bool `(N,)`, where that is known; None: the victim is
                asked, one forward each.

        Raises:
            ConfigError: no images, or some outside [0, 1] or off the 8-bit grid; labels, targets, ids or eps that do
                not fit; a target equal to the label; a batch size below 1; another `until`.
        """
        if until not in get_args(Until):
            raise ConfigError(f"until {until!r}", "unknown", f"give {' or '.join(map(repr, get_args(Until)))}")
        task = victim.exact.task
        if task.name != "single" and not self.serves_any_task:
            remedy = "take one that is for it, as fgsm, pgd, mim, cw-linf, apgd-ce or square"
            raise ConfigError("attack", f"is for one class an image, and here it is {task.title}", remedy)
        radius = torch.as_tensor(eps, dtype=torch.float32)
        ids = torch.arange(len(images)) if ids is None else ids
        options = (targets, only_target, guides, normal, known, ids, seed, batch_size, until, progress, wrong)
        return self._run(victim, Request(images, labels, radius, *options, task))

    def curve(
        self,
        victim: Victim,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Sequence[float],
        until: Until = "end",
        progress: Progress = silent,
        **options: Any,
    ) -> list[AttackResult]:
        """`run` at several radii, a result each.

        Until "broken", an image that broke at one radius has that result, which lies in the larger balls, at every
        larger one too, and is not attacked there. Passes and seconds are those of the images attacked at a radius.

        Args:
            options: of `run`.
        """
        of_each = {"ids": torch.arange(len(images)) if options.get("ids") is None else options["ids"]}
        of_each |= {name: options[name] for name in ("targets", "guides", "wrong") if options.get(name) is not None}
        radii = sorted(set(eps))
        found: dict[float, AttackResult] = {}
        last: AttackResult | None = None
        for place, radius in enumerate(radii):

            def told(done: int, total: int, message: str, before: int = place) -> None:
                progress(before * total + done, len(radii) * total, message)

            rows = torch.arange(len(images))
            if until == "broken" and last is not None:
                rows = (~last.broken).nonzero().squeeze(1).cpu()
                last = replace(last, forwards=0, backwards=0, checks=0, seconds=0.0)
            if len(rows) or last is None:
                mine = {name: values[rows] for name, values in of_each.items()}
                run: dict[str, Any] = {**options, **mine, "eps": radius, "until": until, "progress": told}
                part = self.run(victim, images[rows], labels[rows], **run)
                last = part if last is None or until == "end" else last.replaced(rows, part)
            found[radius] = last
        return [found[radius] for radius in eps]

    @abstractmethod
    def _run(self, victim: Victim, request: Request) -> AttackResult: ...


def is_through(verdict: Verdict, goal: Goal) -> Tensor:
    """Whether each verdict is what the attacker wants, and the image accepted."""
    return goal.reached(verdict.predicted) & verdict.accepted


def is_reached(verdict: Verdict, goal: Goal) -> Tensor:
    """Whether each verdict is what the attacker wants, and not for want of a number."""
    return goal.reached(verdict.predicted) & verdict.logits.isfinite().flatten(1).all(1)
