"""Victims of a few hundred weights, seeded without the global random state, for attacks that take milliseconds."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from tests.models.tiny_networks import Tiny, lived_in, tiny
from torch import Tensor, nn

from medaegis.attacks.balls import Linf
from medaegis.attacks.steps import Problem
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.draws import Draws
from medaegis.guard.guard import Guard
from medaegis.images.datasets import load_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.sizes import Size

SIZE = 16
TAPS = ("relu", "last")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def toy_classifier(
    classes: int = 2,
    *,
    channels: str = "gray",
    seed: int = 0,
    shift: float = 0.0,
    taps: tuple[str, ...] = TAPS,
    size: Size = SIZE,
) -> Classifier:
    """A random `Tiny` whose logits are spread out; `shift` moves them all, which changes nothing but their signs."""
    with seeded(seed):
        network = lived_in(Tiny(classes), seed)
    network.fc.weight.data.mul_(20)
    network.fc.bias.data.zero_()
    classifier = Classifier(
        network,
        classes=[f"class {k}" for k in range(classes)],
        size=size,
        channels=channels,
        taps=taps,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone="tests.models.tiny_networks:tiny",
    ).eval()
    # Centred on noise, so that every class is predicted for some images.
    with torch.no_grad():
        network.fc.bias.data -= classifier(toy_images(64, classifier)).mean(0) - shift
    return classifier


def toy_images(n: int, classifier: Classifier, *, seed: int = 1, levels: int = 255) -> Tensor:
    """Smooth random images with black and white patches, on the grid of k / levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, classifier.in_channels, 4, 4), generator=generator)
    images = nn.functional.interpolate(coarse, size=classifier.size, mode="bilinear").clamp(0, 1)
    images[:, :, :3, :3], images[:, :, -3:, -3:] = 0.0, 1.0
    return (images * levels).round() / levels


def toy_bank(classifier: Classifier, *, taps: tuple[str, ...] = ("input", *TAPS), seed: int = 0) -> ShieldBank:
    """Random Shields, their thresholds set on random images."""
    shapes = classifier.tap_shapes(taps)
    bank = ShieldBank([Shield(shapes, width=4, hidden=8, seed=seed + k) for k in range(len(classifier.classes))])
    images = toy_images(400, classifier, seed=99)
    with torch.no_grad():
        for shield in bank.shields:
            shield.standardise(classifier.activations(images, taps=taps).features)
            # A verdict that depends on the image enough for an attack to have something to do.
            shield.join[2].weight.mul_(50)
        seen = classifier.activations(images, taps=taps)
        predicted = seen.logits.argmax(1)
        bank.calibrate(bank(seen.features, predicted), predicted, 0.9)
    return bank.eval().requires_grad_(False)


def toy_victim(classes: int = 2, *, cushion: str = "none", shields: bool = False, seed: int = 0, **options) -> Victim:
    classifier = toy_classifier(classes, seed=seed)
    bank = toy_bank(classifier) if shields else None
    options = {"dtype": torch.float32, **options}
    return Victim(classifier, cushion=parse_cushion(cushion), shields=bank, **options)


@torch.no_grad()
def toy_labels(victim: Victim, images: Tensor) -> Tensor:
    """What the victim predicts on the clean images: then every success is the attack's."""
    return victim.judge(images).predicted


def drive(rule, loss, x, *, eps, steps, ball=None, guides=None, ids=None):
    """What a search asks of a loss on images `x`, what it is told, and its result: `(points, losses, found)`."""
    radius = torch.full((len(x), 1, 1, 1), eps).to(x)
    draws = Draws(0, torch.arange(len(x)) if ids is None else torch.tensor(ids), "search")
    walker = rule.begin(Problem(x, radius, radius, steps, ball or Linf(), draws, guides))
    z, points, losses = x.clone(), [], []
    for i in range(steps):
        points.append(z.clone())
        losses.append(loss(z))
        z = walker.step(z.clone(), torch.zeros_like(z), losses[-1], i)
    return torch.stack(points), torch.stack(losses), walker.result(z)


class Rounding(nn.Module):
    """A network that sees 8-bit pixels and counts how many it has seen: what a peer must attack to face the same."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.cushion, self.seen = network, parse_cushion("none"), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.network(self.cushion(x))


@lru_cache
def trained() -> tuple[Guard, Tensor, Tensor]:
    """A guard of a small network that has learned drawn X-rays, and 240 of those with what its classifier says."""
    guard = Guard.load(Path(__file__).parents[1] / "golden" / "guard", factory=tiny)
    with tempfile.TemporaryDirectory() as cache:
        images = load_dataset("phantom-xray?n=240", size=32, channels="gray", cache_dir=cache).pixels()
    return guard, images, Victim(guard.classifier).judge(images).predicted


class Passes:
    """Counts passes of single images through a network, forwards and gradients to the pixels."""

    def __init__(self, victim):
        self.forward = self.backward = 0
        self.deepest = set()
        network = victim.fast.network
        self.handles = [
            next(m for m in network.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(self.seen),
            network.fc.register_forward_hook(lambda *_: self.deepest.add("fc")),
        ]

    def seen(self, module, args, output):
        if torch.is_grad_enabled() and args[0].requires_grad:
            self.forward += len(args[0])
            output.register_hook(self.passed)

    def passed(self, grad):
        self.backward += len(grad)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def separate_victim(**options):
    """Gradients by another copy than verdicts, so that they can be counted apart."""
    victim = toy_victim(3, shields=True, **options)
    victim.fast = toy_classifier(3).frozen()
    return victim
