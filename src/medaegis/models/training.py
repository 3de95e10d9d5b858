"""Training of a classifier, plain or against an adversary, which a kill at any moment does not change.

Order, augmentation, dropout and learning rate are functions of (seed, epoch or step, image), and the checkpoint holds
the rest, so a resumed run ends with the weights of an uninterrupted one: bit for bit on a CPU with as many threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medaegis.ambient import own_modes
from medaegis.artefact import check_target
from medaegis.draws import Draws
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import Dataset
from medaegis.images.hashes import pixel_hashes
from medaegis.images.sources import without_path
from medaegis.images.splits import Split
from medaegis.models.augment import augment
from medaegis.models.backbones import Weights, create_backbone, default_taps, weights_file
from medaegis.models.checkpoint import load_checkpoint, save_checkpoint
from medaegis.models.classifier import Classifier
from medaegis.models.hardware import has_fast_bfloat16, pick_device
from medaegis.models.metrics import evaluate_classifier
from medaegis.models.normalisation import Normalisation, parse_normalisation
from medaegis.models.store import KIND, load_classifier, read_training, save_classifier
from medaegis.progress import GOES_ON, Progress, silent

CHECKPOINT_SECONDS = 30.0
WARM_UP = 0.2  # share of the steps in which the learning rate rises


class TrainConfig(BaseModel):
    """Everything that decides how a classifier is trained.

    Attributes:
        backbone: registered name, ``timm:NAME``, ``torchvision:NAME`` or ``package.module:factory``.
        weights: local file of pretrained weights, or "imagenet" where those come as a package (see `weights_file`);
            None starts at random.
        normalise: what the network expects, as `parse_normalisation` reads it; None: ImageNet's, as published weights
            of registered networks and torchvision's do. With weights of other networks it must be said.
        taps: module names; None takes the backbone's default.
        epochs, batch_size: passes over the train part; images per step.
        lr: highest learning rate of the one-cycle schedule (AdamW). 1e-3 suits random weights, 2e-4 pretrained ones.
        weight_decay: AdamW's, on weights of two and more dimensions.
        label_smoothing: share of the target spread over all classes.
        class_weighting: weigh the loss by inverse class frequency.
        augmentation: mild changes of position and exposure, see `augment`.
        seed: of weights, order, augmentation and dropout.
        device: "auto", "cpu", "cuda", ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "resnet18"
    weights: Weights | None = None
    normalise: str | None = None
    taps: tuple[str, ...] | None = None
    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weighting: bool = True
    augmentation: bool = True
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "auto"


