"""PGD of other libraries, each called as its own documentation does: the same ball, steps and start as ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

Pgd = Callable[[Tensor, Tensor, int], Tensor]
"""(images, labels, steps) -> adversarial images."""

MODULES = {"torchattacks": "torchattacks", "foolbox": "foolbox", "ART": "art"}


def missing() -> list[str]:
    """Names of the libraries that are not installed."""
    return [name for name, module in MODULES.items() if find_spec(module) is None]


def peers(model: nn.Module, *, size: int, eps: float, step: float, threads: int) -> dict[str, Pgd]:
    """Untargeted PGD in the maximum norm, without random start, of every library that is installed."""
    makers = {"torchattacks": _torchattacks, "foolbox": _foolbox, "ART": _art}
    absent = missing()
    made = {name: make(model, size, eps, step) for name, make in makers.items() if name not in absent}
    torch.set_num_threads(threads)  # should one of them have changed it
    return made


def _torchattacks(model: nn.Module, size: int, eps: float, step: float) -> Pgd:
    import torchattacks

    def attack(x: Tensor, y: Tensor, steps: int) -> Tensor:
        found: Tensor = torchattacks.PGD(model, eps=eps, alpha=step, steps=steps, random_start=False)(x, y)
        return found

    return attack


def _foolbox(model: nn.Module, size: int, eps: float, step: float) -> Pgd:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def attack(x: Tensor, y: Tensor, steps: int) -> Tensor:
        pgd = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
        found: Tensor = pgd(wrapped, x, y, epsilons=eps)[1]
        return found

    return attack


def _art(model: nn.Module, size: int, eps: float, step: float) -> Pgd:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, size, size),
        nb_classes=2,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )

    def attack(x: Tensor, y: Tensor, steps: int) -> Tensor:
        pgd = ProjectedGradientDescentPyTorch(
            wrapped,
            eps=eps,
            eps_step=step,
            max_iter=steps,
            num_random_init=0,
            batch_size=len(x),
            verbose=False,
        )
        return torch.from_numpy(pgd.generate(x.numpy(), y.numpy()))

    return attack
