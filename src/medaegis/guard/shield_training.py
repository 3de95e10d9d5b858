"""Adversarial training of one Shield (Medical Aegis, eq. 3 and 4, with a growing eps).

Genuine images of the Shield's class against images of the other classes that an attacker with full knowledge pushes
towards acceptance. What the paper leaves open (steps, memory of perturbations, averaging) is stated in `ShieldConfig`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import Linf
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.shield import WHITE_BOX, ShieldLogit
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.steps import Descent
from medaegis.attacks.victim import Victim
from medaegis.cushions import Cushion, parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.draws import Draws
from medaegis.errors import ConfigError, DataError
from medaegis.guard.looks import reached
from medaegis.guard.shield_config import ShieldConfig
from medaegis.images.datasets import Dataset
from medaegis.models.augment import augment
from medaegis.models.checkpoint import load_checkpoint, save_checkpoint
from medaegis.models.classifier import Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.progress import GOES_ON, Progress, silent

CHECKPOINT_SECONDS = 30.0

STANDARDISE_ON = 256  # clean images that set the scale of each tap


class ShieldTraining:
    """One Shield from its first update to its last; a kill at any moment loses at most half a minute.

    Args:
        classifier: the protected network.
        cushion: in front of it, differentiated straight through (BPDA). A random one is drawn anew for every step of
            the inner attack and for every update, by the seed.
        dataset: images to learn from, all classes.
        label: the class this Shield answers for.
        config: see `ShieldConfig`.
        folder: for checkpoints.
        watch: called with the averaged Shield every `watch_every` updates; what it returns goes into the history.
        rank: of what `watch` returned, higher is better, None is not sound. Where `selected`, the Shield of the
            best look is kept, and training ends at the first look that is not sound after one that was.

    Raises:
        DataError: there is no image of the class, or none of any other.
    """

    keeps_best: ClassVar[bool] = False  # whether an inner attack ends where it was best, and not where it stands last

    @own_modes()
    def __init__(
        self,
        classifier: Classifier,
        cushion: Cushion,
        dataset: Dataset,
        label: int,
        config: ShieldConfig,
        folder: Path,
        *,
        watch: Callable[[Shield], dict[str, float]] | None = None,
        rank: Callable[[Mapping[str, float]], float | None] | None = None,
    ) -> None:
        self.dataset, self.label, self.config, self.folder = dataset, label, config, folder
        self.watch, self.rank = watch, rank
        names = dataset.task.shields(dataset.classes)
        self.name = names[label]
        self.genuine, self.foreign = self._pools()
        self.shield = Shield(
            classifier.tap_shapes(config.taps),
            width=config.width,
            hidden=config.hidden,
            seed=(config.seed * 1009 + label) % 2**63,
        )
        self.shield.to(classifier.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # One Shield answers for every class: that is what a single Shield's attacker sees.
        self.victim = Victim(classifier, cushion=cushion, shields=ShieldBank([self.shield] * len(names)))
        self.bare = self.victim.behind(parse_cushion("none"))
        self._standardise()
        self.averaged = {name: value.detach().clone() for name, value in self.shield.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.shield.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        # Only what is carried on to a next visit is remembered: at 224 px that is 300 kB for each image.
        remembered = len(self.foreign) if config.lifetime > 1 else 0
        self.memory = torch.zeros((remembered, *dataset.images.shape[1:]), dtype=torch.float16)
        self.visits = torch.zeros(remembered, dtype=torch.int64)
        self.done, self.seconds, self.loss = 0, 0.0, 0.0
        self.history: list[dict[str, float]] = []
        self.kept: dict[str, Tensor] | None = None
        self.kept_rank, self.ended = -math.inf, False
        self.kept_update: int | None = None
        images = [dataset.fingerprint, dataset.pixel_fingerprint]
        told = [config.model_dump(mode="json"), images, cushion.manifest(), label]
        self.key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        self.protected = weights_fingerprint(classifier)

    @own_modes()
    @torch.enable_grad()
    def train(self, progress: Progress = silent) -> Shield:
        """Go on from the last checkpoint to the end; returns the Shield to keep, in eval mode, weights frozen."""
        self.restore()
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        config, name = self.config, self.name
        progress(self.done, config.updates, GOES_ON if self.done else f"Shield {name}")
        while self.done < config.updates and not self.ended:
            self.loss += (self._update(self.done) - self.loss) / min(self.done + 1, 50)
            self.done += 1
            self.seconds = time.monotonic() - began
            last = self.done == config.updates
            if self.watch is not None and config.watch_every and (last or self.done % config.watch_every == 0):
                pause = time.monotonic()
                seen = self.watch(self.result())
                began += time.monotonic() - pause
                self.history.append({"update": self.done, "seconds": self.seconds, "loss": self.loss, **seen})
                self._keep(seen)
            if last or self.ended or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
            progress(self.done, config.updates, f"Shield {name}: {self._told()}")
        return self.result() if self.kept is None else self._shield(self.kept)

    def facts(self) -> dict[str, Any]:
        """What the guard's manifest says of this training (`looks.ShieldFacts`), and which one it was."""
        told = {"seconds": self.seconds, "history": self.history, "updates": self.done, "kept": self.kept_update}
        return {**told, "key": self.identity}

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of all that decides what it ends in."""
        return hashlib.sha256(f"{self.key} {self.protected}".encode()).hexdigest()

    def _told(self) -> str:
        eps = f"loss {self.loss:.3f}, eps {self._eps(self.done) * 256:.1f}/256"
        last = self.history[-1] if self.history else {}
        return f"{eps}; {reached(last)} at update {last['update']}" if reached(last) else eps

    def result(self) -> Shield:
        """The averaged Shield as of now."""
        return self._shield(self.averaged)

    def _keep(self, seen: Mapping[str, float]) -> None:
        if self.rank is None or not self.config.selected:
            return
        rank = self.rank(seen)
        if rank is None:
            self.ended = self.kept is not None
        elif rank >= self.kept_rank:
            self.kept_rank = rank
            self.kept = {name: value.clone() for name, value in self.averaged.items()}
            self.kept_update = self.done

    def _shield(self, weights: dict[str, Tensor]) -> Shield:
        shield = copy.deepcopy(self.shield)  # a new one would draw weights, from a random state that threads share
        shield.load_state_dict(weights)
        return shield.eval().requires_grad_(False)

    def _eps(self, update: int) -> float:
        config = self.config
        share = min(1.0, update / max(1.0, config.eps_growth * config.updates))
        return config.eps_start + share * (config.eps_end - config.eps_start)

    def _rate(self, update: int) -> float:
        """A short rise, then flat, then half a cosine down over the last 40 %."""
        share = update / self.config.updates
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, share - 0.6) / 0.4))
        return self.config.lr * min(1.0, (update + 1) / 100) * max(fall, 0.01)

    def _pools(self) -> tuple[Tensor, Tensor]:
        """Places of the images that it is to find genuine, and of those that are attacked."""
        mine = self.dataset.labels == self.label
        for which, part in (("class", mine), ("any class but", ~mine)):
            if not part.any():
                raise DataError(self.dataset.spec, f"no training image of {which} {self.name!r}", "give some")
        return mine.nonzero().squeeze(1), (~mine).nonzero().squeeze(1)

    def _rows(self, pool: Tensor, update: int) -> tuple[Tensor, Tensor]:
        """Positions in `pool` of this update's batch, by epochs of a seeded order, and the epoch of each."""
        size = self.config.batch_size
        places = torch.arange(update * size, (update + 1) * size)
        epochs = places // len(pool)
        rows = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            order = self._draws(self.dataset.ids[pool], "order", epoch).keys().argsort()
            inside = epochs == epoch
            rows[inside] = order[places[inside] % len(pool)]
        return rows, epochs

    def _augmented(self, pool: Tensor, rows: Tensor, generation: Tensor) -> Tensor:
        """Augmented pixels on the 8-bit grid; the same generation of an image gets the same augmentation."""
        u = self._draws(self.dataset.ids[pool[rows]], "augment", generation).uniform(7)
        return (augment(self.dataset.pixels(pool[rows], device=self.victim.device), u) * 255).round() / 255

    def _update(self, update: int) -> float:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(update)
        loss = self._loss(update)
        told = loss.item()
        if not math.isfinite(told):
            raise ConfigError("shield training", f"the loss is not finite at update {update}", "lower lr")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.shield.parameters(), 1.0)
        self.optimizer.step()
        decay = min(config.average, 1 - 1 / (update + 1))
        with torch.no_grad():
            for name, value in self.shield.state_dict().items():
                self.averaged[name].lerp_(value, 1 - decay)
        return told

    def _draws(self, ids: Tensor, purpose: str, step: int | Tensor) -> Draws:
        return Draws(self.config.seed, ids, f"shield/{purpose}", step)

    def _kind(self, update: int) -> list[float]:
        """What an update's attack is made of: uniform numbers for objective, step rule, step length and Cushion."""
        numbers: list[float] = self._draws(torch.zeros(1, dtype=torch.int64), "kind", update).uniform(4)[0].tolist()
        return numbers

    def _seen(self, update: int) -> Victim:
        """Whom an update trains: the Shield behind the Cushion, or on bare pixels."""
        return self.victim if self._kind(update)[3] < self.config.cushioned else self.bare

    def _drawn(self, update: int, count: int, purpose: str) -> Victim:
        """The same, a random Cushion drawn for a batch of so many images."""
        stream = f"shield {self.label}/{purpose}/{update}"
        return self._seen(update).drawn(torch.arange(count), seed=self.config.seed, stream=stream)

    def _loss(self, update: int) -> Tensor:
        """Minus the adversarial loss of eq. 3 / 4."""
        rows, epochs = self._rows(self.genuine, update)
        genuine = self._augmented(self.genuine, rows, epochs)
        rows, epochs = self._rows(self.foreign, update)
        foreign = self._augmented(self.foreign, rows, epochs // self.config.lifetime)
        adversarial = self._attack(foreign, self._goal(rows, foreign.device), rows, epochs, update)
        genuine = self._perturbed(genuine, adversarial - foreign, update)
        self.shield.requires_grad_(True)
        return self._told_apart(torch.cat([genuine, adversarial]), update)

    def _goal(self, rows: Tensor, device: torch.device) -> Goal:
        """Of foreign images at these positions: to pass for this class."""
        wanted = torch.full((len(rows),), self.label, device=device)
        return Goal(self.dataset.labels[self.foreign[rows]].to(device), wanted)

    def _told_apart(self, images: Tensor, update: int) -> Tensor:
        """The loss; the first half of `images` is genuine."""
        n, wanted = len(images) // 2, torch.full((len(images),), self.label, device=images.device)
        victim = self._drawn(update, len(images), "learn")
        logits = victim.look(images, Goal(wanted, wanted), ShieldLogit()).shield_logit
        return F.softplus(-logits[:n]).mean() + F.softplus(logits[n:]).mean()

    def _inner(self, update: int) -> Attack:
        """The attack of an update."""
        config, kind = self.config, self._kind(update)
        low, high = config.inner_step
        return Attack(
            objective=self._objective(kind[0]),
            rule=Descent(momentum=1.0 if kind[1] < config.momentum_share else 0.0, keeps_best=self.keeps_best),
            steps=config.steps(update),
            step_size=low * (high / low) ** kind[2],
        )

    def _objective(self, share: float) -> Objective:
        """What an update's attack minimises; share: uniform in [0, 1), of the update."""
        return WHITE_BOX if share < self.config.classifier_share else ShieldLogit()

    def _attack(self, x: Tensor, goal: Goal, rows: Tensor, epochs: Tensor, update: int) -> Tensor:
        """Adversarial images on the 8-bit grid; what each image's attack reached is remembered for its next visit."""
        config = self.config
        self.shield.requires_grad_(False)
        draws = self._draws(torch.arange(len(x), device=x.device), "attack", update)
        below, share = draws.child("eps").uniform(2, 1, 1, 1).unbind(1)
        eps = self._eps(update) * torch.where(below < config.eps_below, share, 1.0)
        start = draws.child("start").noise(*x.shape[1:]) * eps
        if config.lifetime > 1:
            carried = (epochs % config.lifetime != 0) & (self.visits[rows] > 0)
            start = torch.where(carried.view(-1, 1, 1, 1).to(x.device), self.memory[rows].to(x), start)
        z = Linf().project_(x + start, x, eps)
        z, _ = self._inner(update).descend(self._drawn(update, len(x), "attack"), x, goal, eps, z)
        if config.lifetime > 1:
            self.memory[rows] = (z - x).to("cpu", torch.float16)
            self.visits.index_add_(0, rows, torch.ones_like(rows))  # twice where an epoch ends within the batch
        return Linf().to_8bit(z, x, eps)

    def _perturbed(self, genuine: Tensor, perturbation: Tensor, update: int) -> Tensor:
        """Genuine images on the 8-bit grid, some with noise, some with what was made for the attacked ones."""
        config = self.config
        draws = self._draws(torch.arange(len(genuine), device=genuine.device), "genuine", update)
        kind, size = draws.child("kind").uniform(2, 1, 1, 1).unbind(1)
        largest = max(self._eps(update), config.genuine_noise_eps)
        noise = draws.child("noise").noise(*genuine.shape[1:]) * size * largest
        change = torch.where(kind < config.genuine_noise, noise, 0.0)
        swapped = (kind >= config.genuine_noise) & (kind < config.genuine_noise + config.genuine_perturbed)
        change = torch.where(swapped, perturbation, change)
        return ((genuine + change).clamp(0, 1) * 255).round() / 255

    @torch.no_grad()
    def _standardise(self) -> None:
        rows = self.genuine[:STANDARDISE_ON]
        victim = self.victim.drawn(self.dataset.ids[rows], seed=self.config.seed, stream="standardise")
        cushioned = victim.cushion(self.dataset.pixels(rows, device=victim.device))
        self.shield.standardise(self.victim.exact.activations(cushioned, logits=False, taps=self.shield.taps).features)

    def _save(self) -> None:
        tensors = {"memory": self.memory, "visits": self.visits}
        tensors |= {f"shield.{name}": value for name, value in self.shield.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.items()}
        tensors |= {f"kept.{name}": value for name, value in (self.kept or {}).items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        document: dict[str, Any] = {"key": self.key, "classifier": self.protected, "history": self.history}
        document |= {"seconds": self.seconds, "loss": self.loss, "done": self.done, "ended": self.ended}
        document |= {"kept_rank": None if self.kept is None else self.kept_rank, "kept_update": self.kept_update}
        save_checkpoint(self.folder, tensors, document, serial=self.done)

    def restore(self) -> None:
        """Go to where the last checkpoint was, if there is one.

        Raises:
            ConfigError: it is of another training.
        """
        found = load_checkpoint(self.folder)
        if found is None:
            return
        tensors, document = found
        if (document.get("key"), document.get("classifier")) != (self.key, self.protected):
            problem = "holds a training with other settings, data, Cushion or classifier"
            raise ConfigError(self.folder, problem, "delete it, or choose another folder")
        if self.config.lifetime > 1:
            self.memory, self.visits = tensors["memory"], tensors["visits"]
        self.shield.load_state_dict({name: tensors[f"shield.{name}"] for name in self.shield.state_dict()})
        self.averaged = {name: tensors[f"averaged.{name}"].to(self.victim.device) for name in self.averaged}
        state = self.optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".")
                state["state"].setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict(state)
        self.done, self.seconds, self.history = document["done"], document["seconds"], document["history"]
        self.loss, self.ended = document["loss"], document["ended"]
        if document["kept_rank"] is not None:
            self.kept_rank, self.kept_update = document["kept_rank"], document.get("kept_update")
            self.kept = {name: tensors[f"kept.{name}"].to(self.victim.device) for name in self.averaged}
