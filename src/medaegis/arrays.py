"""The one place that turns whatever images and labels somebody gives into pixels and class numbers.

Images are torch tensors or NumPy arrays `(N, C, H, W)`, uint8 or floats of any width in [0, 1], on any device, with
class numbers or names as labels beside them. Or one thing holds both: a torch `Dataset` of pairs `(image, label)`, a
`DataLoader` of batches of them, a `Dataset` of ours, or a spec such as "chest-xray:PATH".
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data import Dataset as TorchDataset

from medaegis.errors import ConfigError
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.wrapping import check_classes
from medaegis.sizes import sides

Arrays = Tensor | npt.NDArray[Any]
Labelled = TorchDataset[Any] | DataLoader[Any] | Dataset | str
Images = Arrays | Labelled
Labels = Tensor | npt.NDArray[Any] | Sequence[int] | Sequence[str]
Rounding = Literal["8bit", "none"]

MOST = 1 << 31  # values taken of what cannot say how many images it has: 8 GiB as float32
_FORMS = "give an array, a torch Dataset or DataLoader, or a spec"


def pixels(images: Images, model: Classifier, rounding: Rounding = "8bit") -> Tensor:
    """float32 `(N, C, H, W)` in [0, 1] as the classifier takes them, on the device they came from.

    Args:
        images: labels that come with them are left out.
        rounding: "8bit" rounds to what a file can hold, with a warning where that changes anything; "none" does not.

    Raises:
        ConfigError: another shape, integers that are not uint8, or values outside [0, 1]; see `labelled` for the rest.
    """
    given = _tensor(images) if isinstance(images, Tensor | np.ndarray) else _held(images, model)[0]
    _check_shape(given, model)
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
        return x.clone()  # what was made in inference mode can never be differentiated
    rounded = (x * 255).round()
    off = float((x * 255 - rounded).abs().max())
    if off > 255 * max(torch.finfo(given.dtype).eps, torch.finfo(torch.float32).eps):
        warnings.warn(f"pixels were rounded to 8 bits (by up to {off:.2f} of 255), as a file holds them", stacklevel=4)
    return rounded / 255


def labelled(
    images: Images, labels: Labels | None, model: Classifier, rounding: Rounding = "8bit"
) -> tuple[Tensor, Tensor]:
    """Pixels as by `pixels`, and their classes, int64 `(N,)` on the same device, or as the model's task has them.

    Raises:
        ConfigError: arrays without labels, or labels beside what holds them already; images or labels that do not fit;
            a loader that shuffles, does not end, or fails.
        DataError: a spec that cannot be loaded, or a data set of other classes than the classifier's.
    """
    if isinstance(images, Tensor | np.ndarray):
        if labels is None:
            raise ConfigError("labels", "none, and arrays hold none", "give labels, one for each image")
        given: Images = images
    elif labels is not None:
        problem = f"given, and the images are a {type(images).__name__}, which holds its own"
        raise ConfigError("labels", problem, "leave them out, or give the images as an array")
    else:
        given, labels = _held(images, model)
    x = pixels(given, model, rounding)
    return x, task_labels(labels, model, len(x)).to(x.device)


def task_labels(labels: Labels, model: Classifier, count: int, *, what: str = "labels") -> Tensor:
    """Labels of so many images in the form of the model's task: `class_numbers`, findings or masks.

    Raises:
        ConfigError: they are no such labels.
    """
    if model.task.name == "single":
        return class_numbers(labels, model.classes, count, what=what)
    if isinstance(labels, Tensor | np.ndarray):
        given = _tensor(labels)
    else:
        given = torch.from_numpy(np.asarray([np.asarray(one) for one in labels]))
    if given.is_floating_point():
        raise ConfigError(what, f"are {given.dtype}", "give whole numbers")
    found = given.to(torch.int64)
    model.task.check_labels(found, count, len(model.classes), sides(model.size), what=what)
    return found


def class_numbers(labels: Labels, names: Sequence[str], count: int, *, what: str = "labels") -> Tensor:
    """int64 `(N,)` of class numbers or names, one for each of `count` images.

    Raises:
        ConfigError: another number of them, a name or a number that is no class, or numbers that are not whole.
    """
    if len(labels) != count:
        raise ConfigError(what, f"{len(labels)} for {count} images", "give one for each image")
    if isinstance(labels, Tensor) or (isinstance(labels, np.ndarray) and labels.dtype.kind not in "OSU"):
        given = _tensor(labels)
        if given.is_floating_point() or given.dtype == torch.bool or given.ndim != 1:
            raise ConfigError(what, f"are {given.dtype} {tuple(given.shape)}", "give whole numbers (N,), or names")
        found = given.to(torch.int64)
    else:
        numbers = {name: number for number, name in enumerate(names)}
        if unknown := sorted({str(one) for one in labels if isinstance(one, str) and one not in numbers}):
            raise ConfigError(what, f"{', '.join(unknown)}: no such class", f"the classes are {', '.join(names)}")
        found = torch.tensor([numbers[one] if isinstance(one, str) else _whole(one) for one in labels])
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= len(names):
        raise ConfigError(what, f"go from {low} to {high}", f"the classes are 0 to {len(names) - 1}")
    return found


def as_dataset(
    images: Images,
    labels: Labels | None,
    model: Classifier,
    *,
    patients: Sequence[object] | None = None,
    name: str = "arrays",
) -> Dataset:
    """The data set that trainings take, in 8 bits; one of ours, or a spec's, as it is.

    Args:
        patients: one for each image; None: nothing is known of that. A data set of ours says it itself.
        name: of arrays, in errors.

    Raises:
        ConfigError, DataError: as `labelled`.
    """
    if isinstance(images, str | Dataset):
        for what, told in (("labels", labels), ("patients", patients)):
            if told is not None:
                raise ConfigError(what, "given, and the data set holds its own", "leave them out")
        dataset = _dataset(images, model)
        _check_shape(dataset.images, model)
        return dataset
    x, y = (values.cpu() for values in labelled(images, labels, model))
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


def _held(images: Labelled, model: Classifier) -> tuple[Tensor, Labels]:
    """What holds both, as it was stored."""
    if isinstance(images, str | Dataset):
        dataset = _dataset(images, model)
        return dataset.images, dataset.labels
    if isinstance(images, DataLoader | TorchDataset):
        return _read(images, model)
    raise ConfigError("images", f"got {type(images).__name__}", f"{_FORMS}, in the shape {_shape(model)}")


def _dataset(images: Dataset | str, model: Classifier) -> Dataset:
    if isinstance(images, str):
        images = load_dataset(images, size=model.size, channels=model.channels)
    check_classes(images, model)
    return images


def _read(source: TorchDataset[Any] | DataLoader[Any], model: Classifier) -> tuple[Tensor, Labels]:
    """Everything that a data set or loader gives, in its order."""
    name = type(source).__name__
    if isinstance(source, DataLoader) and _shuffles(source):
        problem = "shuffles: nothing that is found could be told by image, or found again"
        raise ConfigError(name, problem, "make it with shuffle=False")
    inner = source.dataset if isinstance(source, DataLoader) else source
    may_go_on = isinstance(inner, IterableDataset) or not _has_length(source)
    parts: list[Tensor] = []
    labels: list[Any] = []
    for item in _items(source, name):
        image, told = _pair(item, name, model)
        if parts and (image.dtype, image.device) != (parts[0].dtype, parts[0].device):
            kinds = " and ".join(f"{part.dtype} on {part.device}" for part in (parts[0], image))
            raise ConfigError(name, f"gives {kinds}", "give all images in one type, on one device")
        parts.append(image)
        labels += told
        if may_go_on and len(labels) * image[0].numel() > MOST:
            problem = f"has given {len(labels)} images, and may never end"
            raise ConfigError(name, problem, "let it end, or give it a length (a Dataset with __len__)")
    if not labels:
        raise ConfigError(name, "holds no image", "give at least one")
    return torch.cat(parts), labels


def _items(source: TorchDataset[Any] | DataLoader[Any], name: str) -> Iterator[Any]:
    """What it gives; whatever somebody's code raises on the way is told as ConfigError."""
    by_place = not isinstance(source, DataLoader | IterableDataset) and _has_length(source)
    given: Any = source
    done = 0
    try:
        for item in (given[i] for i in range(len(given))) if by_place else given:
            yield item
            done += 1
    except Exception as error:
        what = "batch" if isinstance(source, DataLoader) else "image"
        problem = f"fails at {what} {done}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ConfigError(name, problem, "correct it; all images must have one size") from error


