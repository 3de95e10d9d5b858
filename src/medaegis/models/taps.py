"""Read what named modules give, or are given, in one forward pass, and leave the pass once the last of it is known.

What a function such as `F.relu` gives has no name; it is had as the input of the module that it goes to. The hook that
stays on a tapped module knows nothing itself: what it hears goes to the pass that runs innermost in its
thread. So nested and threaded passes cannot mix, deep copies keep working, and classifiers may share a network.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medaegis.errors import DataError

GIVEN = ":input"  # behind a module's name: the first thing that it is given


@dataclass(frozen=True)
class Activations:
    """What one forward pass leaves behind.

    Attributes:
        logits: float32 ``(N, K)``, or as the task has them; None where they were not asked for.
        features: tap name -> output of that module, `(N, C, H, W)`, `(N, C, T)` of T tokens or `(N, C)`, in the
            network's own type. Modules that give channels last are turned (`channels_first`).
    """

    logits: Tensor | None
    features: dict[str, Tensor]


@dataclass(frozen=True)
class Observed:
    """What a trial pass saw of what one module gives, or is given.

    Attributes:
        calls: how often it ran; only a module that runs once can be a tap.
        shape: of that without the batch, channels first; None for anything but one tensor with a row per image.
        changed_later: whether an in-place operation writes into it afterwards.
    """

    calls: int
    shape: tuple[int, ...] | None
    changed_later: bool


class _DeepestTap(BaseException):
    """Leaves a forward pass once every tap is filled; no Exception, so that no network can swallow it."""


@dataclass
class _Pass:
    """One running forward pass: which modules it listens to, and what it has heard."""

    wanted: dict[tuple[nn.Module, bool], list[str]]
    copied: frozenset[str]
    missing: int
    stop: bool
    features: dict[str, Tensor] = field(default_factory=dict)


class _Running(threading.local):
    def __init__(self) -> None:
        self.stack: list[_Pass] = []


_running = _Running()
_hooking = threading.Lock()


def _hear(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    _keep((module, False), output)


def _hear_given(module: nn.Module, args: tuple[Any, ...]) -> None:
    _keep((module, True), args[0] if args else None)


def _keep(place: tuple[nn.Module, bool], values: Any) -> None:
    if not _running.stack:
        return
    innermost = _running.stack[-1]
    for name in innermost.wanted.get(place, ()):
        innermost.features[name] = values.clone() if name in innermost.copied else values
        innermost.missing -= 1
        if innermost.stop and innermost.missing == 0:
            raise _DeepestTap


def located(network: nn.Module, tap: str) -> tuple[nn.Module, bool]:
    """The module that a tap is named after, and whether what it is given is meant."""
    given = tap.endswith(GIVEN)
    return network.get_submodule(tap.removesuffix(GIVEN)), given


def listen(network: nn.Module, tap: str) -> None:
    """Put the hook on a tap's module; once, and it stays: a pass in another thread may be walking through the hooks."""
    module, given = located(network, tap)
    with _hooking:
        if given and _hear_given not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_hear_given)
        elif not given and _hear not in module._forward_hooks.values():
            module.register_forward_hook(_hear)


