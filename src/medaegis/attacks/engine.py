"""The attack engine: minimise an objective over a ball with a step rule. Every gradient attack is a value of `Attack`.

Per step: one forward and one backward to the pixels, nothing else. The result is rounded to 8-bit pixels and judged
again in float32; only that verdict counts. Where only breaking counts, images leave by the same verdict on their way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medaegis.attacks.balls import Ball, Linf
from medaegis.attacks.base import AnyAttack, AttackResult, Request, Until, is_reached, is_through
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.remaining import Remaining
from medaegis.attacks.steps import FLOAT_ERROR, Descent, Problem, StepRule
from medaegis.attacks.transforms import Transform
from medaegis.attacks.victim import Verdict, Victim
from medaegis.draws import Draws
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier

ASKED = 8  # steps between two looks at whether all images rest, or some seem broken, where a look waits for the device


@dataclass(frozen=True, kw_only=True)
class Attack(AnyAttack):
    """An attack: what to minimise, where, and how to walk.

    >>> import torch, medaegis as ma
    >>> from medaegis.attacks.losses.answer import CrossEntropy
    >>> mine = ma.Attack(objective=CrossEntropy(), steps=20, random_start=True, restarts=2)
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    >>> model = ma.wrap(network, classes=("normal", "pneumonia"), size=16, normalise=None)
    >>> x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> ma.attack(mine, model, x, model(x / 255).argmax(1), eps="32/255").fooled.tolist()
    [True, True, True, True]

    Args:
        objective: loss per image, minimised.
        ball: where the adversarial image may be.
        rule: how to walk.
        steps: gradient steps of one start.
        step_size: length of a step in units of eps; None: 2.5 / steps (Madry 2018), at least 1/8 grey level where the
            victim rounds.
        transforms: of the image before each look and of the gradient before each step.
        random_start: start at a random point of the ball instead of the clean image.
        restarts: starts in all; later ones go on only with the images that are not yet broken.
        samples: draws of a random Cushion that losses and gradients are averaged over at each step, new ones each time
            (EOT, Athalye et al. 2018; eq. 2 of "Synthesizing robust adversarial examples"). Where nothing in what is
            looked at is random, one is taken, whatever is asked: an attack is a value that also runs on the bare
            classifier, and the same gradient many times would only cost. A search gets one answer a query, by as many
            draws as a verdict. With restarts, an image counts as broken on the way if it is under so many draws of the
            attacker's own, or votes.
        exact: gradients in float32 whatever the victim's are: for attacks that come to rest at the boundary, which
            bfloat16 sees elsewhere.
    """

    objective: Objective
    ball: Ball = field(default_factory=Linf)
    rule: StepRule = field(default_factory=Descent)
    steps: int = 10
    step_size: float | None = None
    transforms: tuple[Transform, ...] = ()
    random_start: bool = False
    restarts: int = 1
    samples: int = 1
    exact: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.samples < 1:
            given = f"steps={self.steps}, restarts={self.restarts}, samples={self.samples}"
            raise ConfigError("attack", given, "give at least 1 of each")
        if self.restarts > 1 and not self.random_start:
            raise ConfigError("attack", "restarts from the same point repeat themselves", "set random_start=True")

    def with_options(self, **options: object) -> Attack:
        """A copy with some settings changed; None leaves a setting as it is."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]

    def passes(self, goal: Goal, classes: int) -> int:
        looks, pulls = self.objective.passes(goal, classes)
        each = self.samples * (looks + pulls) if self.rule.needs_gradient else looks
        return len(goal.labels) * self.steps * self.restarts * each

    @property
    def serves_any_task(self) -> bool:
        return self.objective.any_task and (self.objective.tells_by_sign or not self.rule.by_sign)

    def _run(self, victim: Victim, request: Request) -> AttackResult:
        started = time.perf_counter()
        images, labels, ids, seed = request.images, request.labels, request.ids, request.seed
        _check_images(images, request.batch_size, grid=victim.cushion.rounds)
        images = images.float()  # 8-bit values in float64 are the same ones
        _check_rows(victim.exact, request)
        _check_eps(len(images), request.eps, self.ball.largest(images[0].numel()))
        if request.guides is not None and request.guides.shape != images.shape:
            given = f"got {tuple(request.guides.shape)}"
            raise ConfigError("attack guides", given, f"give {tuple(images.shape)}, one each")
        radius = request.eps.expand(len(images))
        victim = victim.in_float32() if self.exact else victim
        everyone = request.goal
        verdicts: list[Verdict] = []
        done: list[tuple[Tensor, Tensor, Tensor]] = []
        forwards = checks = 0
        for start in range(0, len(images), request.batch_size):
            rows = slice(start, start + request.batch_size)
            goal = everyone[rows].to(victim.device)
            x = images[rows].to(victim.device)
            found, unmoved, spent, checked = self._batch(victim, x, goal, radius[rows], ids[rows], seed, request.until)
            judge = victim.drawn(ids[rows], seed=seed)
            verdicts.append(judge.judge(found).to(labels.device))
            if request.wrong is None:
                wrong = ~goal.task.is_right(judge.judge(x).predicted, goal.labels)
            else:
                wrong = request.wrong[rows]
            done.append((found.to(images.device), wrong.to(labels.device), unmoved.to(labels.device)))
            forwards, checks = forwards + spent, checks + checked
            request.progress(min(rows.stop, len(images)), len(images), "images attacked")
        verdict = Verdict.concatenate(verdicts)
        found, wrong, unmoved = map(torch.cat, zip(*done, strict=True))
        seconds = time.perf_counter() - started
        looks, pulls = self.objective.passes(everyone, len(victim.exact.classes))
        backwards = forwards * pulls if self.rule.needs_gradient else 0
        forwards *= looks
        reached = is_reached(verdict, everyone)
        return AttackResult(found, verdict, reached, wrong, unmoved, forwards, backwards, checks, seconds)

    def _batch(
        self, victim: Victim, x: Tensor, goal: Goal, eps: Tensor, ids: Tensor, seed: int, until: Until
    ) -> tuple[Tensor, Tensor, int, int]:
        """Attacked images, which of them are where their walk began, and the looks and the checks it took."""
        radius = eps.to(x).view(-1, 1, 1, 1)
        best, spent, checks = x.clone(), 0, 0
        best_loss = torch.full_like(radius.flatten(), torch.inf)
        broken, unmoved = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(2))
        for restart in range(self.restarts):
            rows = (~broken).nonzero().squeeze(1)
            if not len(rows):
                break
            clean, near, part, numbers = x[rows], radius[rows], goal[rows], ids[rows.cpu()]
            own = Draws(seed, numbers, f"attack/{restart}").to(x.device)
            practice = victim.drawn(numbers, seed=seed, stream=f"attack/{restart}")
            z = start = self.ball.random(clean, near, own.child("start")) if self.random_start else clean
            walked = self._walk(practice, clean, part, near, z, own, until)
            z, through = walked.point, walked.broken
            spent, checks = spent + walked.looks, checks + walked.checks
            if victim.cushion.rounds:
                start, z = (self.ball.to_8bit(point, clean, near) for point in (start, z))
            rests = ((z - start).abs() <= FLOAT_ERROR).flatten(1).all(1)
            loss, left = torch.zeros_like(best_loss[rows]), (~through).nonzero().squeeze(1)
            if self.restarts > 1 and len(left):  # with a single start there is nothing to choose between
                loss[left], through[left] = self._verify(practice.only(left), z[left], part[left])
            better = (loss < best_loss[rows]) | through
            best[rows[better]], best_loss[rows[better]] = z[better], loss[better]
            unmoved[rows[better]] = rests[better]
            broken[rows] = through
        return best, unmoved, spent, checks

    @torch.no_grad()
    def _verify(self, victim: Victim, z: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Loss and success of 8-bit images: the mean loss over draws of the attacker's own, success under each."""
        objective = self.objective.begin(victim, goal)
        losses, through = z.new_zeros(len(z)), torch.ones(len(z), dtype=torch.bool, device=z.device)
        draws = self.samples if victim.random else 1
        for sample in range(draws):
            drawn = victim.redrawn(f"verify/{sample}")
            through &= is_through(drawn.judge(z), goal)
            losses += objective(drawn.look(z, goal, objective))
        return losses / draws, through

    def descend(
        self, victim: Victim, x: Tensor, goal: Goal, eps: Tensor, z: Tensor, draws: Draws | None = None
    ) -> tuple[Tensor, int]:
        """Walk from `z`. `eps` is `(N, 1, 1, 1)`.

        Returns float images inside the ball, and the steps it took: fewer than asked where all images came to rest.

        `draws` feed what is random in the rule and the transforms; None: by the images' places. A random victim must be
        drawn for the batch; it is drawn anew for every look.
        """
        own = Draws(0, torch.arange(len(x), device=x.device), "attack") if draws is None else draws
        walked = self._walk(victim, x, goal, eps, z, own, "end")
        return walked.point, walked.steps

    def _walk(self, victim: Victim, x: Tensor, goal: Goal, eps: Tensor, z: Tensor, own: Draws, until: Until) -> _Walked:
        """The loop itself. Until "broken", images are judged after 1, 2, 4, 8, ... steps by gradients, and when a look
        says that one is through, and leave if it is so.
        """
        rounds = victim.cushion.rounds
        size = eps * (2.5 / self.steps if self.step_size is None else self.step_size)
        if self.step_size is None and rounds:
            size = size.clamp_min(1 / (8 * 255))
        problem = Problem(x, eps, size, self.steps, self.ball, own, goal.guides, goal.targets, rounds)
        walker = self.rule.begin(problem)
        draws = self.samples if victim.random else 1
        left = Remaining(victim, goal, self.objective.begin(victim, goal), problem, draws)
        kept = _Kept(x) if self.rule.keeps_best else None
        transformers = [transform.begin(self.steps, own) for transform in self.transforms]
        z = z.clone()
        # Of a query the answer is seen alone, so it is by as many draws as a verdict.
        samples = 1 if not victim.varies else self.samples if self.rule.needs_gradient else victim.votes
        asked = 1 if x.device.type == "cpu" else ASKED
        enough = samples if self.rule.needs_gradient else samples // 2 + 1  # draws it must get through: all, or most
        leaving, looks = until == "broken", 0
        for i in range(self.steps):
            if leaving and self.rule.needs_gradient and i.bit_count() == 1:
                left.let_go(z, f"{i}/check")
                if not len(left):
                    break
            looks += samples * len(left)
            objective = left.objective
            pull = objective.pull if self.rule.needs_gradient else objective.ask
            seen, agreed = [], torch.zeros(len(left), dtype=torch.int64, device=x.device)
            for sample in range(samples):
                drawn = left.victim.redrawn(f"{i}/{sample}")
                with torch.set_grad_enabled(self.rule.needs_gradient):
                    shown = here = left.of(z).requires_grad_(self.rule.needs_gradient)
                    if transformers:
                        shown = left.among(here, z)
                        for transformer in transformers:
                            shown = transformer.image(shown, i)
                        shown = left.of(shown)
                    view = drawn.look(shown, left.goal, objective)
                    losses, grad = pull(view, here)
                seen.append((losses.detach(), grad))
                if leaving or kept is not None:
                    agreed += view.through(shield=objective.needs_shield)
            with torch.no_grad():
                through = agreed >= enough
                if samples > 1:
                    losses, grad = (torch.stack(values).mean(0) for values in zip(*seen, strict=True))
                # To those that are gone nothing matters any more; a search that waits for them is content.
                losses = left.among(losses.detach(), -torch.inf)
                if kept is not None:
                    kept.see(z, losses, left.among(through, False))
                # Where the network gives no number there is no direction; the image stays, the others go on.
                grad = left.among(grad.nan_to_num(), 0)
                for transformer in transformers:
                    grad = transformer.gradient(grad)
                if leaving and (i + 1) % asked == 0:
                    left.let_go(z, f"{i}/told", told=through)
                    if not len(left):
                        break
                z = walker.step(z.detach(), grad, losses, i)
            if (i + 1) % asked == 0 and walker.rests():
                break
        point = left.point
        if len(left):
            point = left.complete(walker.result(z) if kept is None else kept.point)
        return _Walked(point, left.broken, i + 1, looks, left.checks)


@dataclass(frozen=True)
class _Walked:
    """Where a batch came to, which of it was let go as broken, the steps, looks at single images and checks it took."""

    point: Tensor
    broken: Tensor
    steps: int
    looks: int
    checks: int


class _Kept:
    """Of each image the best point looked at: one that got through before one that did not, then by the lowest loss.

    A joint loss can be lower where an image does not fool, and a ratio of logits (DLR) where the target comes second.
    """

    def __init__(self, x: Tensor) -> None:
        self.point = x
        self.lowest = torch.full((len(x),), torch.inf, dtype=torch.float32, device=x.device)
        self.through = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def see(self, z: Tensor, losses: Tensor, through: Tensor) -> None:
        """A point, its losses and whether it got through, `(N,)`; a loss that is no number is never lower."""
        better = torch.where(through == self.through, losses < self.lowest, through & losses.isfinite())
        self.point = torch.where(better.view(-1, 1, 1, 1), z.detach(), self.point)
        self.lowest = torch.where(better, losses, self.lowest)
        self.through = torch.where(better, through, self.through)


def _check_images(images: Tensor, batch_size: int, *, grid: bool) -> None:
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64) or not len(images):
        given = f"got {images.dtype} {tuple(images.shape)}"
        raise ConfigError("attack images", given, "give float32 images (N, C, H, W) in [0, 1], at least one")
    if batch_size < 1:
        raise ConfigError("attack", f"batch_size is {batch_size}", "give 1 or more")
    levels = images * 255
    off = grid and bool(((levels - levels.round()).abs() >= 1e-3).any())
    if off or not bool(((images >= 0) & (images <= 1)).all()):
        raise ConfigError("attack images", "values outside [0, 1] or off the 8-bit grid", "divide 8-bit pixels by 255")


