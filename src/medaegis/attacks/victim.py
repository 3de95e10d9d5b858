"""The victim: Cushion, classifier and Shields as one thing that an attack can differentiate and that gives verdicts.

Two copies of the classifier serve two purposes: a fast one for gradients (bfloat16 where the hardware has it), and an
exact one in float32 that alone decides whether an attack succeeded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.ambient import exact_float32, own_modes
from medaegis.attacks.objective import Goal, Objective, View
from medaegis.cushions import Cushion, Drawable, Gradient, cushion_with_gradient, parse_cushion, vote_shares
from medaegis.detectors.shield import ShieldBank
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier, DoesNotRun
from medaegis.models.hardware import has_fast_bfloat16
from medaegis.models.taps import pool


@dataclass(frozen=True)
class Verdict:
    """What the protected network says in float32: one row per image.

    Attributes:
        logits: of the classifier on the cushioned image, `(N, K)`, or as its task has them.
        predicted: class, int64 `(N,)`, likewise.
        score: calibrated suspicion by the Shield that judges (`Task.shield_of`), `(N,)`; zeros without Shields.
        accepted: everything is finite and the score at most 1, bool `(N,)`; without Shields nothing is rejected.
    """

    logits: Tensor
    predicted: Tensor
    score: Tensor
    accepted: Tensor

    def __getitem__(self, rows: Tensor) -> Verdict:
        return Verdict(*(value[rows] for value in self._columns()))

    def to(self, device: torch.device) -> Verdict:
        return Verdict(*(value.to(device) for value in self._columns()))

    def replaced(self, rows: Tensor, other: Verdict) -> Verdict:
        """With `other` in these rows `(M,)`."""
        columns = zip(self._columns(), other._columns(), strict=True)
        return Verdict(*(old.index_put((rows.to(old.device),), new) for old, new in columns))

    @staticmethod
    def concatenate(parts: list[Verdict]) -> Verdict:
        return Verdict(*map(torch.cat, zip(*(part._columns() for part in parts), strict=True)))

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.logits, self.predicted, self.score, self.accepted


def check_batch_size(batch_size: object) -> None:
    """Raises ConfigError unless it is a whole number above 0."""
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigError("batch_size", f"got {batch_size!r:.40}", "give a whole number above 0")


class Victim:
    """What an attack is aimed at.

    >>> import medaegis as ma
    >>> from medaegis.cushions import parse_cushion
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> data = ma.load_dataset("phantom-xray?n=8", size=32, channels="gray")
    >>> behind = ma.Victim(guard.classifier, cushion=parse_cushion("jpeg:60"))  # with a Cushion and without Shields
    >>> ma.attack("pgd", behind, data.images, data.labels, eps="8/256", steps=2).fooled.shape
    torch.Size([8])

    Where its Cushion is random, a batch needs its draws first (`drawn`). Draws are a function of seed, stream and the
    image's number, and each purpose has a stream of its own: the attacker knows the distribution and draws as often as
    he likes, but the draw that judges an image is one that he neither knows nor meets on the way, and there is one
    verdict per image. It is the same for every attack on that image, which is submitted once. Where its Cushion votes,
    that verdict is by many draws, and a look is at one of them.

    Args:
        classifier: the protected network.
        cushion: filter in front of it (None: no filter).
        shields: detectors behind it (None: a bare classifier).
        gradient: how a gradient passes the Cushion: straight through ("bpda"), by its differentiable twin ("twin"), or
            not at all ("skip": the attack walks as if there were no Cushion).
        dtype: arithmetic of the gradients; None takes bfloat16 where the hardware multiplies it natively and the
            network runs in it.
        fold: fold batch norm into the convolutions (exact up to rounding).
    """

    @own_modes()
    def __init__(
        self,
        classifier: Classifier,
        *,
        cushion: Cushion | None = None,
        shields: ShieldBank | None = None,
        gradient: Gradient = "bpda",
        dtype: torch.dtype | None = None,
        fold: bool = True,
    ) -> None:
        self.cushion = cushion if cushion is not None else parse_cushion("none")
        self.gradient = gradient
        self.shields = _differentiable(shields)
        self._dice = self.cushion if isinstance(self.cushion, Drawable) else None
        self._stage = "victim"
        self._draws: tuple[int, str, list[int]] | None = None
        self.exact = self.fast = classifier.frozen(fold=fold)
        # A probability in bfloat16 is 1 from 0.997 on, and has no gradient there.
        coarse = has_fast_bfloat16(classifier.device) and classifier.outputs.form == "logits"
        if dtype is None and coarse:
            with suppress(DoesNotRun):  # as one that goes through NumPy, which knows no bfloat16
                self.fast = classifier.frozen(dtype=torch.bfloat16, fold=fold)
        elif dtype not in (None, torch.float32):
            self.fast = classifier.frozen(dtype=dtype, fold=fold)
        self.dtype = self.fast.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes; images it looks at and judges must be there."""
        return self.exact.device

    @property
    def random(self) -> bool:
        """Whether two verdicts on the same image may differ: the Cushion is random."""
        return self._dice is not None

    @property
    def votes(self) -> int:
        """Draws of its Cushion that a verdict is by."""
        return self.cushion.votes

    @property
    def varies(self) -> bool:
        """Whether two looks at the same image may differ: they see a random Cushion, and do not leave it out."""
        return self.random and self.gradient != "skip"

    def drawn(self, ids: Tensor, *, seed: int, stream: str = "verdict") -> Victim:
        """The same before a batch of these images `(N,)`, their draws made; itself if nothing in it is random.

        Args:
            stream: what the draws are for; "verdict" are those that judge, and no attack takes them to walk by.
        """
        return self if self._dice is None else self._before(seed, f"{self._stage}/{stream}", ids.tolist())

    def redrawn(self, turn: str) -> Victim:
        """The same at other draws for its batch, named within the stream; itself if nothing in it is random."""
        if self._dice is None:
            return self
        seed, stream, ids = self._drawn_before()
        return self._but(cushion=self._dice.draw(seed, f"{stream}/{turn}", ids))

    def only(self, rows: Tensor) -> Victim:
        """The same before these images `(M,)` of the batch it was drawn for; itself if nothing in it is random."""
        if self._dice is None:
            return self
        seed, stream, ids = self._drawn_before()
        return self._before(seed, stream, [ids[row] for row in rows.tolist()])

    def _before(self, seed: int, stream: str, ids: list[int]) -> Victim:
        assert self._dice is not None
        return self._but(_draws=(seed, stream, ids), cushion=self._dice.draw(seed, stream, ids))

    def _drawn_before(self) -> tuple[int, str, list[int]]:
        if self._draws is None:
            raise ConfigError(f"cushion {self.cushion.spec}", "is random and nothing is drawn", "draw first")
        return self._draws

    def rehearsal(self) -> Victim:
        """The same as the attacker tries it out at home, verdicts by draws of his own; itself if nothing is random."""
        return self if self._dice is None else self._but(_stage=f"{self._stage}/rehearsal")

    def behind(self, cushion: Cushion) -> Victim:
        """The same classifier and Shields behind another Cushion."""
        return self._but(cushion=cushion, _draws=None, _dice=cushion if isinstance(cushion, Drawable) else None)

    def by(self, gradient: Gradient) -> Victim:
        """The same with gradients that pass its Cushion another way."""
        return self._but(gradient=gradient)

    def in_float32(self) -> Victim:
        """The same with gradients of the exact copy."""
        return self._but(dtype=torch.float32, fast=self.exact)

    def _but(self, **changed: object) -> Victim:
        """The same with these attributes changed."""
        mine = copy.copy(self)
        vars(mine).update(changed)
        return mine

    def look(self, z: Tensor, goal: Goal, objective: Objective) -> View:
        """One pass over `z` `(N, C, H, W)` that computes just what `objective` needs.

        With gradients it is the fast copy's; without, the exact one's: a query is answered as the deployed guard would.
        """
        x = cushion_with_gradient(self.cushion, z, self.gradient)
        by_class = objective.needs_shield and goal.task.name == "single"  # which of several Shields will judge
        needs_logits = objective.needs_logits or (by_class and goal.targets is None)
        taps = objective.taps
        if objective.needs_shield and self.shields is not None:
            taps = tuple(dict.fromkeys((*taps, *self.shields.taps)))
        if torch.is_grad_enabled():
            shields: Callable[[dict[str, Tensor], Tensor], Tensor] | None = self.fast_shields
            seen = self.fast.activations(x, logits=needs_logits, taps=taps)
        else:
            shields = self.shields
            with exact_float32():
                seen = self.exact.activations(x, logits=needs_logits, taps=taps)
        if self.shields is None:
            return View(goal, seen.logits, seen.features, pixels=z, target=self)
        return View(goal, seen.logits, seen.features, shields, self.shields.suspicion, z, self)

    def fast_shields(self, features: dict[str, Tensor], classes: Tensor) -> Tensor:
        """Logits `(N,)` of the Shields of these classes `(N,)` on features of the fast copy, in its arithmetic."""
        assert self.shields is not None
        reduced = self.dtype != torch.float32
        # No cache: inside a caller's autocast it would outlive an update, and the weights before it.
        with torch.autocast(classes.device.type, self.dtype, cache_enabled=False) if reduced else nullcontext():
            logits: Tensor = self.shields(features, classes)
            return logits

    @own_modes()
    @exact_float32()
    @torch.no_grad()
    def judge(self, images: Tensor) -> Verdict:
        """Verdict in float32 on images as they would be read from disk (8-bit values k / 255)."""
        bank, task = self.shields, self.exact.task
        if self.votes > 1:
            logits, said = self.vote(images)
            predicted = task.predicted(logits)
        else:
            seen = self.exact.activations(self.cushion(images).float(), taps=() if bank is None else bank.taps)
            assert seen.logits is not None
            logits, predicted = seen.logits, task.predicted(seen.logits)
            said = None if bank is None else bank(seen.features, task.shield_of(predicted))
        finite = logits.isfinite().flatten(1).all(1)
        if bank is None or said is None:
            return Verdict(logits, predicted, torch.zeros_like(finite, dtype=torch.float32), finite)
        score = bank.suspicion(said, task.shield_of(predicted))
        return Verdict(logits, predicted, score, (score <= 1) & score.isfinite() & finite)

    @own_modes()
    @exact_float32()
    @torch.no_grad()
    def vote(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """A vote over the draws of its Cushion.

        Returns:
            Logarithms of the classes' shares of the votes, `(N, K)` (`vote_shares`); and with Shields the logit of that
            of the elected class which more than half of the draws reach, `(N,)`. NaN where any draw gave one.
        """
        self.exact.check_single(f"cushion {self.cushion.spec}")
        taps = () if self.shields is None else self.shields.taps
        answers, trusted = [], []
        for ballot in self.cushion.ballots():
            seen = self.exact.activations(ballot(images).float(), taps=taps)
            assert seen.logits is not None
            answers.append(seen.logits)
            if self.shields is not None:
                classes = torch.arange(seen.logits.shape[1], device=seen.logits.device)
                each = [self.shields(seen.features, k.expand(len(images))) for k in classes]
                trusted.append(torch.stack(each, 1))
        logits = torch.stack(answers)
        shares = torch.where(logits.isfinite().all(2).all(0).unsqueeze(1), vote_shares(logits), torch.nan)
        if not trusted:
            return shares.log(), None
        elected = torch.stack(trusted)[:, torch.arange(len(images)), shares.argmax(1)]
        middle = elected.sort(0, descending=True).values[self.votes // 2]
        return shares.log(), torch.where(elected.isfinite().all(0), middle, torch.nan)

    def verdicts(
        self, images: Tensor, ids: Tensor | None = None, *, seed: int = 0, stream: str = "verdict", batch_size: int = 32
    ) -> Verdict:
        """`judge` of any number of images, on their device; where the Cushion is random, by the draws that judge.

        Args:
            ids: one number per image, for its draw; None: its position.
        """
        check_batch_size(batch_size)
        ids = torch.arange(len(images)) if ids is None else ids
        parts = []
        for part, numbers in zip(images.split(batch_size), ids.split(batch_size), strict=True):
            verdict = self.drawn(numbers, seed=seed, stream=stream).judge(part.to(self.device))
            parts.append(verdict.to(images.device))
        return Verdict.concatenate(parts)

    def pooled(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Channel means `(N, C)` of the tapped features in float32, behind the Cushion; draws by place."""
        return self.features(images, taps, torch.arange(len(images)), pool)

    @own_modes()
    @exact_float32()
    @torch.no_grad()
    def features(
        self, images: Tensor, taps: tuple[str, ...], ids: Tensor, form: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The tapped features of any number of images, by tap, each batch in this form; behind the Cushion.

        Args:
            ids: one number per image `(N,)`, for its draw where the Cushion is random.
        """
        parts = []
        for part, numbers in zip(images.split(64), ids.split(64), strict=True):
            cushion = self.drawn(numbers, seed=0, stream="pooled").cushion
            seen = self.exact.activations(cushion(part.to(self.device)), logits=False, taps=taps)
            parts.append({tap: form(values) for tap, values in seen.features.items()})
        return {tap: torch.cat([part[tap] for part in parts]) for tap in taps}

    @own_modes()
    @exact_float32()
    @torch.no_grad()
    def suspicion(self, images: Tensor, classes: Tensor) -> Tensor:
        """Calibrated suspicion in float32 by Shields of these numbers `(N,)`, whatever the classifier says.

        Of a vote the middle one, which more than half of the draws do not exceed.
        """
        if self.shields is None:
            raise ConfigError("suspicion", "the victim has no Shields", "give it shields")
        found = []
        for ballot in self.cushion.ballots():
            seen = self.exact.activations(ballot(images), logits=False, taps=self.shields.taps)
            found.append(self.shields.suspicion(self.shields(seen.features, classes), classes))
        return torch.stack(found).sort(0).values[len(found) // 2]


def _differentiable(shields: ShieldBank | None) -> ShieldBank | None:
    """The very bank, which may be in training; a copy of one that was made in inference mode, whose tensors have no use
    in a gradient.
    """
    made_in = shields is not None and any(t.is_inference() for t in (*shields.parameters(), *shields.buffers()))
    return copy.deepcopy(shields) if made_in else shields
