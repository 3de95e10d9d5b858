"""The attack engine against the bare network and against other libraries: PGD, L-infinity, 8/255, ten steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import Pgd, missing, peers
from benchmarks.record import Record
from benchmarks.subjects import Normalised, as_classifier, near_pictures, splitting_network
from benchmarks.timing import Case
from medaegis.attacks.base import Until
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.models.classifier import Classifier
from medaegis.models.stem import BlockConv

ABOUT = (
    "PGD on ResNet-50 at 224 px: ours, the bare network's forward and input gradient, and other libraries with the "
    "same ball, step and start. A case's success is counted by one judge: the float32 network as built, on the result "
    "rounded to 8 bits. `medaegis` is the whole attack, its own verification in float32 included; `loop` is what it "
    "spends on steps, and what is compared with the bare gradient. Robust accuracy: ResNet-18 at 112 px, PGD with a "
    'hundred steps in everybody\'s hands; ours stops at each image that it has broken (`until="broken"`).'
)
EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
LONG = 100  # steps, where robust accuracy is asked for


def run(record: Record) -> None:
    quick = record.quick
    name, size, batches = ("resnet18", 64, (4,)) if quick else ("resnet50", 224, (8, 16))
    record.settings(network=name, size=size, eps="8/255", step="2/255", steps=STEPS, random_start=False)
    images = near_pictures(2 * max(batches), size, seed=record.seed)
    model = splitting_network(name, images, seed=record.seed)
    classifier = as_classifier(model, name, size=size)
    fast = Victim(classifier)
    plain = Victim(classifier, dtype=torch.float32, fold=False)
    record.settings(arithmetic=str(fast.dtype).removeprefix("torch."))
    images, labels = _movable(model, images, record.seed)
    attack = Attack(objective=CrossEntropy(), steps=STEPS, step_size=STEP / EPS)
    for batch in batches:
        _overhead(record, attack, fast, images[:batch], labels[:batch])
    x, y = images[: batches[0]], labels[: batches[0]]
    _peers(record, attack, fast, plain, model, x, y)
    for eps in (1, 8):
        _robust_accuracy(record, eps)


@torch.no_grad()
def _movable(model: Normalised, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The half of the images that any attack moves over the boundary, and their labels.

    In a network of random weights perturbations of any kind push towards one class; images of that class stay in it,
    and an attack that does nothing would do as well on them.
    """
    labels = model(images).argmax(1)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    towards = model((images + EPS * noise.sign()).clamp(0, 1)).argmax(1).mode().values
    rows = labels != towards
    return images[rows], labels[rows]


def _overhead(record: Record, attack: Attack, fast: Victim, x: Tensor, y: Tensor) -> None:
    """Ours against the bare gradient, in the fast arithmetic."""
    eps = torch.full((len(x), 1, 1, 1), EPS)
    goal = Goal(y)
    cases = [
        _case("bare folded gradient", lambda steps: _bare(fast.fast, x, y, steps), x),
        _case("loop", lambda steps: _short(attack, steps).descend(fast, x, goal, eps, x)[0], x),
        _case("medaegis", lambda steps: _short(attack, steps).run(fast, x, y, eps=EPS, batch_size=len(x)), x),
    ]
    group = f"overhead, batch {len(x)}"
    seconds = record.measure(group, cases, unit="image-step", rounds=5, budget=5 if record.quick else 300)
    record.ratio(
        f"loop / bare folded gradient, batch {len(x)}", seconds, "loop", "bare folded gradient", goal="<= 1.05"
    )
    record.ratio(
        f"whole attack of {STEPS} steps / bare folded gradient, batch {len(x)}",
        seconds,
        "medaegis",
        "bare folded gradient",
    )


def _peers(
    record: Record, attack: Attack, fast: Victim, plain: Victim, model: Normalised, x: Tensor, y: Tensor
) -> None:
    """Ours against other libraries, and what folding, layout and arithmetic give."""
    found: dict[str, Tensor] = {}

    def kept(name: str, make: Callable[[int], Tensor]) -> Case:
        def run(steps: int) -> None:
            found[name] = make(steps)

        return _case(name, run, x)

    cases = [
        kept("medaegis", lambda steps: _short(attack, steps).run(fast, x, y, eps=EPS, batch_size=len(x)).images),
        kept(
            "medaegis, float32, not folded",
            lambda steps: _short(attack, steps).run(plain, x, y, eps=EPS, batch_size=len(x)).images,
        ),
        _case("convolutions of medaegis alone", _convolutions(fast, x), x),
        _case("bare float32 channels-last gradient", lambda steps: _bare(plain.fast, x, y, steps), x),
    ]
    others = peers(model, size=x.shape[-1], eps=EPS, step=STEP, threads=torch.get_num_threads())
    cases += [kept(name, partial(pgd, x, y)) for name, pgd in others.items()]
    group = f"batch {len(x)}"
    seconds = record.measure(group, cases, unit="image-step", rounds=5, budget=20 if record.quick else 1200)
    for name, images in found.items():
        share = _success(model, images, x, y)
        for row in record.content["measurements"]:
            if row["group"] == group and row["name"] == name:
                row["extra"] = {"success": share}
    for name in others:
        goal = ">= 2.6" if name == "torchattacks" else ">= 3.7"
        record.ratio(f"{name} / medaegis", seconds, name, "medaegis", goal=goal)
        record.ratio(f"{name} / convolutions of medaegis alone", seconds, name, "convolutions of medaegis alone")
        record.ratio(f"{name} / medaegis in float32, not folded", seconds, name, "medaegis, float32, not folded")
    record.ratio(
        "medaegis in float32, not folded / bare float32 channels-last gradient",
        seconds,
        "medaegis, float32, not folded",
        "bare float32 channels-last gradient",
    )
    if absent := missing():
        record.note(f"Not installed and so not measured: {', '.join(absent)} (`make bench` installs them).")