def _check_rows(classifier: Classifier, request: Request) -> None:
    images, labels, targets = request.images, request.labels, request.targets
    n, size = len(images), (images.shape[2], images.shape[3])
    for what, rows, dtype in (("ids", request.ids, torch.int64), ("wrong", request.wrong, torch.bool)):
        if rows is not None and (rows.shape != (n,) or rows.dtype != dtype):
            kind = str(dtype).removeprefix("torch.")
            raise ConfigError(
                f"attack {what}", f"got {rows.dtype} {tuple(rows.shape)}", f"give {kind} ({n},), one per image"
            )
    for what, values in (("labels", labels), ("targets", targets)):
        if values is not None:
            classifier.task.check_labels(values, n, len(classifier.classes), size, what=what)
    if targets is not None and bool(classifier.task.reached(labels, targets).any()):
        raise ConfigError("attack targets", "a target equals the true class", "aim at another class")


def _check_eps(n: int, eps: Tensor, largest: float) -> None:
    if eps.shape not in ((), (n,)):
        raise ConfigError("attack eps", f"got shape {tuple(eps.shape)}", f"give one number, or one per image ({n},)")
    if not bool(((eps >= 0) & (eps <= largest)).all()):
        given = f"{eps.min().item():g} to {eps.max().item():g} is not in [0, {largest:g}]"
        raise ConfigError("attack eps", given, "give pixel units, as 16/256")
