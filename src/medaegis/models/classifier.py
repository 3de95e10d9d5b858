"""A classifier with taps: any network gives its logits and the outputs of named modules in one forward pass.

Pixels in [0, 1] go in; normalisation is the first layer, so every distance between images is in pixel units. Whatever
form the network's outputs have, logits come out (`models.outputs`).
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medaegis.ambient import exact_float32, own_modes
from medaegis.errors import ConfigError, DataError
from medaegis.models.companions import check_alone
from medaegis.models.folding import fixed_copy, fold_batchnorm
from medaegis.models.normalisation import check_normalisation
from medaegis.models.outputs import Form, settle
from medaegis.models.stem import stem_on_blocks
from medaegis.models.taps import GIVEN, Activations, Observed, channels_first, evaluating, listen, observe, run_tapped
from medaegis.sizes import Size, as_size, sides
from medaegis.task import TaskName, task_named

INPUT = "input"
ANSWERED = "input+answer"  # of a network for masks: the pixels, and over each the probabilities of what it shows
FAR = 1000.0  # times the range of images


class DoesNotRun(ConfigError):
    """The network takes no such images."""


class Classifier(nn.Module):
    """A network with its normalisation, class names and taps.

    >>> import torch, medaegis as ma
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    >>> model = ma.wrap(network, classes=("normal", "pneumonia"), size=16, normalise=None)
    >>> type(model).__name__, model.classes, model.tap_names()
    ('Classifier', ('normal', 'pneumonia'), ['input', '0', '1'])
    >>> model.activations(torch.rand(5, 3, 16, 16), taps=["0"]).features["0"].shape
    torch.Size([5, 768])

    Tap names are module names of ``network`` (``layer2.0``), for what it gives, or with ``:input`` behind
    (``layer2.0:input``), for the first thing that it is given; or ``"input"``: the pixels as given. Of a network for
    masks ``"input+answer"`` too: the pixels, and over each the probability of each class but the first.

    Args:
        network: takes normalised ``(N, 3, H, W)`` images and returns logits ``(N, K)``, or for two classes one
            logit, ``(N, 1)`` or ``(N,)``, above 0 for the second. Its weights are put into channels-last order, the
            faster one on CPUs and on GPUs.
        classes: the K class names, in the order of the logits.
        size: side of square images in pixels, or (height, width).
        channels: ``"gray"`` takes ``(N, 1, H, W)`` and repeats it three times where the network has three
            channels, ``"rgb"`` takes three channels.
        taps: names of what is read by default.
        backbone: registered name, or ``package.module:factory``; what a saved classifier is rebuilt from.
        mean, std: what the network was trained with, one value for all its channels or one each; of pixels in [0, 1].
            A network that normalises by itself has 0 and 1. `parse_normalisation` reads "imagenet" and the like.
        output: key or number of the part that holds the logits, of a network that returns a dict, tuple or object.
        outputs: "logits" or "probabilities"; None: logits, and a network that might give either is refused.
        task: "single" (one class for each image), "multi" (several findings, each there or not; `classes` are their
            names) or "dense" (a class for each pixel, the first the background); see `medaegis.task`.

    Raises:
        ConfigError: the network does not run on such images or returns something else (`settle`), judges an image by
            its companions or at random (`check_alone`), or a tap is unknown, is called more than once in a pass, or
            returns no tensor.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: Sequence[str],
        size: Size,
        channels: Literal["gray", "rgb"] = "rgb",
        taps: Sequence[str] = (),
        backbone: str,
        mean: Sequence[float],
        std: Sequence[float],
        output: str | int | None = None,
        outputs: Form | None = None,
        task: TaskName = "single",
        _tried: bool = False,
    ) -> None:
        super().__init__()
        if channels not in ("gray", "rgb"):
            raise ConfigError("classifier", f"channels {channels!r} is unknown", "give 'gray' or 'rgb'")
        if len(classes) < (1 if task == "multi" else 2) or len(set(classes)) != len(classes):
            raise ConfigError("classifier", f"classes are {list(classes)}", "give at least two, each once")
        check_normalisation(mean, std)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes = tuple(classes)
        self.size = as_size(size)
        self.channels = channels
        self.backbone = backbone
        self.task = task_named(task, len(classes))
        self.is_frozen = False
        self._no_modules = (INPUT, ANSWERED) if task == "dense" else (INPUT,)
        self._normalise(mean, std)
        try:
            self._observed = self._trial(output, outputs)
        except DoesNotRun:
            if channels == "rgb" or len(mean) == 3:
                raise
            self._normalise(tuple(mean) * 3, tuple(std) * 3)  # a network of three channels, then
            self._observed = self._trial(output, outputs)
        self.taps = tuple(dict.fromkeys(taps))
        self._listen(self.taps)
        if not _tried:
            self._check_alone()

    def settings(self) -> dict[str, Any]:
        """What it was made with beside its network, by the names of the arguments."""
        return {
            "classes": self.classes,
            "size": self.size,
            "channels": self.channels,
            "taps": self.taps,
            "backbone": self.backbone,
            "mean": tuple(self.mean.flatten().tolist()),
            "std": tuple(self.std.flatten().tolist()),
            "output": self.outputs.key,
            "outputs": self.outputs.form,
            "task": self.task.name,
        }

    def check_single(self, what: str) -> None:
        """Raises ConfigError, which names `what`, unless its task is one class for each image."""
        if self.task.name != "single":
            remedy = "train a classifier of one class an image, or measure this one with assess"
            raise ConfigError(what, f"is for one class an image, and this network's task is {self.task.title}", remedy)

    @property
    def in_channels(self) -> int:
        """Channels of the images it takes: 1 or 3."""
        return 1 if self.channels == "gray" else 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height and width."""
        return self.in_channels, *sides(self.size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and so of the features."""
        return self._weight().dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, K)``, of images ``(N, C, H, W)`` in [0, 1].

        Raises:
            DataError: another shape or an integer type.
        """
        return self.outputs.logits(self.network(self._prepare(x)), self.backbone)

    def activations(self, x: Tensor, *, logits: bool = True, taps: Sequence[str] | None = None) -> Activations:
        """Logits and features of one forward pass; gradients flow where autograd is on.

        Args:
            x: images ``(N, C, H, W)`` in [0, 1].
            logits: False stops the pass at the deepest tap and leaves ``logits`` None.
            taps: names to read instead of ``self.taps``.

        Raises:
            ConfigError: a tap that is not a module of the network, or not called exactly once; or the network gives no
                gradient where one is wanted.
            DataError: images of another shape or an integer type.
        """
        names = self.taps if taps is None else tuple(dict.fromkeys(taps))
        if taps is not None:
            self._listen(names)
        modules = {name: self._output(name) for name in names if name not in self._no_modules}
        prepared = self._prepare(x)
        returned: Any = None
        features: dict[str, Tensor] = {}
        with_answer = ANSWERED in names and ANSWERED not in modules
        to_the_end = logits or with_answer
        if to_the_end or modules:
            returned, features = run_tapped(self.network, prepared, modules, to_the_end=to_the_end)
        silent = [name for name in modules if name not in features]
        if silent:
            raise ConfigError(self.backbone, f"did not call the taps {silent} on these images", "tap what always runs")
        answer = self.outputs.logits(returned, self.backbone) if to_the_end else None
        found = [*features.values(), *([] if answer is None else [answer])]
        if found and torch.is_grad_enabled() and x.requires_grad and not any(values.requires_grad for values in found):
            problem = "gives no gradient: something in its forward cuts it off (torch.no_grad, detach, NumPy)"
            raise ConfigError(self.backbone, problem, "take that out, or attack by answers alone, as square does")
        read = {INPUT: x} | {name: channels_first(values, sides(self.size)) for name, values in features.items()}
        if with_answer and answer is not None:
            read[ANSWERED] = torch.cat([x, answer.softmax(1)[:, 1:].to(x)], 1)
        return Activations(answer if logits else None, {name: read[name] for name in names})

    def tap_shapes(self, taps: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Shape of each tap's output for one image, without the batch: ``(C, H, W)``, ``(C, T)`` or ``(C,)``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.taps if taps is None else taps:
            shape = self.image_shape if name in self._no_modules else self._output(name).shape
            assert shape is not None
            shapes[name] = (shape[0] + len(self.classes) - 1, *shape[1:]) if name == ANSWERED else shape
        return shapes

    def deepest(self, taps: Sequence[str] | None = None) -> tuple[str, ...]:
        """Of these taps (None: its own) the one farthest from the pixels, by the order of the network's definition.

        Of a network that holds classifiers, one tap in each of them.

        Raises:
            ConfigError: none of them is a module.
        """
        order: dict[str, int] = {}
        for name, _ in self.network.named_modules():
            order |= {f"{name}{GIVEN}": len(order), name: len(order) + 1}
        inner = [f"{name}." for name, module in self.network.named_modules() if isinstance(module, Classifier)]
        known = sorted((tap for tap in (self.taps if taps is None else taps) if tap in order), key=order.__getitem__)
        found = [[tap for tap in known if tap.startswith(part)][-1:] for part in inner or [""]]
        if not any(found):
            problem = "has no taps, and the attack is on features"
            raise ConfigError(self.backbone, problem, "name some when it is trained")
        return tuple(tap for part in found for tap in part)

    def tap_names(self) -> list[str]:
        """The pixels and every module whose output can be a tap, in the order of the network's definition.

        What a module is given (``NAME:input``) can be one too, where that is a tensor with a row per image.
        """
        found = [name for name, out in self._observed.items() if out.calls == 1 and out.shape is not None]
        return [*self._no_modules, *(name for name in found if not name.endswith(GIVEN))]

    @own_modes()
    @exact_float32()
    def frozen(self, *, dtype: torch.dtype = torch.float32, fold: bool = True) -> Classifier:
        """A copy for inference and attacks: eval for good, no weight gradients, batch norm folded.

        Args:
            dtype: type of the weights and the arithmetic; images are cast inside and logits come back in float32.
            fold: fold batch norms into convolutions, exact in eval mode (`fold_batchnorm` states the tolerance), and on
                a CPU compute a first convolution of 7 x 7 on blocks of pixels (`stem_on_blocks`), of grey images on one
                channel. Tapped convolutions are left alone.
        """
        network, normalisation = self._folded() if fold else (fixed_copy(self.network), (self.mean, self.std))
        result = self._around(network.to(dtype), self.taps, *normalisation)
        result.is_frozen = True
        return result.eval()

    def _folded(self) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """The folded network, and the mean and deviation that it is to be given images by."""
        keep, answer = self.taps, self.outputs.logits
        with evaluating(self.network):
            images = self._example()
            network = fold_batchnorm(self.network, self._prepare(images), keep=keep, answer=answer)
            if self.device.type == "cpu":  # elsewhere it was not measured
                # Of a grey image all channels follow from the first.
                mean, std = (values[:, : self.in_channels] for values in (self.mean, self.std))
                gain, shift = std / self.std, (mean - self.mean) / self.std
                given = [values.to(self.dtype) for values in ((images - mean) / std, gain, shift)]
                on_blocks = stem_on_blocks(network, *given, keep=keep, answer=answer)
                if on_blocks is not None:
                    return on_blocks, (mean, std)
        return network, (self.mean, self.std)

    def around(self, network: nn.Module, *, taps: Sequence[str] | None = None) -> Classifier:
        """The same classifier with another form of its network (folded, cast, split) or other taps (None: its own).

        Raises:
            ConfigError: a name that can be no tap.
        """
        return self._around(network, self.taps if taps is None else taps, self.mean, self.std)

    def _around(self, network: nn.Module, taps: Sequence[str], mean: Tensor, std: Tensor) -> Classifier:
        changed = {"taps": taps, "mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
        made = Classifier(network, **{**self.settings(), **changed}, _tried=True)
        made.is_frozen = self.is_frozen
        return made.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """As in ``nn.Module``; a frozen classifier stays in eval mode."""
        super().train(mode and not self.is_frozen)
        return self

    def _prepare(self, x: Tensor) -> Tensor:
        expected = self.image_shape
        if x.ndim != 4 or tuple(x.shape[1:]) != expected or not x.is_floating_point():
            given = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
            problem = f"images are {given}, expected floating point (N, {', '.join(map(str, expected))}) in [0, 1]"
            remedy = f"read them with model_input(size={self.size}, channels={self.channels!r})"
            raise DataError("classifier", problem, remedy)
        return ((x - self.mean) / self.std).to(self.dtype)

    def _normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        device = self._weight().device
        for name, values in (("mean", mean), ("std", std)):
            told = torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, told, persistent=False)

    def _weight(self) -> Tensor:
        """A weight, whose type and device are the network's; of one without any, as a float32 CPU network has them."""
        weights = (*self.network.parameters(), *self.network.buffers())
        return next((weight for weight in weights if weight.is_floating_point()), torch.empty(0, dtype=torch.float32))

    def _example(self) -> Tensor:
        """Two images that are not constant, drawn without the global random state: fine grain, and a dark gradient."""
        count = math.prod(self.image_shape)
        grain = (torch.arange(count, device=self.device, dtype=torch.float32) * 0.6180339887).frac()
        gradient = torch.linspace(0, 0.3, count, device=self.device)
        return torch.stack([grain, gradient]).view(2, *self.image_shape)

    def _trial(self, key: str | int | None, form: Form | None) -> dict[str, Observed]:
        """Run the network once: does it take such images, what are its outputs, which modules can be taps?"""
        images = self._prepare(self._example())
        try:
            returned, observed = observe(self.network, images)
        except Exception as error:  # whatever somebody's network raises
            problem = f"does not run on normalised images {('N', *images.shape[1:])}: {error}".replace("'", "")
            raise DoesNotRun(self.backbone, problem, "give a network and a size that fit") from error

        def far() -> Any:
            with evaluating(self.network), torch.inference_mode(False), torch.no_grad():
                return self.network(torch.cat([images * FAR, images * -FAR]))

        if form is None and ":" not in self.backbone:
            form = "logits"  # registered networks give nothing else
        self.outputs = settle(
            returned,
            key=key,
            form=form,
            images=len(images),
            classes=self.classes,
            far=far,
            source=self.backbone,
            task=self.task,
            size=sides(self.size),
        )
        return observed

    def _check_alone(self) -> None:
        """Whether each image is judged by itself, in float32 as for every verdict: what 16 bits round says nothing.

        Raises:
            ConfigError: it is not, or the network does not run in float32.
        """
        judge: Classifier = self
        if any(weight.is_floating_point() and weight.dtype != torch.float32 for weight in self.network.parameters()):
            try:
                judge = self.around(copy.deepcopy(self.network).float())
            except ConfigError as error:
                problem = f"does not run in float32, in which verdicts are computed: {error.problem}"
                raise ConfigError(self.backbone, problem, "take what names a type out of its forward") from error
        with evaluating(judge.network), torch.inference_mode(False):
            check_alone(judge, judge._example(), source=self.backbone)

    def _output(self, name: str) -> Observed:
        """What the trial saw of a tap; raises ConfigError where the name cannot be one."""
        output = self._observed.get(name)
        if output is None:
            near = difflib.get_close_matches(name, [INPUT, *self._observed], n=5, cutoff=0.4)
            hint = f"near it: {', '.join(near)}" if near else f"for example: {', '.join(self.tap_names()[:8])}"
            functions = f"what a function (F.relu) gives is had where it goes to, as MODULE{GIVEN}"
            raise ConfigError(self.backbone, f"has no tap {name!r}", f"choose another one, {hint}; {functions}")
        if output.calls != 1 or output.shape is None:
            does = "is given" if name.endswith(GIVEN) else "returns"
            why = f"{does} no tensor with a row per image"
            if output.calls != 1:
                why = f"is called {output.calls} times in a pass"
            raise ConfigError(self.backbone, f"{name!r} is no tap: it {why}", f"take a module that {does} a tensor")
        return output

    def _listen(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._no_modules:
                self._output(name)
                listen(self.network, name)
