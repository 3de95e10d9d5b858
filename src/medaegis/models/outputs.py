"""From what a network returns to logits `(N, K)`: which part of it they are, one logit for two classes, probabilities.

One logit z for two classes becomes (-z/2, z/2): the same probabilities (Bishop 2006, eq. 4.57), and a common shift of
both logits, on which some attacks would depend, is nil.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.task import SINGLE, PredictionTask

Form = Literal["logits", "probabilities"]
FORMS: tuple[Form, ...] = ("logits", "probabilities")
_ONE_CLASS = "a network that may find several classes at once has another task: task='multi'"


def looks_like_probabilities(outputs: Tensor) -> bool:
    """Whether every row of ``(N, K)`` is a probability vector: in [0, 1] and summing to 1 (within 1e-3)."""
    outputs = outputs.detach().float()
    return _within_unit(outputs) and bool(((outputs.sum(1) - 1).abs() <= 1e-3).all())


def _within_unit(outputs: Tensor) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


@dataclass(frozen=True)
class Outputs:
    """How logits are read from what a network returns.

    Attributes:
        key: entry of a dict, tuple or other object that holds them; None where a tensor is returned.
        form: "logits", or "probabilities", whose logarithm is taken. Where a probability is 0 or 1 to the last digit of
            its type, there is no gradient, and for one probability no logit above 16.6 (float32).
        single: whether there is one number for two classes, above 0 (or 0.5) for the second.
        task: what the numbers are; of several findings (`MultiLabel`) each probability stands for itself.
    """

    key: str | int | None = None
    form: Form = "logits"
    single: bool = False
    task: PredictionTask = SINGLE

    def part(self, returned: Any, source: str) -> Tensor:
        """The tensor that holds the answers; ConfigError, naming `source`, where there is none."""
        found = returned
        if self.key is not None:
            try:
                found = None if isinstance(returned, Tensor) else returned[self.key]
            except (KeyError, IndexError, TypeError):
                found = getattr(returned, str(self.key), None)
        if isinstance(found, Tensor):
            return found
        if self.key is not None:
            raise ConfigError(source, f"returns no tensor as {self.key!r}, but {_described(returned)}", "name another")
        remedy = "name the part that holds the logits: output='logits' (--output logits), or its number"
        raise ConfigError(source, f"returns {_described(returned)}", remedy)

    def logits(self, returned: Any, source: str = "network") -> Tensor:
        """float32 ``(N, K)``, or as the task has them; differentiable."""
        values = self.part(returned, source)
        single = self.task.name == "multi" or values.ndim < 2 or values.shape[1:] == (1,)
        if self.form == "probabilities":
            if values.dtype not in (torch.float32, torch.float64):
                values = values.float()
            bounds = torch.finfo(values.dtype)
            values = (
                values.clamp(bounds.tiny, 1 - bounds.eps / 2).logit() if single else values.clamp_min(bounds.tiny).log()
            )
        values = values.float()
        if single and self.task.name == "single":
            half = values.reshape(-1) / 2
            values = torch.stack([-half, half], 1)
        return values

    def last_layer(self, linear: nn.Linear, classes: int) -> nn.Linear | None:
        """The layer with one output per class that a network's last one amounts to; None if it is not of that size."""
        if linear.out_features == classes:
            return linear
        if linear.out_features != 1 or classes != 2:
            return None
        both = nn.Linear(linear.in_features, 2, bias=linear.bias is not None).to(linear.weight)
        with torch.no_grad():
            both.weight.copy_(torch.cat([-linear.weight, linear.weight]) / 2)
            if linear.bias is not None:
                both.bias.copy_(torch.cat([-linear.bias, linear.bias]) / 2)
        return both.requires_grad_(False)


def settle(
    returned: Any,
    *,
    key: str | int | None,
    form: Form | None,
    images: int,
    classes: Sequence[str],
    far: Callable[[], Any],
    source: str,
    task: PredictionTask = SINGLE,
    size: tuple[int, int] = (0, 0),
) -> Outputs:
    """How to read a network, from what it returned for trial images; nothing that can be meant in two ways is guessed.

    Args:
        form: None: not said; logits, unless they could as well be probabilities.
        far: what the network returns for images far out of range, where logits leave [0, 1] and a sigmoid does not.
        source: named in errors.
        task: what the outputs are to be, of images of this size.

    Raises:
        ConfigError: no tensor of one row per image and one column per class (or one number for two classes); class
            numbers; probabilities where logits are expected, or the other way round; or it could be either.
    """
    if form is not None and form not in FORMS:
        raise ConfigError(f"outputs {form!r}", "unknown", f"give {' or '.join(FORMS)}")
    values = Outputs(key).part(returned, source)
    shape, expected = tuple(values.shape), task.logits_shape(images, len(classes), size)
    either = task.name == "single" and len(classes) == 2
    single = task.name == "single" and shape in ((images,), (images, 1))
    if shape != expected and not (single and either):
        problem = f"returns {shape} for {images} images, expected logits {expected}, {task.title}, of {list(classes)}"
        remedy = f"give it {len(classes)} outputs" + (", or one, above 0 for the second class" if either else "")
        raise ConfigError(source, problem, remedy)
    if not values.is_floating_point():
        kind = str(values.dtype).removeprefix("torch.")
        raise ConfigError(source, f"returns {kind}: class numbers instead of logits", "take its last argmax off")
    alone = single or task.name == "multi"  # each number stands for itself
    _check_form(values, form, single=alone, source=source)
    if form is None and _within_unit(values) and _within_unit(Outputs(key).part(far(), source)):
        what = "logits, or probabilities by a sigmoid?" if alone else "a sigmoid for each class?"
        problem = f"its outputs all lie between 0 and 1, whatever the images: {what}"
        remedy = "take its last sigmoid off, or say which: outputs='probabilities' or 'logits' (--outputs)"
        raise ConfigError(source, problem, remedy if alone else f"{_ONE_CLASS}; say outputs='logits' if they are that")
    return Outputs(key, form or "logits", single, task)


def _check_form(values: Tensor, form: Form | None, *, single: bool, source: str) -> None:
    within = _within_unit(values)
    adds_up = not single and looks_like_probabilities(values)
    if form == "probabilities":
        if not within:
            raise ConfigError(source, "its outputs are no probabilities, beyond 0 to 1", "do not say 'probabilities'")
        if not single and not adds_up:
            problem = "its outputs are no probabilities: those of an image do not add up to 1"
            raise ConfigError(source, problem, _ONE_CLASS)
    elif adds_up:
        problem = "returns probabilities, expected logits (losses on probabilities have vanishing gradients)"
        remedy = "take its last softmax off, or, if you cannot, say outputs='probabilities' (--outputs probabilities)"
        raise ConfigError(source, problem, remedy)


def _described(returned: Any) -> str:
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"{kind} with {', '.join(map(repr, list(returned)[:8]))}"
    if isinstance(returned, tuple | list):
        return f"{kind} of {len(returned)} parts (0 to {len(returned) - 1})"
    return kind
