"""The one protocol of all detectors: learn from clean images (some also from attacked ones), then give every image one
number, higher for more suspicious. What was learned is arrays and plain options; a saved detector executes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, Field, create_model
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.artefact import write_folder
from medaegis.detectors.reader import Reading
from medaegis.errors import ConfigError, DataError
from medaegis.models.taps import refuse_constant
from medaegis.progress import Progress, silent
from medaegis.validation import LEARNED, Layout, Name, Side, check_layout, check_values, read_entry

KIND = "detector"
REMEDY = "fit the detector anew"
FEWEST = 10  # clean images to learn from
AT_ONCE = 256  # images scored together: bounds the memory of distances to all that was learned
_KINDS: dict[str, type[Detector]] = {}


@dataclass(frozen=True, eq=False)
class FitData:
    """What a detector learns from.

    Attributes:
        clean, labels: clean images and their true classes.
        attacked: attacked copies of those images, row by row; of several attacks, one block after the other.
        seed: of everything random.
        progress: told how far it is.
    """

    clean: Reading
    labels: Tensor
    attacked: Reading | None
    seed: int
    progress: Progress = silent

    @property
    def classes(self) -> int:
        return self.clean.logits.shape[1]

    def pair(self, rows: Tensor | None = None) -> tuple[Reading, Reading]:
        """Some clean images and all attacked copies of the same ones."""
        assert self.attacked is not None
        if rows is None:
            return self.clean, self.attacked
        n = len(self.clean)
        return self.clean[rows], self.attacked[torch.cat([rows + at for at in range(0, len(self.attacked), n)])]


@dataclass(kw_only=True, eq=False)
class Detector(ABC):
    """Tells attacked images from clean ones. A subclass is a dataclass whose fields are its options.

    Attributes:
        kind: under which name it is saved.
        apart: options that are not plain values, which it reads from a folder by itself.
        learned: arrays, by name; on the device of the images it saw last.
        channels: tap -> number of channels, of the features it was fitted on.
        classes: number of classes of the classifier it was fitted behind; 0 before `fit`.
    """

    kind: ClassVar[str]
    apart: ClassVar[tuple[str, ...]] = ()
    learned: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    channels: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    classes: int = field(default=0, init=False, repr=False)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            known = _KINDS.setdefault(cls.kind, cls)
            if known.__qualname__ != cls.__qualname__:
                raise ConfigError(f"detector {cls.kind!r}", f"is {known.__qualname__} already", "choose another kind")
            _KINDS[cls.kind] = cls

    @property
    def needs_attacked(self) -> bool:
        """Whether it learns from attacked images too."""
        return False

    @property
    def needs_images(self) -> bool:
        """Whether it looks at the images again; otherwise pooled features and logits are enough."""
        return False

    @property
    def fewest(self) -> int:
        """Clean images that it needs to learn from."""
        return FEWEST

    def wanted(self, seen: Reading) -> tuple[str, ...]:
        """Taps whose pooled features it will use, of those that were read."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Taps whose pooled features it uses; none before `fit`."""
        return tuple(self.channels)

    @own_modes()
    def fit(
        self,
        clean: Reading,
        labels: Tensor,
        *,
        attacked: Reading | None = None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Learn; what was learned before is forgotten.

        Args:
            clean: readings of clean images that are used for nothing else.
            labels: their true classes, int64 `(N,)`.
            attacked: of attacked copies of those very images, row by row; of several attacks one block after the
                other. Detectors that need none take no notice of it.
            seed: of everything random.

        Raises:
            ConfigError: labels that do not fit, attacked images missing, a tap that was not read.
            DataError: too few images, a class with less than two, features that are not finite, or a tap whose
                features are the same for all clean images.
        """
        _check_clean(clean, labels)
        source, attacked = f"detector {self.kind!r}", attacked if self.needs_attacked else None
        if self.needs_attacked:
            if attacked is None or not len(attacked) or len(attacked) % len(clean):
                given = "none" if attacked is None else f"{len(attacked)} of {len(clean)} clean ones"
                raise ConfigError(source, f"attacked images: {given}", "give an attacked copy of each clean image")
            _check_finite("attacked images", attacked)
        self.learned, self.classes = {}, 0
        used = {tap: clean.feature(tap) for tap in self.wanted(clean)}
        refuse_constant(source, used)
        self.channels = {tap: values.shape[1] for tap, values in used.items()}
        self._fit(FitData(clean, labels.to(clean.device), attacked, seed, progress))
        self.classes = clean.logits.shape[1]
        return self

    @own_modes()
    @torch.no_grad()
    def score(self, seen: Reading) -> Tensor:
        """Suspicion of each image, float32 `(N,)` on the reading's device; infinite where anything is not a number.

        Raises:
            ConfigError: it is not fitted, or was fitted on other taps, channels or classes.
        """
        self._check_fitted()
        if seen.logits.shape[1] != self.classes:
            given = f"{seen.logits.shape[1]} classes, fitted on {self.classes}"
            raise ConfigError(f"detector {self.kind!r}", given, REMEDY)
        for tap, channels in self.channels.items():
            if seen.feature(tap).shape[1] != channels:
                given = f"tap {tap!r} has {seen.feature(tap).shape[1]} channels, {channels} when it was fitted"
                raise ConfigError(f"detector {self.kind!r}", given, REMEDY)
        self.to(seen.device)
        return self.in_parts(self._certain, seen)

    def _check_fitted(self) -> None:
        if not self.classes:
            raise ConfigError(f"detector {self.kind!r}", "it is not fitted", "call fit first")

    def _certain(self, seen: Reading) -> Tensor:
        raw = self._score(seen).float()
        return torch.where(seen.finite() & raw.isfinite(), raw, torch.inf)

    @staticmethod
    def in_parts(make: Callable[[Reading], Tensor], seen: Reading) -> Tensor:
        """`make` of so many images at a time that memory stays bounded, joined."""
        return torch.cat([make(part) for part in seen.split(AT_ONCE)]) if len(seen) else seen.logits.new_zeros(0)

    @abstractmethod
    def _fit(self, data: FitData) -> None:
        """Fill `learned`."""

    @abstractmethod
    def _score(self, seen: Reading) -> Tensor:
        """Suspicion `(N,)`; NaN is allowed and counts as most suspicious."""

    # ---- on disk and between devices

    def options(self) -> dict[str, Any]:
        """What it is made from again, plain JSON values."""
        made = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}

    @classmethod
    def read_options(cls, told: Mapping[str, Any]) -> dict[str, Any]:
        """Options as its dataclass names and types them; ConfigError for any other."""
        hints = get_type_hints(cls)
        kinds: dict[str, Any] = {
            f.name: (hints[f.name], ... if f.default is MISSING else f.default)
            for f in fields(cls)
            if f.init and f.name not in cls.apart
        }
        model = create_model(cls.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **kinds)
        return dict(read_entry(model, dict(told), source=f"detector {cls.kind!r}", remedy=REMEDY))

    @classmethod
    def rebuilt(cls, told: DetectorManifest, tensors: Mapping[str, Tensor]) -> Self:
        """The detector of `describe` and `tensors`."""
        made = cls(**cls.read_options(told.options))
        made.settle(told, tensors)
        return made

    def settle(self, told: DetectorManifest, tensors: Mapping[str, Tensor]) -> None:
        """Take over what another one of the same options has learned; ConfigError if the arrays do not fit."""
        self.channels, self.classes = dict(told.channels), told.classes
        if len(self.channels) != len(told.channels):
            raise ConfigError(f"detector {self.kind!r}", "a tap is named twice", REMEDY)
        self.restore(tensors)

    def layout(self) -> Layout:
        """Shapes of what it has learned; refuses arrays that do not fit when it is loaded."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """All it has learned."""
        return dict(self.learned)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over arrays; ConfigError if they do not fit the options."""
        self._check(tensors)
        self.learned = dict(tensors)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        check_layout(f"detector {self.kind!r}", self.layout(), tensors, remedy=REMEDY)
        check_values(f"detector {self.kind!r}", tensors, LEARNED, remedy=REMEDY)

    def to(self, device: torch.device) -> Self:
        self.learned = {name: value.to(device) for name, value in self.learned.items()}
        return self

    def describe(self) -> dict[str, Any]:
        """All but the arrays, plain JSON values."""
        channels = [list(pair) for pair in self.channels.items()]
        return {"kind": self.kind, "options": self.options(), "channels": channels, "classes": self.classes}

    def save(self, path: Path | str, *, signing_key: Path | None = None) -> None:
        """Write its folder in one step (see `medaegis.artefact.write_folder` for errors).

        Raises:
            ConfigError: it is not fitted.
        """
        self._check_fitted()
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors().items()}
        manifest = {"detector": self.describe()}
        write_folder(path, kind=KIND, manifest=manifest, tensors={"learned": tensors}, signing_key=signing_key)


