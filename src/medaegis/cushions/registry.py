"""Specs to cushions: a short text names a cushion and its parameters, in a guard's manifest as on the command line."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medaegis.cushions.base import Cushion
from medaegis.cushions.filters import BitDepth, Gaussian, Identity, Median
from medaegis.cushions.jpeg import JpegCushion
from medaegis.cushions.noise import LARGEST, GridNoise, NoisyCushion
from medaegis.cushions.random import Drawable, RandomCushion
from medaegis.cushions.tvm import TotalVariation
from medaegis.cushions.voting import Voting
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class _Kind:
    syntax: str
    example: str
    help: str
    make: Callable[[list[str]], Cushion]


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ValueError(f"{name} is {text!r}, expected a whole number from {low} to {high}")
    return int(text)


def _number(name: str, text: str, low: float, high: float) -> float:
    problem = f"{name} is {text!r}, expected a number from {low} to {high}"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(problem) from None
    if not low <= value <= high:
        raise ValueError(problem)
    return value


def _none(arguments: list[str]) -> Cushion:
    if arguments:
        raise ValueError("it takes no parameters")
    return Identity()


def _jpeg(arguments: list[str]) -> Cushion:
    match arguments:
        case [quality] | [quality, "420"]:
            return JpegCushion(_whole("QUALITY", quality, 1, 100), "420")
        case [quality, "444"]:
            return JpegCushion(_whole("QUALITY", quality, 1, 100), "444")
    raise ValueError(f"parameters {arguments} do not fit")


def _bits(arguments: list[str]) -> Cushion:
    match arguments:
        case [dropped]:
            return BitDepth(_whole("DROPPED", dropped, 1, 7))
        case [dropped, "mid"]:
            return BitDepth(_whole("DROPPED", dropped, 1, 7), middle=True)
    raise ValueError(f"parameters {arguments} do not fit")


def _tvm(arguments: list[str]) -> Cushion:
    match arguments:
        case []:
            return TotalVariation()
        case [keep, weight, iterations]:
            return TotalVariation(
                _number("KEEP", keep, 0.01, 1.0),
                _number("WEIGHT", weight, 0.0001, 10.0),
                _whole("ITERATIONS", iterations, 1, 1000),
            )
    raise ValueError(f"parameters {arguments} do not fit")


def _median(arguments: list[str]) -> Cushion:
    match arguments:
        case ["3" | "5" | "7" | "9" as window]:
            return Median(int(window))
    raise ValueError(f"parameters {arguments} do not fit, WINDOW must be 3, 5, 7 or 9")


def _gaussian(arguments: list[str]) -> Cushion:
    match arguments:
        case [sigma]:
            return Gaussian(_number("SIGMA", sigma, 0.3, 10.0))
    raise ValueError(f"parameters {arguments} do not fit")


def _noise(arguments: list[str]) -> Cushion:
    sigma, plus, behind = ":".join(arguments).partition("+")
    noise = GridNoise(_number("SIGMA", sigma, 0.001, LARGEST))
    if behind.partition(":")[0] in ("noise", "vote"):  # asked first: a spec may come from anywhere, and be long
        raise ValueError(f"{behind!r:.60} is noise or a vote itself, name what stands behind the noise")
    return NoisyCushion(noise, parse_cushion(behind if plus else "none"))


_MOST_VOTES = 1000


def _vote(arguments: list[str]) -> Cushion:
    match arguments:
        case [_, "vote", *_]:
            raise ValueError("it votes on a vote, name what is to be drawn")
        case [votes, *parts]:
            inner = parse_cushion(":".join(parts))
            if not isinstance(inner, Drawable):
                raise ValueError(f"{inner.spec!r} is not random, so that all would vote alike")
            return Voting(_whole("VOTES", votes, 2, _MOST_VOTES), inner)
    raise ValueError(f"parameters {arguments} do not fit")


_MOST_CHOICES = 100  # each is probed when a guard is saved and loaded
_CHANCE = ("random", "noise", "vote")


def _random(arguments: list[str]) -> Cushion:
    choices: dict[str, Cushion] = {}
    written = []
    for part in ":".join(arguments).split("+"):
        if part.partition(":")[0] in _CHANCE:
            raise ValueError(f"{part!r} is random itself, name what is to be drawn")
        made = [parse_cushion(spec) for spec in _spread(part)]
        written.append(_gathered(made[0].spec, made[-1].spec))
        for cushion in made:
            if cushion.spec in choices:
                raise ValueError(f"{cushion.spec} is named twice")
            choices[cushion.spec] = cushion
    if not 2 <= len(choices) <= _MOST_CHOICES:
        raise ValueError(f"it draws from {len(choices)}, expected 2 to {_MOST_CHOICES}")
    return RandomCushion("random:" + "+".join(written), list(choices.values()))


def _spread(part: str) -> Iterator[str]:
    """The specs of `jpeg:60-95`, lowest first: of a part without a range itself."""
    before, low, high, after = re.fullmatch(r"(.*?)(?:(?<=:)(\d{1,4})-(\d{1,4})(?=:|$)(.*))?", part, re.DOTALL).groups()  # type: ignore[union-attr]
    if low is None:
        yield part
        return
    if not int(low) < int(high):
        raise ValueError(f"the range {low}-{high} in {part!r} does not rise")
    if int(high) - int(low) >= _MOST_CHOICES:
        raise ValueError(f"the range {low}-{high} in {part!r} has more than {_MOST_CHOICES} numbers")
    for number in range(int(low), int(high) + 1):
        yield f"{before}{number}{after}"


def _gathered(low: str, high: str) -> str:
    """A range written again from its ends, `jpeg:60` and `jpeg:95`."""
    pairs = zip(low.split(":"), high.split(":"), strict=True)
    return ":".join(one if one == other else f"{float(one):g}-{float(other):g}" for one, other in pairs)


_KINDS = {
    "none": _Kind("none", "none", "no cushion, only the rounding to 8 bits", _none),
    "jpeg": _Kind("jpeg:QUALITY[:420|444]", "jpeg:80",
        "JPEG as by libjpeg-turbo, quality 1 to 100, chroma halved or not", _jpeg),
    "bits": _Kind("bits:DROPPED[:mid]", "bits:3",
        "clip the last 1 to 7 bits, to the lower end or middle of the bin", _bits),
    "tvm": _Kind("tvm[:KEEP:WEIGHT:ITERATIONS]", "tvm:0.5:0.03:50",
        "keep random pixels, minimise the total variation", _tvm),
    "median": _Kind("median:WINDOW", "median:3", "median of a window of 3, 5, 7 or 9 pixels", _median),
    "gaussian": _Kind("gaussian:SIGMA", "gaussian:1.0", "Gaussian blur, standard deviation in pixels", _gaussian),
    "random": _Kind("random:SPEC[+SPEC...]", "random:jpeg:60-95",
        "one of these drawn for each image, LOW-HIGH for every whole number between", _random),
    "noise": _Kind("noise:SIGMA[+SPEC]", "noise:0.05+median:3",
        "normal noise, deviation in units of full brightness, drawn for each image; SPEC behind it", _noise),
    "vote": _Kind("vote:VOTES:SPEC", "vote:32:noise:0.05",
        "a verdict by majority of so many draws of a random SPEC (randomised smoothing, MedRDF)", _vote),
}  # fmt: skip


def cushions() -> dict[str, str]:
    """Name of every cushion -> one line of help with its syntax."""
    return {name: f"{kind.syntax}: {kind.help} (e.g. {kind.example})" for name, kind in _KINDS.items()}


def parse_cushion(spec: str) -> Cushion:
    """The cushion that a spec such as "jpeg:80" names.

    Raises:
        ConfigError: the name or a parameter is not known; the message shows the syntax.
    """
    name, *arguments = spec.split(":")
    kind = _KINDS.get(name)
    if kind is None:
        syntaxes = ", ".join(known.syntax for known in _KINDS.values())
        raise ConfigError(f"cushion {spec!r}", f"there is no cushion named {name!r}", f"use one of: {syntaxes}")
    try:
        return kind.make(arguments)
    except ValueError as error:
        raise ConfigError(f"cushion {spec!r}", str(error), f"write {kind.syntax}, e.g. {kind.example}") from error
