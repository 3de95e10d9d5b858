"""A Cushion drawn anew for each image, one of several deterministic ones, each as likely as the others.

Random resizing and padding (Xie et al. 2018) and Guo et al. 2018 defend by chance in this way. A draw is a
deterministic cushion, so every verdict can be repeated; an attacker meets the expectation over draws (Athalye 2018).
"""

import hashlib
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch
from torch import Tensor

from medaegis.cushions.base import Cushion
from medaegis.draws import Draws
from medaegis.errors import ConfigError

NUMBER = 63  # bits that name a draw


class Drawable(Cushion):
    """A cushion that is drawn anew for each image; until it is, there is nothing to compute."""

    random: ClassVar[bool] = True

    @abstractmethod
    def draw(self, seed: int, stream: str, ids: Sequence[int]) -> Cushion:
        """For one batch, draws that repeat: of each image by its number, whatever its place in the batch.

        Args:
            seed: of the run.
            stream: what they are for; streams do not depend on each other.
            ids: numbers of the images, in the order of the batch.
        """

    @abstractmethod
    def fresh(self, count: int) -> list[str]:
        """Names of draws for so many images by the operating system's randomness, which nobody foresees or repeats."""

    @abstractmethod
    def named(self, draws: Sequence[str]) -> Cushion:
        """The draws of these names, one per image.

        Raises:
            ConfigError: it never draws one of them.
        """

    def _cushion(self, pixels: Tensor) -> Tensor:
        raise self._undrawn()

    def _twin(self, x: Tensor) -> Tensor:
        raise self._undrawn()

    def _undrawn(self) -> ConfigError:
        return ConfigError(f"cushion {self.spec}", "is random and nothing is drawn", "draw first, or take one of it")

    def _never(self, draw: str) -> ConfigError:
        return ConfigError(f"draw {draw!r:.80}", f"{self.spec} never draws it", "name one that a record tells")


class Numbered(Drawable):
    """One whose draws have no specs: they are named by a number, `SPEC#NUMBER`, which stands for that of an image."""

    def fresh(self, count: int) -> list[str]:
        return [f"{self.spec}#{secrets.randbits(NUMBER)}" for _ in range(count)]

    def named(self, draws: Sequence[str]) -> Cushion:
        numbers = []
        for draw in draws:
            spec, _, number = draw.rpartition("#")
            if spec != self.spec or not (number.isascii() and number.isdigit() and int(number) < 1 << NUMBER):
                raise self._never(draw)
            numbers.append(int(number))
        return self.draw(0, "named", numbers)


class RandomCushion(Drawable):
    """Which of several cushions an image passes is drawn.

    Deployed, draws come from the operating system (`fresh`), for a draw that an attacker can foresee is none. Where
    results must repeat, they are a function of seed, stream and the image's number (`draw`).

    Args:
        choices: deterministic cushions, two or more, all different.
    """

    def __init__(self, spec: str, choices: Sequence[Cushion]) -> None:
        super().__init__(spec)
        self.choices = tuple(choices)

    def fresh(self, count: int) -> list[str]:
        return [secrets.choice(self.choices).spec for _ in range(count)]

    def draw(self, seed: int, stream: str, ids: Sequence[int]) -> "DrawnCushion":
        images = torch.tensor(list(ids), dtype=torch.int64)
        return DrawnCushion(self, Draws(seed, images, stream).integers(len(self.choices)))

    def named(self, draws: Sequence[str]) -> "DrawnCushion":
        places = {choice.spec: place for place, choice in enumerate(self.choices)}
        for draw in draws:
            if draw not in places:
                raise self._never(draw)
        return DrawnCushion(self, torch.tensor([places[draw] for draw in draws], dtype=torch.int64))

    def manifest(self) -> dict[str, Any]:
        """As for every cushion, and the choices."""
        return super().manifest() | {"choices": [choice.spec for choice in self.choices]}

    def _probe(self) -> str:
        """Over the probes of all that can be drawn."""
        return hashlib.sha256("".join(choice._probe() for choice in self.choices).encode()).hexdigest()


class DrawnCushion(Cushion):
    """The draws for one batch: image i passes `specs[i]`, bit for bit as by that cushion alone.

    Images with the same draw go together; different draws are spread over `torch.get_num_threads()` threads.
    """

    def __init__(self, source: RandomCushion, picks: Tensor) -> None:
        super().__init__(source.spec)
        self._choices, self._picks = source.choices, picks

    @property
    def specs(self) -> list[str]:
        """The deterministic cushion of each image."""
        return [self._choices[pick].spec for pick in self._picks.tolist()]

    def _groups(self, x: Tensor) -> Iterator[tuple[Cushion, Tensor]]:
        if len(x) != len(self._picks):
            given = f"{len(x)} images, drawn was for {len(self._picks)}"
            raise ConfigError(f"cushion {self.spec}", given, "draw for the batch that is to pass")
        for pick in self._picks.unique().tolist():
            yield self._choices[pick], (self._picks == pick).nonzero().squeeze(1).to(x.device)

    def _cushion(self, pixels: Tensor) -> Tensor:
        out = torch.empty_like(pixels)

        def fill(group: tuple[Cushion, Tensor]) -> None:
            cushion, rows = group
            out[rows] = cushion._cushion(pixels[rows])

        groups = list(self._groups(pixels))
        if len(groups) < 2 or torch.get_num_threads() < 2:
            for group in groups:
                fill(group)
        else:
            with ThreadPoolExecutor(min(torch.get_num_threads(), len(groups))) as pool:
                list(pool.map(fill, groups))
        return out

    def _twin(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for cushion, rows in self._groups(x):
            out = out.index_copy(0, rows, cushion.twin(x[rows]))
        return out
