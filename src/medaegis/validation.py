"""What an artefact from outside says and holds, against what it can be: the one place with the range of every number.

Entries of a manifest are read strictly (true is no 1, 1.0 no whole number). Tensors are compared by name, shape and
type before anything is built in a size that only a folder vouches for, then value by value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, PlainValidator, ValidationError
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.sizes import Size, as_size, sides

Entry = TypeVar("Entry", bound=BaseModel)

Layout = dict[str, tuple[int | str, ...]]
"""Array -> shape; a letter stands for a length that is free, but the same wherever it appears."""


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a name appears twice")
    return names


def _picture_size(given: Any) -> Size:
    try:
        size = as_size(given)
    except ConfigError as error:
        raise ValueError(error.problem) from None
    if max(sides(size)) > 4096:
        raise ValueError("no side may have more than 4096 px")
    return size


Name = Annotated[str, Field(min_length=1, max_length=1000)]
Names = Annotated[tuple[Name, ...], AfterValidator(_distinct)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1, le=65536)]
PictureSize = Annotated[Size, PlainValidator(_picture_size), PlainSerializer(lambda size: size)]
Shape = Annotated[tuple[Side, ...], Field(min_length=1, max_length=4)]


@dataclass(frozen=True)
class Range:
    """What the values of an array can be; NaN never."""

    low: float = -math.inf
    high: float = math.inf
    kind: Literal["float", "int", "bool"] = "float"
    infinite: bool = False


FINITE = Range()
BATCH_NORM = {"running_var": Range(low=0), "num_batches_tracked": Range(low=0, kind="int")}
# What `fit` sets lies far inside: a deviation is at least 1e-3, a scale 1e-6, and logits are of the order of 10.
SHIELDS = {"std": Range(1e-6, 1e12), "scale": Range(1e-7, 1e6), "centre": Range(-1e6, 1e6)}
LEARNED = {
    "std": Range(low=1e-12),
    "vote": Range(0, 1),
    "kept": Range(kind="bool"),
    **{name: Range(low=0, kind="int") for name in ("labels", "channel", "below", "above", "depth")},
    **BATCH_NORM,
}


def read_entry(model: type[Entry], told: object, *, source: str, remedy: str) -> Entry:
    """A manifest's entry as `model`; nothing is converted.

    Raises:
        ConfigError: a value of another type or out of its range, a missing or an unknown name.
    """
    try:
        return model.model_validate_json(json.dumps(told), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(source, f"entry {where!r:.80}: {first['msg']}", remedy) from None


def check_layout(source: str, layout: Layout, tensors: Mapping[str, Tensor], *, remedy: str) -> None:
    """Raises ConfigError unless the arrays have just these names and shapes."""
    if set(tensors) != set(layout):
        raise ConfigError(source, f"arrays {sorted(set(tensors) ^ set(layout))[:5]!s:.300} do not fit", remedy)
    lengths: dict[str, int] = {}
    for name, shape in layout.items():
        found = tuple(tensors[name].shape)
        wanted = [
            lengths.setdefault(side, have) if isinstance(side, str) else side
            for side, have in zip(shape, found, strict=False)
        ]
        if len(found) != len(shape) or list(found) != wanted:
            raise ConfigError(source, f"array {name!r} has shape {found}, not {shape}", remedy)


def check_values(source: str, tensors: Mapping[str, Tensor], ranges: Mapping[str, Range], *, remedy: str) -> None:
    """Raises ConfigError for an array of another type than it can have, or with a value that cannot be.

    Args:
        ranges: last part of an array's name (`layer1.0.running_var`, `tap/std`) -> what its values can be; any other
            array holds finite floating-point numbers.
    """
    for name, values in tensors.items():
        _check_array(source, name, values, ranges.get(_last(name), FINITE), remedy)


def check_state(
    source: str, module: nn.Module, tensors: Mapping[str, Tensor], ranges: Mapping[str, Range], *, remedy: str
) -> None:
    """Whether tensors can be the state of a module: names, shapes, types and values, ConfigError if not.

    The module may be on the "meta" device, so that nothing is built before its size is known to be that of the
    tensors. A buffer of a network of one's own may hold infinities (a mask for attention) or whole numbers.
    """
    state = module.state_dict()
    check_layout(source, {name: tuple(value.shape) for name, value in state.items()}, tensors, remedy=remedy)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, expected in state.items():
        values, known = tensors[name], ranges.get(_last(name))
        if values.dtype != expected.dtype and not (_computes(values) and _computes(expected)):
            raise ConfigError(source, f"array {name!r} holds {values.dtype}, not {expected.dtype}", remedy)
        if known is not None or name in parameters:
            _check_array(source, name, values.to(expected.dtype), known or FINITE, remedy)
        elif values.is_floating_point():
            _check_array(source, name, values.to(expected.dtype), Range(infinite=True), remedy)


def check_size(source: str, what: str, sizes: Sequence[int], *, most: int, remedy: str) -> None:
    """Raises ConfigError for sizes that only a damaged or hostile folder has, before anything is built in them."""
    if not sizes or not all(type(size) is int and 1 <= size <= most for size in sizes):
        raise ConfigError(source, f"{what} {sizes!s:.80} is out of range", remedy)


def _computes(values: Tensor) -> bool:
    """Whether these are floating-point numbers to compute in; types of one byte are for storage."""
    return values.is_floating_point() and values.element_size() > 1


def _last(name: str) -> str:
    return re.split(r"[./:]", name)[-1]


def _check_array(source: str, name: str, values: Tensor, span: Range, remedy: str) -> None:
    fits = {"float": _computes(values), "int": values.dtype == torch.int64, "bool": values.dtype == torch.bool}
    if not fits[span.kind]:
        raise ConfigError(source, f"array {name!r} holds {values.dtype}, not {span.kind} values", remedy)
    if span.kind == "bool" or not values.numel():
        return
    low, high = (float(value) for value in values.aminmax())  # NaN wins both, and fails every comparison
    if not (span.low <= low and high <= span.high) or not (span.infinite or math.isfinite(high - low)):
        limits = "finite" if span.low == -math.inf else f"{span.low:g} or more"
        limits = limits if span.high == math.inf else f"{span.low:g} to {span.high:g}"
        raise ConfigError(source, f"array {name!r} has a value that cannot be (expected {limits})", remedy)