def _pair(item: Any, name: str, model: Classifier) -> tuple[Tensor, list[Any]]:
    """A batch of images and its labels, from a batch or a single pair."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        given = f"{type(item).__name__} of {len(item)}" if isinstance(item, Sized) else type(item).__name__
        raise ConfigError(name, f"gives a {given}, expected (image, label)", "let it give such pairs")
    image, label = item
    if not isinstance(image, Tensor | np.ndarray):
        raise ConfigError(name, f"gives a {type(image).__name__} as image", "let it give tensors or arrays")
    image = _tensor(image)
    if image.ndim == 3:
        image, label = image[None], [label]
    _check_shape(image, model, name)
    told = label.tolist() if isinstance(label, Tensor | np.ndarray) else label
    if not isinstance(told, list | tuple) or len(told) != len(image):
        given = f"{len(told)} labels" if isinstance(told, list | tuple) else f"the label {told!r:.40}"
        raise ConfigError(name, f"gives {given} for {len(image)} images", "give one for each image")
    return image.detach(), list(told)


def _shuffles(loader: DataLoader[Any]) -> bool:
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    drawing = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    return any(isinstance(one, drawing) or getattr(one, "shuffle", False) for one in samplers)


def _has_length(source: object) -> bool:
    try:
        len(source)  # type: ignore[arg-type]  # whether it can is asked
    except (TypeError, NotImplementedError):
        return False
    return True


def _tensor(given: Arrays) -> Tensor:
    """The same values as a dense tensor, whose memory an array may share."""
    if isinstance(given, np.ndarray):
        native = given.astype(given.dtype.newbyteorder("="), copy=not given.flags.writeable)
        try:
            return torch.from_numpy(np.ascontiguousarray(native))
        except TypeError:
            raise ConfigError("array", f"its type is {given.dtype}", "give numbers: uint8, or floats") from None
    if given.layout != torch.strided or given.is_nested or given.is_quantized or given.is_meta:
        raise ConfigError("tensor", "is sparse, nested, quantised or without values", "give a dense one")
    return given


def _check_shape(images: Tensor, model: Classifier, name: str = "images") -> None:
    shape, found = model.image_shape, tuple(images.shape)
    if found[1:] == shape and len(images):
        return
    remedy = f"give {_shape(model)}"
    if found[1:] == (*shape[1:], shape[0]):
        remedy += ": colours come before rows here, as x.transpose(0, 3, 1, 2) puts them"
    raise ConfigError(name, f"got {found}", remedy)


def _shape(model: Classifier) -> str:
    return str(("N", *model.image_shape)).replace("'", "")


def _whole(number: object) -> int:
    try:
        return operator.index(number)  # type: ignore[arg-type]  # whether it can is asked
    except TypeError:
        raise ConfigError("labels", f"{number!r:.40} is no class", "give whole numbers, or names") from None