class DetectorManifest(BaseModel):
    """What a detector's folder says of itself. Channels are a list, for the order of the taps counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    options: dict[str, Any]
    channels: tuple[tuple[Name, Side], ...] = Field(max_length=1000)
    classes: int = Field(ge=2, le=10_000)


def rebuild(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
    """The detector of `Detector.describe` and `Detector.tensors`, on the CPU.

    Raises:
        ConfigError: they do not fit together, or the kind is unknown here.
    """
    told = read_entry(DetectorManifest, description, source="detector", remedy=REMEDY)
    if told.kind not in _KINDS:
        raise ConfigError(f"detector {told.kind!r}", "is unknown here", "import the module that defines it first")
    try:
        return _KINDS[told.kind].rebuilt(told, tensors)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"detector {told.kind!r}", f"its options do not fit: {problem}", REMEDY) from error


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows that stay and rows that are held out, both sorted; `share` of every class, at least one image of it."""
    draw = torch.Generator().manual_seed(seed)
    stay, held = [], []
    for k in labels.unique().tolist():
        rows = (labels == k).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=draw).to(rows.device)]
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(rows[:count])
        stay.append(rows[count:])
    return torch.cat(stay).sort().values, torch.cat(held).sort().values


def _check_clean(clean: Reading, labels: Tensor) -> None:
    n, classes = clean.logits.shape
    if n < FEWEST:
        raise DataError("detector", f"{n} clean images to learn from", f"give {FEWEST} or more")
    if labels.shape != (n,) or labels.dtype != torch.int64:
        raise ConfigError("labels", f"got {labels.dtype} {tuple(labels.shape)}", f"give int64 ({n},), one per image")
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise ConfigError("labels", f"{int(labels.min())} to {int(labels.max())}", f"give 0 to {classes - 1}")
    for k, count in enumerate(labels.bincount(minlength=classes).tolist()):
        if count < 2:
            raise DataError("detector", f"{count} clean images of class {k}", "give two or more of every class")
    _check_finite("clean images", clean)


def _check_finite(what: str, seen: Reading) -> None:
    bad = int((~seen.finite()).sum())
    if bad:
        raise DataError(what, f"features or logits of {bad} images are not finite", "leave these images out")