class Adversary(Protocol):
    """Who attacks a classifier while it learns; `medaegis.attacks.hardening.Hardening` is one."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]:
        """All that decides what it does: part of what identifies a run."""
        ...

    def __call__(
        self, classifier: Classifier, x: Tensor, labels: Tensor, ids: Tensor, *, done: float, seed: int
    ) -> Tensor:
        """The batch to learn from instead of `x`, in its order; `done` is the share of the training that is over."""
        ...


def learning_rate(step: int, steps: int, peak: float) -> float:
    """One cycle (Smith 2018): half a cosine up from peak / 25 in the first fifth, half a cosine down to peak / 10^4."""
    rise = WARM_UP * steps
    if step < rise:
        low, height = peak / 25, (1 - math.cos(math.pi * step / rise)) / 2
    else:
        low, height = peak / 1e4, (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
    return low + (peak - low) * height


@own_modes()
@torch.enable_grad()
def train_classifier(
    dataset: Dataset,
    split: Split,
    config: TrainConfig,
    out_dir: Path,
    progress: Progress = silent,
    *,
    adversary: Adversary | None = None,
) -> Classifier:
    """Train on ``split.train``, watch ``split.val``, measure on ``split.adv_test``, and save to ``out_dir``.

    The folder holds the classifier, ``split.json`` and ``training.json`` (configuration, history, metrics of "val" and
    "adv_test"; see `read_training`). Until it is complete, a checkpoint at most half a minute old lies in
    ``<out_dir>.training``: called again with the same arguments after a kill, it goes on there; called again on a
    complete folder, it loads it.

    Args:
        dataset: images and labels.
        split: of that data set; of ``adv_train`` nothing is read.
        progress: told (step, steps, what) after every step.
        adversary: attacks images before they are learned from; None: plain training.

    Returns:
        The trained classifier, in eval mode on the device it was trained on.

    Raises:
        ConfigError: ``out_dir`` holds another run; the loss is not finite; the backbone or the taps do not fit.
        DataError: the split belongs to other images, or its train part lacks a class.
        ArtefactError: ``out_dir`` holds something else, or nothing can be written there.
    """
    out_dir = Path(out_dir)
    check_target(out_dir, kind=KIND)
    if split.fingerprint != dataset.fingerprint:
        raise DataError("split", f"made for other images than {dataset.spec}", "make it from this data set")
    run = _Run(dataset, split, config, adversary)
    checkpoints = out_dir.with_name(f"{out_dir.name}.training")
    if out_dir.exists() and any(out_dir.iterdir()):
        if read_training(out_dir).get("run") != run.key:
            raise ConfigError(out_dir, "holds another classifier", "give another folder, or delete this one")
        shutil.rmtree(checkpoints, ignore_errors=True)
        return load_classifier(out_dir, factory=partial(create_backbone, config.backbone)).to(run.device)
    found = load_checkpoint(checkpoints)
    if found is not None:
        run.restore(*found, folder=checkpoints)
    run.train(checkpoints, progress)
    run.finish(out_dir)
    shutil.rmtree(checkpoints)
    return run.classifier.eval()


class _Run:
    """One training from its first step to its last: what it is of, and how far it is."""

    def __init__(self, dataset: Dataset, split: Split, config: TrainConfig, adversary: Adversary | None = None) -> None:
        self.dataset, self.split, self.config, self.adversary = dataset, split, config, adversary
        self.device = pick_device(config.device)
        self.train_part = torch.tensor(split.train)
        counts = torch.bincount(dataset.labels[self.train_part], minlength=len(dataset.classes))
        if len(self.train_part) < 2 or int(counts.min()) == 0:
            told = ", ".join(f"{name} {n}" for name, n in zip(dataset.classes, counts.tolist(), strict=True))
            raise DataError(dataset.spec, f"the train part lacks a class ({told})", "give more images of it")
        self.batches = math.ceil(len(self.train_part) / config.batch_size)
        self.steps = self.batches * config.epochs
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.loss_sum = 0.0
        self.key = self._key()
        mean, std = self._normalisation()
        network = create_backbone(
            config.backbone, classes=len(dataset.classes), weights=config.weights, seed=config.seed
        )
        self.classifier = Classifier(
            network.to(self.device),
            classes=dataset.classes,
            size=dataset.size,
            channels=dataset.channels,
            taps=default_taps(config.backbone) if config.taps is None else config.taps,
            backbone=config.backbone,
            mean=mean,
            std=std,
            outputs="logits",  # a network just begun may well give numbers between 0 and 1
        )
        weights = len(self.train_part) / (len(counts) * counts.float()) if config.class_weighting else None
        self.class_weights = weights.to(self.device) if weights is not None else None
        self.optimizer = self._optimizer(network)

    def _optimizer(self, network: nn.Module) -> torch.optim.AdamW:
        parameters = [p for p in network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.lr)

    def _normalisation(self) -> Normalisation:
        config = self.config
        elsewhere = ":" in config.backbone and not config.backbone.startswith("torchvision:")
        if config.normalise is None and config.weights is not None and elsewhere:
            problem = f"nothing says what pixels the weights of {config.backbone} expect"
            raise ConfigError("normalisation", problem, "say it: --normalise imagenet, none, or MEAN/STD")
        return parse_normalisation(config.normalise or "imagenet")

    def _key(self) -> str:
        """Identifies what the result depends on."""
        unsaid = {"normalise"} if self.config.normalise is None else set()
        weights = weights_file(self.config.backbone, self.config.weights)
        content = {
            "config": self.config.model_dump(mode="json", exclude={"weights"} | unsaid),
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights and weights.is_file() else None,
            "data": [self.dataset.fingerprint, self.dataset.pixel_fingerprint, *self.dataset.images.shape],
            "split": {name: value for name, value in asdict(self.split).items() if name != "fractions"},
            "adversary": self._adversary(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _adversary(self) -> dict[str, Any] | None:
        return None if self.adversary is None else self.adversary.model_dump(mode="json")

    def _order(self, epoch: int) -> Tensor:
        """Places of the train part in the order of this epoch, by a random key of each image."""
        draws = Draws(self.config.seed, self.dataset.ids[self.train_part], "order", epoch)
        return self.train_part[draws.keys().argsort(stable=True)]

    def train(self, checkpoints: Path, progress: Progress) -> None:
        began = time.monotonic() - self.seconds
        saved = time.monotonic()
        if self.step:
            progress(self.step, self.steps, GOES_ON)
        for epoch in range(self.step // self.batches, self.config.epochs):
            parts = self._order(epoch).tensor_split(self.batches)  # nearly equal: no batch of one for batch norm
            for batch in range(self.step % self.batches, self.batches):
                self.loss_sum += self._update(parts[batch], epoch)
                self.step += 1
                if batch + 1 == self.batches:
                    self._end_epoch(epoch)
                self.seconds = time.monotonic() - began
                if batch + 1 == self.batches or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    save_checkpoint(checkpoints, *self._state(), serial=self.step)
                    saved = time.monotonic()
                progress(self.step, self.steps, self._message(epoch, batch + 1))

    def _update(self, places: Tensor, epoch: int) -> float:
        """One step of the optimiser; the loss before it."""
        x = self.dataset.pixels(places, device=self.device)
        if self.config.augmentation:
            x = augment(x, Draws(self.config.seed, self.dataset.ids[places], "augment", epoch).uniform(7))
        labels = self.dataset.labels[places].to(self.device)
        if self.adversary is not None:
            done, seed = self.step / self.steps, self.config.seed * 1_000_003 + self.step
            x = self.adversary(self.classifier, x, labels, self.dataset.ids[places], done=done, seed=seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.config.lr)
        self.classifier.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # For dropout. Not torch.manual_seed: that would reseed every other device for the whole program.
            torch.default_generator.manual_seed(self.config.seed * 1_000_003 + self.step)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(self.config.seed * 1_000_003 + self.step)
            with self._autocast():
                logits = self.classifier(x)
        loss = F.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise ConfigError("training", f"the loss is {value} at step {self.step}", f"lower lr ({self.config.lr})")
        return value

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(self.device))

    def _end_epoch(self, epoch: int) -> None:
        entry: dict[str, Any] = {"epoch": epoch + 1, "loss": self.loss_sum / self.batches}
        if self.split.val:
            self.classifier.eval()
            with self._autocast():
                entry["val"] = evaluate_classifier(self.classifier, self.dataset, self.split.val)
        self.history.append(entry)
        self.loss_sum = 0.0

    def _message(self, epoch: int, batches: int) -> str:
        ended = self.history[-1] if self.history else {}
        loss = self.loss_sum / batches if self.loss_sum else ended["loss"]
        auroc = ended.get("val", {}).get("auroc")
        return f"epoch {epoch + 1}/{self.config.epochs}, loss {loss:.3f}" + (
            f", val AUROC {auroc:.4f}" if auroc is not None else ""
        )

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on; random numbers come from the step and need no state."""
        tensors = {f"network.{key}": value for key, value in self.classifier.network.state_dict().items()}
        for place, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{key}": value for key, value in state.items()}
        document = {
            "run": self.key,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "history": self.history,
        }
        return tensors, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any], *, folder: Path) -> None:
        if document.get("run") != self.key:
            raise ConfigError(
                folder,
                "is the checkpoint of another run (other data, split or options)",
                "give another output folder, or delete this one to start again",
            )
        network = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        self.classifier.network.load_state_dict(network)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, place, key = name.split(".")
                state.setdefault(int(place), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step, self.loss_sum = document["step"], document["loss_sum"]
        self.seconds, self.history = document["seconds"], document["history"]

    def finish(self, out_dir: Path) -> None:
        """Measure the classifier as it will be used, and save it."""
        self.classifier.eval()
        frozen = self.classifier.frozen()
        parts = {"val": self.split.val, "adv_test": self.split.adv_test}
        training = {
            "run": self.key,
            "config": self.config.model_dump(mode="json"),
            "adversary": self._adversary(),
            "data": {
                "spec": without_path(self.dataset.spec),
                "fingerprint": self.dataset.fingerprint,
                "n": len(self.dataset),
            },
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "device": str(self.device),
            "history": self.history,
            "metrics": {name: evaluate_classifier(frozen, self.dataset, part) for name, part in parts.items() if part},
        }
        learned = pixel_hashes(self.dataset.images[self.train_part]).unique()
        told = {"training": training, "split": self.split.document()}
        save_classifier(self.classifier, out_dir, told, learned=learned)
