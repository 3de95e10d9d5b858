"""A classifier with taps: any network gives its logits and the outputs of named modules in one forward pass.

Pixels in [0, 1] go in; normalisation is the first layer, so every distance between images is in pixel units.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medaegis.errors import ConfigError, DataError
from medaegis.models.folding import fold_batchnorm
from medaegis.models.taps import Observed, evaluating, listen, observe, run_tapped

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INPUT = "input"


@dataclass(frozen=True)
class Activations:
    """What one forward pass leaves behind.

    Attributes:
        logits: float32 ``(N, K)``, or None where they were not asked for.
        features: tap name -> output of that module, batch first, in the network's own type.
    """

    logits: Tensor | None
    features: dict[str, Tensor]


def looks_like_probabilities(outputs: Tensor) -> bool:
    """Whether every row of ``(N, K)`` is a probability vector: in [0, 1] and summing to 1 (within 1e-3)."""
    outputs = outputs.detach().float()
    in_range = bool(((outputs >= 0) & (outputs <= 1)).all())
    return in_range and bool(((outputs.sum(1) - 1).abs() <= 1e-3).all())


class Classifier(nn.Module):
    """A network with its normalisation, class names and taps.

    Tap names are module names of ``network`` (``layer2.0``), or ``"input"``: the pixels as given.

    Args:
        network: takes normalised ``(N, 3, size, size)`` images and returns logits ``(N, K)``. Its weights are put into
            channels-last order, the faster one on CPUs and on GPUs.
        classes: the K class names, in the order of the logits.
        size: side of the square images in pixels.
        channels: ``"gray"`` takes ``(N, 1, size, size)`` and repeats it three times, ``"rgb"`` takes three channels.
        taps: module names whose outputs are read by default.
        backbone: registered name, or ``package.module:factory``; what a saved classifier is rebuilt from.
        mean, std: normalisation, one value per channel of the network.

    Raises:
        ConfigError: the network does not run on such images, does not return ``(N, K)`` logits, returns
            probabilities, or a tap is unknown, is called more than once in a pass, or returns no tensor.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: Sequence[str],
        size: int,
        channels: Literal["gray", "rgb"] = "rgb",
        taps: Sequence[str] = (),
        backbone: str,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if channels not in ("gray", "rgb"):
            raise ConfigError("classifier", f"channels {channels!r} is unknown", "give 'gray' or 'rgb'")
        if len(classes) < 2 or len(set(classes)) != len(classes):
            raise ConfigError("classifier", f"classes are {list(classes)}", "give at least two, each once")
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes = tuple(classes)
        self.size = size
        self.channels = channels
        self.backbone = backbone
        self.is_frozen = False
        like = next(network.parameters())
        self.register_buffer("mean", torch.tensor(mean, device=like.device).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, device=like.device).view(1, -1, 1, 1), persistent=False)
        self._observed = self._trial()
        self.taps = tuple(dict.fromkeys(taps))
        self._listen(self.taps)

    @property
    def in_channels(self) -> int:
        """Channels of the images it takes: 1 or 3."""
        return 1 if self.channels == "gray" else 3

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and so of the features."""
        dtype: torch.dtype = next(self.network.parameters()).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, K)``, of images ``(N, C, size, size)`` in [0, 1].

        Raises:
            DataError: another shape or an integer type.
        """
        logits: Tensor = self.network(self._prepare(x))
        return logits.float()

    def activations(self, x: Tensor, *, logits: bool = True, taps: Sequence[str] | None = None) -> Activations:
        """Logits and features of one forward pass; gradients flow where autograd is on.

        Args:
            x: images ``(N, C, size, size)`` in [0, 1].
            logits: False stops the pass at the deepest tap and leaves ``logits`` None.
            taps: names to read instead of ``self.taps``.

        Raises:
            ConfigError: a tap that is not a module of the network, or not called exactly once.
            DataError: images of another shape or an integer type.
        """
        names = self.taps if taps is None else tuple(dict.fromkeys(taps))
        if taps is not None:
            self._listen(names)
        modules = {name: self._output(name) for name in names if name != INPUT}
        prepared = self._prepare(x)
        found: Tensor | None = None
        features: dict[str, Tensor] = {}
        if logits or modules:
            found, features = run_tapped(self.network, prepared, modules, to_the_end=logits)
        silent = [name for name in modules if name not in features]
        if silent:
            raise ConfigError(self.backbone, f"did not call the taps {silent} on these images", "tap what always runs")
        features = {name: x if name == INPUT else features[name] for name in names}
        return Activations(found.float() if logits and found is not None else None, features)

    def tap_shapes(self, taps: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Shape of each tap's output for one image, without the batch: ``(C, H, W)``."""
        names = self.taps if taps is None else tuple(taps)
        shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            shape = (self.in_channels, self.size, self.size) if name == INPUT else self._output(name).shape
            assert shape is not None
            shapes[name] = shape
        return shapes

    def deepest(self, taps: Sequence[str] | None = None) -> tuple[str, ...]:
        """Of these taps (None: its own) the one farthest from the pixels, by the order of the network's definition.

        Of a network that holds classifiers, one tap in each of them.

        Raises:
            ConfigError: none of them is a module.
        """
        order = {name: place for place, (name, _) in enumerate(self.network.named_modules())}
        inner = [f"{name}." for name, module in self.network.named_modules() if isinstance(module, Classifier)]
        known = sorted((tap for tap in (self.taps if taps is None else taps) if tap in order), key=order.__getitem__)
        found = [[tap for tap in known if tap.startswith(part)][-1:] for part in inner or [""]]
        if not any(found):
            raise ConfigError(
                self.backbone, "has no taps, and the attack is on features", "name some when it is trained"
            )
        return tuple(tap for part in found for tap in part)

    def tap_names(self) -> list[str]:
        """Every name that can be a tap, in the order of the network's definition."""
        return [INPUT, *(name for name, out in self._observed.items() if out.calls == 1 and out.shape is not None)]

    def frozen(self, *, dtype: torch.dtype = torch.float32, fold: bool = True) -> Classifier:
        """A copy for inference and attacks: eval for good, no weight gradients, batch norm folded.

        Args:
            dtype: type of the weights and the arithmetic; images are cast inside and logits come back in float32.
            fold: fold batch norms into convolutions, exact in eval mode (`fold_batchnorm` states the tolerance).
                Tapped convolutions are left alone.
        """
        if fold:
            with evaluating(self.network):
                network = fold_batchnorm(self.network, self._prepare(self._example()), keep=self.taps)
        else:
            network = copy.deepcopy(self.network)
        result = Classifier(
            network.eval().requires_grad_(False).to(dtype),
            classes=self.classes,
            size=self.size,
            channels=self.channels,
            taps=self.taps,
            backbone=self.backbone,
            mean=self.mean.flatten().tolist(),
            std=self.std.flatten().tolist(),
        )
        result.is_frozen = True
        return result.eval()

    def train(self, mode: bool = True) -> Classifier:
        """As in ``nn.Module``; a frozen classifier stays in eval mode."""
        super().train(mode and not self.is_frozen)
        return self

    def _prepare(self, x: Tensor) -> Tensor:
        expected = (self.in_channels, self.size, self.size)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected or not x.is_floating_point():
            given = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
            raise DataError(
                "classifier",
                f"images are {given}, expected floating point (N, {', '.join(map(str, expected))}) in [0, 1]",
                f"read them with model_input(size={self.size}, channels={self.channels!r})",
            )
        return ((x - self.mean) / self.std).to(self.dtype)

    def _example(self) -> Tensor:
        """Two images that are not constant, drawn without the global random state."""
        ramp = torch.arange(2 * self.in_channels * self.size * self.size, device=self.device, dtype=torch.float32)
        return (ramp * 0.6180339887).frac().view(2, self.in_channels, self.size, self.size)

    def _trial(self) -> dict[str, Observed]:
        """Run the network once: does it take such images, are these logits, which modules can be taps?"""
        try:
            logits, observed = observe(self.network, self._prepare(self._example()))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                self.backbone,
                f"does not run on normalised images (N, 3, {self.size}, {self.size}): {error}",
                "give a network and a size that fit",
            ) from error
        self._check_logits(logits)
        return observed

    def _check_logits(self, logits: Any) -> None:
        expected = (2, len(self.classes))
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(
                self.backbone,
                f"returns {given} for two images, expected logits {expected}, one per class {list(self.classes)}",
                f"give it {len(self.classes)} outputs (two for a yes/no question)",
            )
        if looks_like_probabilities(logits):
            raise ConfigError(
                self.backbone,
                "returns probabilities, expected logits (losses on probabilities have vanishing gradients)",
                "take its last softmax off",
            )

    def _output(self, name: str) -> Observed:
        """What the trial saw of a tap; raises ConfigError where the name cannot be one."""
        output = self._observed.get(name)
        if output is None:
            near = difflib.get_close_matches(name, [INPUT, *self._observed], n=5, cutoff=0.4)
            hint = f"near it: {', '.join(near)}" if near else f"for example: {', '.join(self.tap_names()[:8])}"
            raise ConfigError(self.backbone, f"has no tap {name!r}", f"choose another one, {hint}")
        if output.calls != 1 or output.shape is None:
            why = f"is called {output.calls} times in a pass" if output.calls != 1 else "returns no single tensor"
            raise ConfigError(self.backbone, f"{name!r} is no tap: it {why}", "take a module that returns a tensor")
        return output

    def _listen(self, names: Iterable[str]) -> None:
        for name in names:
            if name != INPUT:
                self._output(name)
                listen(self.network.get_submodule(name))
