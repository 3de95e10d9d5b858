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
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.ambient import own_modes
from medaegis.artefact import check_target
from medaegis.draws import Draws
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import Dataset
from medaegis.images.hashes import pixel_hashes
from medaegis.images.sources import without_path
from medaegis.images.splits import Split
from medaegis.models.augment import augment, augment_with_masks
from medaegis.models.averaging import Averaged, State, copied_state, weights_of, worst_weights
from medaegis.models.backbones import create_backbone, weights_file
from medaegis.models.checkpoint import load_checkpoint, save_checkpoint
from medaegis.models.classifier import Classifier
from medaegis.models.denoising import denoised
from medaegis.models.hardware import learns_in_bfloat16, pick_device
from medaegis.models.learning import Batch, Plain, TrainConfig, TrainingRecipe, learning_rate
from medaegis.models.metrics import evaluate_classifier
from medaegis.models.normalisation import Normalisation, parse_normalisation
from medaegis.models.segmentation_networks import create_network, taps_of
from medaegis.models.store import KIND, load_classifier, read_training, save_classifier
from medaegis.progress import GOES_ON, Progress, silent
from medaegis.task import PredictionTask

CHECKPOINT_SECONDS = 30.0
MOMENTUM = 0.9  # of "sgd"


@own_modes()
@torch.enable_grad()
def train_classifier(
    dataset: Dataset,
    split: Split,
    config: TrainConfig,
    out_dir: Path,
    progress: Progress = silent,
    *,
    recipe: TrainingRecipe | None = None,
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
        recipe: what is minimised; None: plain training. With one that scores epochs on ``split.val``, the weights kept
            are those of the best epoch (`worth`), the first of equals; no other part is looked at for it.

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
    run = _Run(dataset, split, config, recipe)
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

    def __init__(
        self, dataset: Dataset, split: Split, config: TrainConfig, recipe: TrainingRecipe | None = None
    ) -> None:
        self.dataset, self.split, self.config = dataset, split, config
        self.recipe = Plain() if recipe is None else recipe
        self.device = pick_device(config.device)
        self.train_part = torch.tensor(split.train)
        self.strata, names = dataset.strata
        counts = self.counts = torch.bincount(self.strata[self.train_part], minlength=len(names))
        if len(self.train_part) < 2 or (dataset.task.name == "single" and int(counts.min()) == 0):
            told = ", ".join(f"{name} {n}" for name, n in zip(names, counts.tolist(), strict=True))
            raise DataError(dataset.spec, f"the train part lacks a class ({told})", "give more images of it")
        self.batches = math.ceil(len(self.train_part) / config.batch_size)
        self.epochs = math.ceil(config.epochs / self.recipe.replays)
        self.steps = self.batches * self.epochs
        self.step, self.seconds = 0, 0.0
        self.passes = {"forwards": 0, "backwards": 0}
        self.history: list[dict[str, Any]] = []
        self.loss_sum = 0.0
        self.key = self._key()
        mean, std = self._normalisation()
        classes, task = len(dataset.classes), dataset.task.name
        network = create_network(config.backbone, task, classes, weights=config.weights, seed=config.seed)
        if config.denoise is not None:
            network = denoised(network, layers=config.denoise.layers, keep=config.denoise.keep)
        self.classifier = Classifier(
            network.to(self.device),
            classes=dataset.classes,
            size=dataset.size,
            channels=dataset.channels,
            taps=taps_of(config.backbone, task) if config.taps is None else config.taps,
            backbone=config.backbone,
            mean=mean,
            std=std,
            outputs="logits",  # a network just begun may well give numbers between 0 and 1
            task=task,
        )
        self.reduced = learns_in_bfloat16(self.classifier, dataset.pixels(self.train_part[:1], device=self.device))
        weights = len(self.train_part) / (len(counts) * counts.float())
        self.class_weights = weights.to(self.device) if config.balance == "loss" and task == "single" else None
        self.optimizer = self._optimizer(network)
        self.average = Averaged(network, keep=self.recipe.average) if self.recipe.average else None
        self.best: State = {}  # weights of the best epoch, where epochs are scored

    @property
    def task(self) -> PredictionTask:
        return self.classifier.task

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.config.lr, momentum=MOMENTUM, nesterov=True)
        return torch.optim.AdamW(groups, lr=self.config.lr)

    def _normalisation(self) -> Normalisation:
        config = self.config
        elsewhere = ":" in config.backbone and not config.backbone.startswith("torchvision:")
        if config.normalise is None and config.weights is not None and elsewhere:
            problem = f"nothing says what pixels the weights of {config.backbone} expect"
            raise ConfigError("normalisation", problem, "say it: --normalise imagenet, clip, none, or MEAN/STD")
        return parse_normalisation(config.normalise or "imagenet")

    def _key(self) -> str:
        """Identifies what the result depends on."""
        unsaid = {name for name in ("normalise", "denoise") if getattr(self.config, name) is None}
        weights = weights_file(self.config.backbone, self.config.weights)
        content = {
            "config": self.config.model_dump(mode="json", exclude={"weights"} | unsaid),
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights and weights.is_file() else None,
            "data": [self.dataset.fingerprint, self.dataset.pixel_fingerprint, *self.dataset.images.shape],
            "split": {name: value for name, value in asdict(self.split).items() if name != "fractions"},
            "recipe": self.recipe.identity(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _order(self, epoch: int) -> Tensor:
        """Places of the train part in the order of this epoch, by a random key of each image.

        With balance by sampling as many places, each drawn from a class drawn first (every class as often).
        """
        if self.config.balance != "sampling":
            draws = Draws(self.config.seed, self.dataset.ids[self.train_part], "order", epoch)
            return self.train_part[draws.keys().argsort(stable=True)]
        counts = self.counts[self.counts > 0]
        draws = Draws(self.config.seed, torch.arange(len(self.train_part)), "sampling", epoch)
        chosen = draws.integers(len(counts))
        among = draws.child("image").integers(counts[chosen])
        in_order = self.train_part[self.strata[self.train_part].argsort(stable=True)]
        return in_order[(counts.cumsum(0) - counts)[chosen] + among]

    def train(self, checkpoints: Path, progress: Progress) -> None:
        began = time.monotonic() - self.seconds
        saved = time.monotonic()
        if self.step:
            progress(self.step, self.steps, GOES_ON)
        for epoch in range(self.step // self.batches, self.epochs):
            parts = self._order(epoch).tensor_split(self.batches)  # nearly equal: no batch of one for batch norm
            for number in range(self.step % self.batches, self.batches):
                self.loss_sum += self._learn(parts[number], epoch)
                self.step += 1
                if number + 1 == self.batches:
                    self._end_epoch(epoch)
                self.seconds = time.monotonic() - began
                if number + 1 == self.batches or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    save_checkpoint(checkpoints, *self._state(), serial=self.step)
                    saved = time.monotonic()
                progress(self.step, self.steps, self._message(epoch, number + 1))

    def _learn(self, places: Tensor, epoch: int) -> float:
        """The steps of the optimiser for one batch; the mean loss before each."""
        x, labels = self.dataset.pixels(places, device=self.device), self.dataset.labels[places].to(self.device)
        if self.config.augmentation:
            u = Draws(self.config.seed, self.dataset.ids[places], "augment", epoch).uniform(7)
            x, labels = augment_with_masks(x, labels, u) if self.task.name == "dense" else (augment(x, u), labels)
        seed = self.config.seed * 1_000_003 + self.step
        batch = Batch(x, labels, self.dataset.ids[places], self.step / self.steps, seed)
        losses = [self._update(loss, turn) for turn, loss in enumerate(self.recipe.losses(self, batch))]
        return sum(losses) / len(losses)

    def _update(self, loss: Callable[[], Tensor], turn: int) -> float:
        """One step of the optimiser; the loss before it. `turn` counts those of a batch."""
        update = self.step * self.recipe.replays + turn
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(update, self.steps * self.recipe.replays, self.config.lr)
        self.classifier.train()
        network = self.classifier.network
        with worst_weights(network, lambda: self._computed(loss, update), length=self.recipe.awp):
            found = self._computed(loss, update)
            self.optimizer.zero_grad(set_to_none=True)
            found.backward()
        value = found.item()
        if not math.isfinite(value):
            raise ConfigError("training", f"the loss is {value} at step {self.step}", f"lower lr ({self.config.lr})")
        self.optimizer.step()
        if self.average is not None:
            self.average.take(network, step=update)
        return value

    def _computed(self, loss: Callable[[], Tensor], update: int) -> Tensor:
        """The loss, its dropout drawn for this update."""
        seed = self.config.seed * 1_000_003 + update
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # Not torch.manual_seed: that would reseed every other device for the whole program.
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            return loss()

    def logits(self, x: Tensor) -> Tensor:
        self.spent(len(x), len(x))
        with self._autocast():
            return self.classifier(x)  # type: ignore[no-any-return]

    def features(self, x: Tensor, tap: str) -> Tensor:
        self.spent(len(x), len(x))
        with self._autocast():
            return self.classifier.activations(x, logits=False, taps=(tap,)).features[tap].float()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        if self.class_weights is not None and smoothing:  # then the weights count in the smoothed part too
            return F.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=smoothing)
        return self.mean(self.task.losses(logits, labels, smoothing=smoothing), labels)

    def mean(self, losses: Tensor, labels: Tensor) -> Tensor:
        if self.class_weights is None:
            return losses.mean()
        weights = self.class_weights[labels]
        return (weights * losses).sum() / weights.sum()

    def spent(self, forwards: int, backwards: int) -> None:
        self.passes["forwards"] += forwards
        self.passes["backwards"] += backwards

    def _autocast(self) -> torch.autocast:
        torch.clear_autocast_cache()  # inside a caller's autocast it outlives a step, with weights from before it
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.reduced)

    def _end_epoch(self, epoch: int) -> None:
        entry: dict[str, Any] = {"epoch": epoch + 1, "loss": self.loss_sum / self.batches}
        network = self.classifier.network
        if not all(value.isfinite().all() for value in network.state_dict().values()):
            problem = f"weights of epoch {epoch + 1} are infinite or no number"
            raise ConfigError("training", problem, f"lower lr ({self.config.lr})")
        if self.split.val:
            self.classifier.eval()
            with weights_of(network, None if self.average is None else self.average.state):
                with self._autocast():
                    entry["val"] = evaluate_classifier(self.classifier, self.dataset, self.split.val)
                score = self.recipe.score(self.classifier, self.dataset, self.split.val, seed=self.config.seed)
                if score:
                    entry["val"] |= score
                    if worth(entry) > max(map(worth, self.history), default=-1.0):
                        self.best = copied_state(network)
        self.history.append(entry)
        self.loss_sum = 0.0

    def _message(self, epoch: int, batches: int) -> str:
        ended = self.history[-1] if self.history else {}
        loss = ended["loss"] if batches == self.batches else self.loss_sum / batches
        val = ended.get("val", {})
        told = [f"epoch {epoch + 1}/{self.epochs}, loss {loss:.3f}"]
        for figure, name in (("auroc", "AUROC"), ("dice", "Dice")):
            if val.get(figure) is not None:
                told.append(f"val {name} {val[figure]:.4f}")
        if "robust_accuracy" in val:
            told.append(f"robust {100 * val['robust_accuracy']:.1f} %")
        return ", ".join(told)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on; random numbers come from the step and need no state."""
        tensors = {f"network.{name}": value for name, value in self.classifier.network.state_dict().items()}
        for place, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": value for name, value in state.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        document = {
            "run": self.key,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "passes": self.passes,
            "history": self.history,
        }
        return tensors, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any], *, folder: Path) -> None:
        if document.get("run") != self.key:
            problem = "is the checkpoint of another run (other data, split or options)"
            raise ConfigError(folder, problem, "give another output folder, or delete this one to start again")

        def part(name: str) -> State:
            return {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}

        self.classifier.network.load_state_dict(part("network."))
        state: dict[int, State] = {}
        for name, value in part("optimizer.").items():
            place, _, key = name.partition(".")
            state.setdefault(int(place), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.average is not None:
            self.average.state = {name: value.to(self.device) for name, value in part("average.").items()}
        self.best = part("best.")
        self.step, self.loss_sum = document["step"], document["loss_sum"]
        self.seconds, self.history, self.passes = document["seconds"], document["history"], document["passes"]

    def finish(self, out_dir: Path) -> None:
        """Measure the classifier as it will be used, and save it."""
        chosen = self.best or (self.average.state if self.average is not None else None)
        if chosen is not None:
            self.classifier.network.load_state_dict(chosen)
        self.classifier.eval()
        frozen = self.classifier.frozen()
        parts = {"val": self.split.val, "adv_test": self.split.adv_test}
        training = {
            "run": self.key,
            "config": self.config.model_dump(mode="json"),
            "recipe": self.recipe.identity() or None,
            "data": {
                "spec": without_path(self.dataset.spec),
                "fingerprint": self.dataset.fingerprint,
                "n": len(self.dataset),
            },
            "images": len(self.train_part),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "passes": self.passes,
            "device": str(self.device),
            "history": self.history,
            "metrics": {name: evaluate_classifier(frozen, self.dataset, part) for name, part in parts.items() if part},
        }
        if self.best:
            scores = list(map(worth, self.history))
            training["kept_epoch"] = scores.index(max(scores)) + 1
        learned = pixel_hashes(self.dataset.images[self.train_part]).unique()
        told = {"training": training, "split": self.split.document()}
        save_classifier(self.classifier, out_dir, told, learned=learned)


def worth(epoch: Mapping[str, Any]) -> float:
    """Of an epoch's record: robust and clean accuracy on validation images (of masks Dice), added.

    By robust accuracy alone, chance decides among epochs that withstand next to nothing, some of which know little. A
    recipe may say itself what counts, as "worth".
    """
    val = epoch["val"]
    return float(val["worth"] if "worth" in val else val["robust_accuracy"] + val.get("dice", val["accuracy"]))
