"""Specs to cushions: one short text names a cushion and its parameters, in a guard's manifest as on the command line."""

from collections.abc import Callable
from dataclasses import dataclass

from medaegis.cushions.base import Cushion
from medaegis.cushions.jpeg import JpegCushion
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class _Kind:
    syntax: str
    example: str
    help: str
    make: Callable[[list[str]], Cushion]


def _whole(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)


def _jpeg(arguments: list[str]) -> Cushion:
    quality, *rest = arguments
    match rest:
        case [] | ["420"]:
            return JpegCushion(_whole(quality, 1, 100), "420")
        case ["444"]:
            return JpegCushion(_whole(quality, 1, 100), "444")
    raise ValueError(f"subsampling {':'.join(rest)!r} is not 420 or 444")


_KINDS = {
    "jpeg": _Kind("jpeg:QUALITY[:420|444]", "jpeg:80", "JPEG codec; quality 1-100, chroma subsampling", _jpeg),
}


def cushions() -> dict[str, str]:
    """Name of every cushion -> one line of help with its syntax."""
    return {name: f"{kind.syntax}  {kind.help}; e.g. {kind.example}" for name, kind in _KINDS.items()}


def parse_cushion(spec: str) -> Cushion:
    """The cushion that a spec such as "jpeg:80" names.

    Raises:
        ConfigError: the name or a parameter is not known; the message shows the syntax.
    """
    name, *arguments = spec.strip().split(":")
    kind = _KINDS.get(name)
    if kind is None:
        syntaxes = ", ".join(k.syntax for k in _KINDS.values())
        raise ConfigError(f"cushion {spec!r}", f"there is no cushion named {name!r}", f"use one of: {syntaxes}")
    try:
        return kind.make(arguments)
    except ValueError as error:
        raise ConfigError(f"cushion {spec!r}", str(error), f"write {kind.syntax}, e.g. {kind.example}") from error