def _robust_accuracy(record: Record, eps: int) -> None:
    """Time to the same robust accuracy within eps / 255, a quarter of it a step."""
    size, count, steps = (64, 8, 10) if record.quick else (112, 16, LONG)
    images = near_pictures(count, size, seed=record.seed)
    model = splitting_network("resnet18", images, seed=record.seed)
    x, y = _movable(model, images, record.seed)
    victim = Victim(as_classifier(model, "resnet18", size=size))
    radius, step = eps / 255, eps / 4 / 255
    attack = Attack(objective=CrossEntropy(), steps=steps, step_size=step / radius)
    found: dict[str, Tensor] = {}

    def ours(until: Until) -> None:
        run = attack.run(victim, x, y, eps=radius, batch_size=len(x), until=until)
        found["medaegis" if until == "broken" else "medaegis, all steps"] = run.images

    def theirs(name: str, pgd: Pgd) -> None:
        found[name] = pgd(x, y, steps)

    others = peers(model, size=size, eps=radius, step=step, threads=torch.get_num_threads())
    cases = [
        Case("medaegis", lambda: ours("broken"), work=len(x)),
        Case("medaegis, all steps", lambda: ours("end"), work=len(x)),
        *(
            Case(name, partial(theirs, name, pgd), work=len(x), warm=partial(pgd, x[:1], y[:1], 1))
            for name, pgd in others.items()
        ),
    ]
    group = f"robust accuracy, {eps}/255, {steps} steps"
    seconds = record.measure(group, cases, unit="image", rounds=5, budget=5 if record.quick else 700)
    for row in record.content["measurements"]:
        if row["group"] == group:
            row["extra"] = {"success": _success(model, found[row["name"]], x, y, radius)}
    for case in cases[1:]:
        goal = ">= 10" if case.name in others else ""
        record.ratio(f"{case.name} / medaegis, {group}", seconds, case.name, "medaegis", goal=goal)


def _case(name: str, run: Callable[[int], object], x: Tensor) -> Case:
    return Case(name, lambda: run(STEPS), work=len(x) * STEPS, warm=lambda: run(1))


def _short(attack: Attack, steps: int) -> Attack:
    return attack if steps == attack.steps else attack.with_options(steps=steps)


def _convolutions(victim: Victim, x: Tensor) -> Callable[[int], None]:
    """What no attack on this network that ends in a verdict can do without: the convolutions of each step, forward and
    back to the pixels, in the fast arithmetic, and those of a verdict on clean and attacked images in float32.
    """
    walk, verdict = _entering(victim.fast, x), _entering(victim.exact, x)
    leaving = [torch.ones_like(conv(entering)) for conv, entering in walk]

    def run(steps: int) -> None:
        for _ in range(steps):
            for (conv, entering), gradient in zip(walk, leaving, strict=True):
                torch.autograd.grad(conv(entering), entering, gradient)
        with torch.no_grad():
            for conv, entering in [*verdict, *verdict]:
                conv(entering)

    return run


def _entering(classifier: Classifier, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Each convolution of the network, with what enters it."""
    found: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, given, _: found.append((module, given[0].detach().clone())))
        for module in classifier.modules()
        if isinstance(module, nn.Conv2d | BlockConv)
    ]
    with torch.no_grad():
        classifier(x)
    for hook in hooks:
        hook.remove()
    return [(module, entering.requires_grad_()) for module, entering in found]


def _bare(classifier: Classifier, x: Tensor, y: Tensor, steps: int) -> None:
    """The least there is to do: loss and gradient at the network's own input, ready in its type and layout."""
    network: nn.Module = classifier.network
    z = ((x - classifier.mean) / classifier.std).to(classifier.dtype, memory_format=torch.channels_last)
    z.requires_grad_(True)
    for _ in range(steps):
        torch.autograd.grad(F.cross_entropy(network(z).float(), y, reduction="sum"), z)


@torch.no_grad()
def _success(model: nn.Module, images: Tensor, x: Tensor, y: Tensor, eps: float = EPS) -> float:
    """Share of rounded results that the network takes for another class.

    Raises:
        RuntimeError: a result lies outside the ball.
    """
    furthest = float((images - x).abs().max())
    if furthest > eps + 1e-6:
        raise RuntimeError(f"a result is {furthest * 255:.3f}/255 away from its image, allowed are {eps * 255:g}/255")
    rounded = (images * 255).round() / 255
    return float((model(rounded).argmax(1) != y).float().mean())
