"""The one place that turns whatever images and labels somebody gives into pixels and class numbers.

Images are torch tensors or NumPy arrays `(N, C, H, W)`, uint8 or floats in [0, 1], on any device. Labels are class
numbers or names.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medaegis.errors import ConfigError
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier

Images = Tensor | npt.NDArray[Any]
Labels = Tensor | npt.NDArray[Any] | Sequence[int] | Sequence[str]
Rounding = Literal["8bit", "none"]


def pixels(images: Images, model: Classifier, rounding: Rounding = "8bit") -> Tensor:
    """float32 `(N, C, size, size)` in [0, 1] as the classifier takes them, on the device they came from.

    Raises:
        ConfigError: another shape, integers that are not uint8, or values outside [0, 1].
    """
    given = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    shape = (model.in_channels, model.size, model.size)
    if not isinstance(given, Tensor) or tuple(given.shape[1:]) != shape or not len(given):
        found = tuple(getattr(given, "shape", ())) or type(given).__name__
        remedy = "give (N, {}, {}, {})".format(*shape)
        if tuple(getattr(given, "shape", ()))[1:] == (*shape[1:], shape[0]):
            remedy += ": colours come before rows here, as x.transpose(0, 3, 1, 2) puts them"
        raise ConfigError("images", f"got {found}", remedy)
    if given.dtype == torch.uint8:
        return given.float() / 255
    if not given.is_floating_point():
        raise ConfigError("images", f"are {given.dtype}", "give uint8, or floats in [0, 1]")
    x = given.detach().float()
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        remedy = "divide by 255" if high > 1 and low >= 0 else "give pixels before normalisation, and nothing infinite"
        raise ConfigError("images", f"values from {low:.3g} to {high:.3g}, expected 0 to 1", remedy)
    if rounding == "none":
        return x
    rounded = (x * 255).round()
    off = float((x * 255 - rounded).abs().max())
    if off > 255 * max(torch.finfo(given.dtype).eps, torch.finfo(torch.float32).eps):
        warnings.warn(f"pixels were rounded to 8 bits (by up to {off:.2f} of 255), as a file holds them", stacklevel=3)
    return rounded / 255


def class_numbers(labels: Labels, names: Sequence[str], count: int) -> Tensor:
    """int64 `(N,)` of class numbers or names, one for each of `count` images.

    Raises:
        ConfigError: another number of them, a name or a number that is no class, or numbers that are not whole.
    """
    if len(labels) != count:
        raise ConfigError("labels", f"{len(labels)} for {count} images", "give one for each image")
    if isinstance(labels, Tensor | np.ndarray):
        given = torch.as_tensor(labels)
        if given.is_floating_point() or given.dtype == torch.bool or given.ndim != 1:
            raise ConfigError("labels", f"are {given.dtype} {tuple(given.shape)}", "give whole numbers (N,), or names")
        return _classes_there(given.to(torch.int64), names)
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted({str(one) for one in labels if isinstance(one, str) and one not in numbers}):
        raise ConfigError("labels", f"{', '.join(unknown)}: no such class", f"the classes are {', '.join(names)}")
    found = [numbers[one] if isinstance(one, str) else int(one) for one in labels]
    return _classes_there(torch.tensor(found, dtype=torch.int64), names)


def _classes_there(labels: Tensor, names: Sequence[str]) -> Tensor:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(names):
        raise ConfigError("labels", f"go from {low} to {high}", f"the classes are 0 to {len(names) - 1}")
    return labels


def array_dataset(
    images: Images,
    labels: Labels,
    model: Classifier,
    *,
    patients: Sequence[object] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Arrays as the data set that trainings take, in 8 bits, numbered by place."""
    x = pixels(images, model).cpu()
    y = class_numbers(labels, model.classes, len(x)).cpu()
    places = tuple(f"{i:06d}" for i in range(len(x)))
    return Dataset(
        spec=name,
        images=(x * 255).round().to(torch.uint8),
        labels=y,
        classes=model.classes,
        patients=places if patients is None else tuple(map(str, patients)),
        names=places,
        ids=torch.arange(len(x)),
        grouping="image" if patients is None else "patient",
    )
