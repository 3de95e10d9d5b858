"""The images under attack: what a plan asks for, the outcomes piece by piece, and the figures of each cell.

Each chunk of images is stored when it is done, so a killed evaluation goes on there.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import Tensor

from medaegis.attacks.balls import Linf
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.entry import AnyAttack
from medaegis.attacks.known import Known
from medaegis.attacks.objective import Goal
from medaegis.attacks.transfer import transfer
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.lessons import taught
from medaegis.bench.metrics import Interval, auroc, auroc_interval, share_interval, tpr_at_tnr
from medaegis.bench.outcome import Outcomes, as_array, as_scores, broken_by, further, within
from medaegis.bench.plan import Planned, attacker_of, norm_of
from medaegis.bench.records.archive import Array
from medaegis.bench.records.evaluation import (
    Attacker,
    Cell,
    ClassResult,
    Confusion,
    Example,
    JudgedImage,
    Missed,
    Through,
    WorstCase,
)
from medaegis.bench.sample import draw
from medaegis.bench.store import BATCH, Piece, Store, flops, images_per_piece
from medaegis.bench.surrogates import Surrogate
from medaegis.cushions import Gradient
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset
from medaegis.progress import Progress

EXAMPLES = 4
SHOWN_THROUGH = 48  # images that got through whose pixels are kept


class Field:
    """The images under attack: those of the chosen test images that the guard's classifier gets right.

    Attributes:
        chosen: rows of `test` that the shares are taken over; right: the attacked ones among them.
        known: other clean images, in the attacker's hands; None where no attack needs them.
        healthy: number of the class that no disease is.
        surrogate: what he attacks who knows nothing of the guard; None where no cell is transferred.
        genuine: every row of `test` diagnosed rightly when clean: what attacked images are told from (AUROC), as HFC
            section 5.1 drops the misclassified ones. A misdiagnosis that is rejected is no false alarm.
    """

    def __init__(
        self,
        guard: Guard,
        test: Dataset,
        clean: Verdict,
        chosen: Tensor,
        seed: int,
        store: Store,
        key: dict[str, object],
        known: Known | None = None,
        surrogate: Surrogate | None = None,
        healthy: int = 0,
    ) -> None:
        self.guard, self.test, self.clean, self.seed = guard, test, clean, seed
        self.store, self.key, self.known, self.surrogate = store, key, known, surrogate
        self.healthy = healthy
        self.chosen = chosen
        self.genuine = (clean.predicted == test.labels).nonzero().squeeze(1)
        self.right = chosen[clean.predicted[chosen] == test.labels[chosen]]
        self.labels = test.labels[self.right]
        self.targets = pick_targets(self.labels, len(test.classes), ids=test.ids[self.right], seed=seed)
        self.accepted = clean.accepted[self.right]
        self._victims: dict[str, Victim] = {}
        self._flops: int | None = None

    def few(self, n: int) -> Tensor:
        """Places of at most n attacked images, the classes in proportion: test images come sorted by class."""
        return draw(self.labels, n, self.seed)

    def only(self, places: Tensor) -> Field:
        """The field with these attacked images only."""
        small = copy.copy(self)
        small.right, small.labels, small.targets = self.right[places], self.labels[places], self.targets[places]
        small.accepted = self.accepted[places]
        return small

    def against(self, guard: Guard) -> Field:
        """The same images against another guard of the same classifier and Cushion."""
        other = copy.copy(self)
        other.guard, other.key = guard, {**self.key, "guard": guard.fingerprint()}
        other._victims = {}
        return other

    def victim(self, gradient: Gradient) -> Victim:
        if "guard" not in self._victims:
            self._victims["guard"] = self.guard.victim()
        return self._victims["guard"].by(gradient)

    def bare(self) -> Victim:
        """The classifier alone, without Cushion and Shield."""
        if "bare" not in self._victims:
            self._victims["bare"] = Victim(self.guard.classifier)
        return self._victims["bare"]

    def attack(self, planned: Planned, progress: Progress) -> Piece:
        """Adversarial images, scores and verdicts of a cell, chunk by chunk, each stored when done."""
        parts = []
        attacked, key = self._attacked(planned)
        attack, cost = self._taught(planned, attacked, key)
        size = self._piece_size(planned)
        for start in range(0, len(self.right), size):
            rows = slice(start, start + size)
            parts.append(self._chunk(attack, attacked, key, planned, rows))
            progress(min(start + size, len(self.right)), len(self.right), planned.id)
        piece = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        piece["cost"] = torch.cat([cost, piece["cost"]])
        return piece

    def _attacked(self, planned: Planned) -> tuple[Victim, dict[str, object]]:
        """Whose gradients are followed, and what names him."""
        if planned.transferred:
            assert self.surrogate is not None, "checked before any hour is spent"
            return self.surrogate.victim, {**self.key, "surrogates": self.surrogate.key}
        return self.victim(planned.gradient), {**self.key, "gradient": planned.gradient}

    def _taught(self, planned: Planned, victim: Victim, key: dict[str, object]) -> tuple[AnyAttack, Tensor]:
        return taught(planned.value, victim, self.known, self.targets, eps=planned.eps, store=self.store, key=key)

    def _piece_size(self, planned: Planned) -> int:
        if self._flops is None:
            self._flops = flops(self.guard.judge, self.test.pixels(self.right[:1]))
        device = self.victim(planned.gradient).device
        return images_per_piece(planned.value, self._flops, device)

    def _chunk(
        self, attack: AnyAttack, attacked: Victim, key: dict[str, object], planned: Planned, rows: slice
    ) -> Piece:
        """`attack` is the value of `planned`, or what that learned."""
        victim = self.victim(planned.gradient)
        ids = self.test.ids[self.right[rows]]
        key = {
            **key,
            "attack": repr(planned.value),
            "eps": planned.eps,
            "dtype": str(attacked.dtype),
            "ids": ids.tolist(),
            "labels": self.labels[rows].tolist(),
            "images": hashlib.sha256(self.test.images[self.right[rows]].numpy().tobytes()).hexdigest(),
        }
        adaptive = find_attack(planned.attack).adaptive
        if self.known is not None and self.known.serve(planned.value):
            key["known"] = self.known.key_for(planned.value)

        def compute() -> Piece:
            pixels = self.test.pixels(self.right[rows])
            labels, targets = self.labels[rows], self.targets[rows]
            options: dict[str, Any] = {"eps": planned.eps, "targets": targets, "ids": ids, "seed": self.seed}
            options["only_target"] = False  # whatever class comes out, a wrong one that is accepted does harm
            if self.known is not None:
                options |= self.known.options(attack, attacked, pixels, targets, ids)
            if planned.transferred:
                found = transfer(attack, attacked, victim, pixels, labels, **options, batch_size=BATCH)
            else:
                found = attack.run(victim, pixels, labels, **options, batch_size=BATCH)
            judged = victim.drawn(ids, seed=self.seed)
            piece = {
                "images": (found.images * 255).round().to(torch.uint8),
                "score": as_scores(found.verdict.score),
                "predicted": found.verdict.predicted,
                "accepted": found.verdict.accepted,
                "wanted": as_scores(judged.suspicion(found.images.to(victim.device), targets.to(victim.device)).cpu()),
                "fooled": found.fooled,
                "cost": torch.tensor([found.seconds, found.forwards, found.backwards]).expand(1, 3).double(),
            }
            if planned.transferred:
                bare = self.bare().judge(found.images.to(victim.device)).to(labels.device)
                piece["fooled_bare"] = found.judged(bare, Goal(labels)).reached
            elif not adaptive:
                alone, _ = self._taught(planned, self.bare(), {**self.key, "victim": "classifier"})
                piece["fooled_bare"] = alone.run(self.bare(), pixels, labels, **options, batch_size=BATCH).reached
            return piece

        return self.store.get(key, compute)

    def cell(self, planned: Planned, piece: Piece) -> Cell:
        """The figures of a cell."""
        attack, entry = planned.value, find_attack(planned.attack)
        clean, attacked = as_array(self.clean.score[self.genuine]), as_array(piece["score"])
        fooled = piece["fooled"].numpy()
        interval = self._auroc(piece["score"])
        undetected, robust = self._shares(piece["fooled"] & piece["accepted"])
        seconds, forwards, backwards = piece["cost"].sum(0).tolist()
        by_class = {}
        for k, name in enumerate(self.test.classes):
            rows = self.labels == k
            if rows.any():
                by_class[name] = self._of_class(piece, rows)
        return Cell(
            id=planned.id,
            attack=planned.attack,
            title=self._title(planned),
            access=planned.access,
            adaptive=entry.adaptive,
            eps=planned.eps,
            eps_text=planned.eps_text,
            norm=norm_of(planned),
            steps=attack.steps,
            restarts=attack.restarts,
            gradient=None if planned.transferred else planned.gradient,
            samples=planned.samples,
            n=len(fooled),
            success=float(fooled.mean()),
            success_on_classifier=float(piece["fooled_bare"].float().mean()) if "fooled_bare" in piece else None,
            auroc=interval.value,
            auroc_interval=(interval.low, interval.high),
            auroc_fooling=auroc(clean, attacked[fooled]) if fooled.any() else None,
            auroc_wanted=auroc(clean, as_array(piece["wanted"])),
            tpr90=tpr_at_tnr(clean, attacked, 0.90),
            tpr95=tpr_at_tnr(clean, attacked, 0.95),
            tpr99=tpr_at_tnr(clean, attacked, 0.99),
            undetected=undetected.value,
            undetected_interval=(undetected.low, undetected.high),
            robust_accuracy=robust.value,
            robust_accuracy_interval=(robust.low, robust.high),
            seconds=seconds,
            forwards=int(forwards),
            backwards=int(backwards),
            seed=self.seed,
            by_class=by_class,
            examples=[self._example(i, piece) for i in self._shown(piece)],
        )

    def _of_class(self, piece: Piece, rows: Tensor) -> ClassResult:
        """Of the attacked images where `rows` is true."""
        patients = self._patients(self.right[rows])
        area = self._auroc(piece["score"][rows], self.right[rows])
        through = share_interval(broken_by(piece)[rows], patients)
        return ClassResult(
            n=len(patients),
            success=float(piece["fooled"][rows].float().mean()),
            auroc=area.value,
            auroc_interval=(area.low, area.high),
            undetected=through.value,
            undetected_interval=(through.low, through.high),
        )

    def _title(self, planned: Planned) -> str:
        title = find_attack(planned.attack).title
        return f"{title}, made on {self.surrogate.name}" if planned.transferred and self.surrogate else title

    def _shown(self, piece: Piece) -> list[int]:
        """Images for the picture strip: undetected ones first, then those that fool, then the rest."""
        rank = piece["fooled"].int() + broken_by(piece).int()
        return torch.argsort(rank, descending=True, stable=True)[:EXAMPLES].tolist()

    def _example(self, i: int, piece: Piece) -> Example:
        row = int(self.right[i])
        names = self.test.classes

        def shown(predicted: Tensor, accepted: Tensor, score: Tensor) -> JudgedImage:
            value = float(score) if bool(score.isfinite()) else None
            return JudgedImage(predicted=names[int(predicted)], accepted=bool(accepted), score=value)

        return Example(
            name=f"test image {int(self.test.ids[row])}",
            label=names[int(self.labels[i])],
            clean=shown(self.clean.predicted[row], self.clean.accepted[row], self.clean.score[row]),
            adversarial=shown(piece["predicted"][i], piece["accepted"][i], piece["score"][i]),
        )

    def pictures(self, planned: Planned, piece: Piece) -> dict[str, Array]:
        """Pixels of the examples of a cell: clean, adversarial, and that after the Cushion."""
        rows = self._shown(piece)
        adversarial = piece["images"][rows]
        judged = self.victim(planned.gradient).drawn(self.test.ids[self.right[rows]], seed=self.seed)
        cushioned = judged.cushion(adversarial.float() / 255)
        views = {
            "clean": self.test.images[self.right[rows]],
            "adversarial": adversarial,
            "cushioned": (cushioned * 255).round().to(torch.uint8),
        }
        return {f"{planned.id}/{name}": view.numpy() for name, view in views.items()}

    def worst_cases(self, outcomes: Outcomes, attacker: Attacker = "anyone") -> list[WorstCase]:
        """At each eps and norm, for each image its strongest result: broken first, then the lowest suspicion.

        A row for every place of the plan in whose ball all that one of this attacker's attacks made is bound to lie,
        and for those of his checks.
        """
        mine = [(p, piece) for p, piece in outcomes if attacker in ("anyone", attacker_of(p))]
        plan = [p for p, _ in outcomes if not p.check]
        checks = [p for p, _ in mine if p.check]
        places = {(p.eps, p.value.ball.name): p for p in (*checks, *plan)}  # where there is a cell, it names the place
        rows = []
        for _, place in sorted(places.items()):
            reaching = [p for p, _ in mine if _lies_within(p, place)]
            if reaching:
                bare = bool(place.check) or all(p.check for p in reaching)
                rows.append(self._worst_case(mine, place, attacker, bare=bare))
        return rows

    def _worst_case(self, outcomes: Outcomes, place: Planned, attacker: Attacker, *, bare: bool) -> WorstCase:
        """At the eps and in the norm of `place`; an image counts that lies in that ball, whatever it was made in.

        Args:
            bare: no figures, only what checks tried on some of the images.
        """
        ball, clean = place.value.ball, self.test.pixels(self.right)
        pieces = [piece for _, piece in outcomes]
        inside = torch.stack([within(piece, clean, ball, place.eps) for piece in pieces])
        fooled, accepted, scores, wanted = (
            torch.stack([piece[name] for piece in pieces]) for name in ("fooled", "accepted", "score", "wanted")
        )
        predicted = torch.stack([piece["predicted"] for piece in pieces])
        fooled &= inside
        broken = (fooled & accepted).any(0)
        # Only an image that fools the classifier harms; the suspicion of others counts where nothing fools.
        here = torch.tensor([(p.eps, p.value.ball.name) == (place.eps, ball.name) for p, _ in outcomes])
        about: dict[str, Any] = {
            "attacker": attacker,
            "eps": place.eps,
            "eps_text": place.eps_text,
            "norm": norm_of(place),
            "n": len(self.right),
            "further": further(outcomes, inside, fooled & accepted),
        }
        if bare:
            return WorstCase(**about)
        # Of a check alone most images have no score; then what lies in the ball from elsewhere has to do.
        planned = any(bool(at) and not p.check for at, (p, _) in zip(here, outcomes, strict=True))
        unharmed = here[:, None].expand_as(inside) if planned else inside
        weakest = scores.where(fooled, torch.inf).amin(0)
        score = torch.where(fooled.any(0), weakest, scores.where(unharmed, torch.inf).amin(0))
        lowest = wanted.where(inside, torch.inf).amin(0)
        area = self._auroc(score)
        undetected, robust = self._shares(broken)
        alone = [piece["fooled_bare"] for p, piece in outcomes if "fooled_bare" in piece and _lies_within(p, place)]
        bare_share = share_interval(torch.stack(alone).any(0), self._patients(self.right)) if alone else None
        healthily = fooled & accepted & (predicted == self.healthy)
        least = scores.where(fooled & accepted, torch.inf).where(~healthily.any(0) | healthily, torch.inf).argmin(0)
        became = predicted.gather(0, least[None]).squeeze(0)
        withheld = (inside & ~accepted).any(0)
        shown = torch.where(broken, became, torch.where(withheld, len(self.test.classes), self.labels))
        return WorstCase(
            **about,
            unguarded=None if bare_share is None else bare_share.value,
            unguarded_interval=None if bare_share is None else (bare_share.low, bare_share.high),
            missed=self._missed(healthily.any(0)),
            confusion=self.confusion(shown),
            auroc=area.value,
            auroc_interval=(area.low, area.high),
            auroc_wanted=auroc(as_array(self.clean.score[self.genuine]), as_array(lowest)),
            undetected=undetected.value,
            undetected_interval=(undetected.low, undetected.high),
            robust_accuracy=robust.value,
            robust_accuracy_interval=(robust.low, robust.high),
        )

    def _missed(self, healthily: Tensor) -> Missed | None:
        """Of diseased images those that were accepted as healthy, bool `(N,)` of all attacked ones."""
        diseased = self.labels != self.healthy
        if not diseased.any():
            return None
        found = share_interval(healthily[diseased], self._patients(self.right[diseased]))
        return Missed(n=int(diseased.sum()), share=found.value, interval=(found.low, found.high))

    def confusion(self, attacked: Tensor | None = None) -> Confusion:
        """What the guard gives out for the chosen images, by true class.

        Args:
            attacked: for the attacked ones the class, or the number of classes where withheld; None: before any attack.
        """
        names = self.test.classes
        shown = torch.where(self.clean.accepted, self.clean.predicted, len(names))
        if attacked is not None:
            shown = shown.index_copy(0, self.right, attacked)
        counts = {name: shown[self.chosen][self.test.labels[self.chosen] == k] for k, name in enumerate(names)}
        return {name: mine.bincount(minlength=len(names) + 1).tolist() for name, mine in counts.items()}

    def through(self, outcomes: Outcomes) -> tuple[list[Through], dict[str, Array]]:
        """Each image that got through in L-infinity, at the smallest eps whose ball holds it, and pixels."""
        clean = self.test.pixels(self.right)
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
                    title=self._title(planned),
                    eps=place.eps,
                    eps_text=place.eps_text,
                    example=self._example(i, piece),
                )
            )
            adversarial.append(piece["images"][i])
        pixels = self.test.images[self.right[torch.tensor([i for i, _ in shown])]]
        return told, {"through/clean": pixels.numpy(), "through/adversarial": torch.stack(adversarial).numpy()}

    def _shares(self, broken: Tensor) -> tuple[Interval, Interval]:
        """Undetected success, and robust accuracy with rejection, intervals by patient."""
        safe = torch.isin(self.chosen, self.right[self.accepted & ~broken])
        return share_interval(broken, self._patients(self.right)), share_interval(safe, self._patients(self.chosen))

    def _auroc(self, score: Tensor, attacked: Tensor | None = None) -> Interval:
        """Of clean images diagnosed rightly against attacked ones (rows; None: all), by patient."""
        groups = [self._patients(rows) for rows in (self.genuine, self.right if attacked is None else attacked)]
        return auroc_interval(as_array(self.clean.score[self.genuine]), as_array(score), groups, seed=self.seed)

    def _patients(self, rows: Tensor) -> list[str]:
        return [self.test.patients[i] for i in rows.tolist()]


def _lies_within(planned: Planned, place: Planned) -> bool:
    """Whether all it makes lies in the ball of the place; of the same eps L-infinity lies in L2, a root mean square."""
    return planned.eps <= place.eps and planned.value.ball.name in (place.value.ball.name, Linf().name)