def run_tapped(
    network: nn.Module, x: Tensor, taps: Mapping[str, Observed], *, to_the_end: bool
) -> tuple[Any, dict[str, Tensor]]:
    """One forward pass; the network's output (None if it was left early) and the taps' outputs.

    Args:
        taps: tap -> what `observe` saw of it; `listen` was called on each.
        to_the_end: False leaves the pass at the deepest tap.
    """
    wanted: dict[tuple[nn.Module, bool], list[str]] = {}
    for name in taps:
        wanted.setdefault(located(network, name), []).append(name)
    copied = frozenset(name for name, observed in taps.items() if observed.changed_later)
    this = _Pass(wanted, copied, missing=len(taps), stop=not to_the_end)
    output: Any = None
    _running.stack.append(this)
    try:
        output = network(x)
    except _DeepestTap:
        pass
    finally:
        _running.stack.pop()
    return output, this.features


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def observe(network: nn.Module, x: Tensor) -> tuple[Any, dict[str, Observed]]:
    """A trial pass in eval mode without gradients: the network's output, and what became of all that could be tapped.

    Modules come first, in the order of their definition, then what they are given. Compiled ones (TorchScript) cannot
    be listened to, and are none.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if name and not isinstance(module, torch.jit.ScriptModule):
            names.setdefault(module, []).append(name)
    heard: dict[tuple[nn.Module, bool], list[tuple[Any, int]]] = {
        (module, given): [] for given in (False, True) for module in names
    }

    def note(place: tuple[nn.Module, bool], values: Any) -> None:
        # A tensor counts the in-place operations on it.
        heard[place].append((values, values._version if isinstance(values, Tensor) else 0))

    def note_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        note((module, False), output)

    def note_given(module: nn.Module, args: tuple[Any, ...]) -> None:
        note((module, True), args[0] if args else None)

    with ExitStack() as hooks, evaluating(network), torch.inference_mode(False), torch.no_grad():
        for module in names:
            hooks.enter_context(module.register_forward_hook(note_output))
            hooks.enter_context(module.register_forward_pre_hook(note_given))
        output = network(x)
    observed: dict[str, Observed] = {}
    for (module, given), results in heard.items():
        shapes = [_shape(result, x) for result, _ in results]
        changed = any(isinstance(result, Tensor) and result._version != version for result, version in results)
        for name in names[module]:
            seen = Observed(len(results), shapes[0] if len(shapes) == 1 else None, changed)
            observed[f"{name}{GIVEN}" if given else name] = seen
    return output, observed


def _shape(output: Any, x: Tensor) -> tuple[int, ...] | None:
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(x):
        return None
    return tuple(channels_first(output, (x.shape[2], x.shape[3])).shape[1:])


def channels_first(features: Tensor, sides: tuple[int, int]) -> Tensor:
    """A module's output `(N, ...)` as `(N, C, places)`, a view: tokens `(N, T, C)` and maps `(N, H, W, C)` are turned.

    Three sides are taken for tokens, as transformers give them. Maps have the proportions of the images, whose height
    and width are `sides`: of four sides, the second and third are the places only if they have them and the third and
    fourth have not.
    """
    if features.ndim == 3:
        return features.transpose(1, 2)
    if features.ndim == 4 and _in_proportion(features.shape[1:3], sides):
        return features if _in_proportion(features.shape[2:], sides) else features.permute(0, 3, 1, 2)
    return features


def _in_proportion(places: Sequence[int], sides: tuple[int, int]) -> bool:
    """Whether a map has the proportions of an image, but for a place in each direction by rounding; squares just."""
    (h, w), (height, width) = places, sides
    return h == w if height == width else abs(h * width - w * height) <= height + width


def pool(features: Tensor) -> Tensor:
    """Mean of each channel, `(N, C)` float32, of `(N, C, H, W)`, of `(N, C, T)` or of vectors."""
    return features.float().flatten(2).mean(2) if features.ndim > 2 else features.float()


SAME = 1e-6  # share of a channel's magnitude: what lies within it is rounding


def refuse_constant(what: str, features: Mapping[str, Tensor]) -> None:
    """Whether the features of any tap are the same for all images: then they tell none from another.

    Densities, distances and maps of such features are not defined; what is computed for them anyway is noise, or ends
    the process (t-SNE).

    Args:
        what: is made of them, for the error.
        features: tap -> pooled features `(N, C)`.

    Raises:
        DataError: names every such tap.
    """
    dead = [tap for tap, values in features.items() if _constant(values)]
    if dead:
        n = len(features[dead[0]])
        problem = f"tap {', '.join(map(repr, dead))} gives the same features for all {n} images, as a dead layer does"
        raise DataError(what, problem, "leave that tap out (--taps), or train the classifier anew")


def _constant(values: Tensor) -> bool:
    spread = values.amax(0) - values.amin(0)
    return bool((spread <= SAME * values.abs().amax(0)).all())
