"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from medaegis.cli import console
from medaegis.errors import ArtefactError, ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import nn

    from medaegis.cushions import Cushion
    from medaegis.cushions import Gradient as Way

Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="Data set: phantom-xray, chest-xray:PATH, folder:PATH … (data schemes).")
]
GuardDir = Annotated[Path, typer.Argument(metavar="GUARD_DIR", help="Folder that `medaegis fit` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]
Images = Annotated[
    int | None,
    typer.Option(
        "--images", min=1, help="Use so many of the data set's images, drawn with the seed.", show_default="all"
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Decides all randomness.")]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=1,
        help="Draws of a random Cushion that each step averages over (EOT).",
        show_default="4 where it is random",
    ),
]
Targeted = Annotated[
    bool,
    typer.Option("--targeted/--untargeted", help="Towards a wrong class drawn for each image, or towards any."),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--factory",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Builds the network of a model of your own. Runs that code: name only what you trust.",
        show_default="none",
    ),
]


class Gradient(StrEnum):
    """How an attack's gradient passes the Cushion."""

    bpda = "bpda"
    twin = "twin"
    skip = "skip"


class Channels(StrEnum):
    """Colour of the images."""

    auto = "auto"
    gray = "gray"
    rgb = "rgb"


def comma_separated(text: str, option: str) -> list[str]:
    """The parts of `a,b,c`, each once."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise ConfigError(option, "is empty", "give one or more names, with commas between them")
    return parts


def check_out(out: Path, check: Callable[..., None] | None = None, *, option: str = "--out", **options: object) -> None:
    """Whether there can be written what the command is going to make, asked before any work.

    Args:
        check: of `medaegis.artefact` or `safefiles`, called with `options`; None: `check_other`.

    Raises:
        ConfigError: what it refuses, told as wrong usage.
    """
    from medaegis.artefact import check_other

    try:
        (check or check_other)(out, **options)
    except ArtefactError as error:
        raise ConfigError(f"{option} {out}", error.problem, error.remedy) from None


def eps_list(text: str) -> list[tuple[str, float]]:
    """`4/256,8/256` as (text, value) pairs."""
    from medaegis.attacks.balls import parse_eps

    return [(part, parse_eps(part)) for part in comma_separated(text, "--eps")]


def gradient_list(text: str, cushion: Cushion, attacks: Sequence[str]) -> list[Way]:
    """Ways through this Cushion for these attacks, as `bpda,twin`.

    Raises:
        ConfigError: there is no such way; or one is asked for that nothing would go: there is no Cushion, or no attack
            has gradients.
    """
    from medaegis.attacks.catalogue import find_attack

    parts = comma_separated(text, "--gradient")
    for part in parts:
        if part not in list(Gradient):
            raise ConfigError(f"--gradient {part}", "is no way through a Cushion", f"take {', '.join(Gradient)}")
    ways: list[Way] = [Gradient(part).value for part in parts]
    if cushion.spec == "none" and ways != [Gradient.bpda.value]:
        raise ConfigError(f"--gradient {text}", "without a Cushion every way is the same", "leave it out")
    if ways != [Gradient.bpda.value] and all(find_attack(name).access == "black-box" for name in attacks):
        problem = f"{', '.join(attacks)}: by answers alone, without gradients"
        raise ConfigError(f"--gradient {text}", problem, "leave it out")
    return ways


SAMPLES = 4


def samples_for(cushion: Cushion, asked: int | None) -> int:
    """Draws that an attack through this Cushion averages over; 1 where nothing is drawn.

    Raises:
        ConfigError: several are asked for, and the Cushion is not random: they would all be the same.
    """
    if cushion.random:
        return SAMPLES if asked is None else asked
    if asked is not None and asked > 1:
        problem = f"the Cushion {cushion.spec} is not random, so every draw is the same"
        raise ConfigError(f"--samples {asked}", problem, "leave it out")
    return 1


def factory(spec: str | None) -> Callable[..., nn.Module] | None:
    """The function that builds a user's own network."""
    if spec is None:
        return None
    from medaegis.models import load_factory

    return load_factory(spec)


def next_step(*words: object, backbone: str = "") -> str:
    """`Next: medaegis …`, to be copied as it is; where its network is somebody's own code, with --factory."""
    from medaegis.models.backbones import is_own

    told = ["medaegis", *map(str, words), *(["--factory", backbone] if is_own(backbone) else [])]
    return f"Next: {shlex.join(map(console.shown, told))}"


Model = TypeVar("Model", bound="BaseModel")


def checked(model: type[Model], **values: Any) -> Model:
    """A configuration from options; what does not fit is told as a usage error."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "--" + "-".join(str(part) for part in first["loc"][:1]).replace("_", "-")
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}, not {first['input']!r}"
        raise ConfigError(name, message, "see --help for its range") from None


def recorded_command(verb: str, folder: Path, spec: str, options: Mapping[str, object]) -> str:
    """The call for a record: names without their folders; an option that is None or False was not given.

    Args:
        options: by name with its dashes; True stands alone, a list is one option again and again.
    """
    from medaegis.images import without_path

    words = ["medaegis", verb, folder.name, without_path(spec)]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                words += [name] if one is True else [name, one.name if isinstance(one, Path) else str(one)]
    return " ".join(words)
