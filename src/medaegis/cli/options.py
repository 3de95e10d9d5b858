"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from medaegis.cli import console
from medaegis.errors import ArtefactError, ConfigError

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import nn

    from medaegis.sizes import Size


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


Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="Data set: phantom-xray, chest-xray:PATH, folder:PATH … (data schemes).")
]
GuardDir = Annotated[Path, typer.Argument(metavar="GUARD_DIR", help="Folder that `medaegis fit` wrote.")]
ClassifierDir = Annotated[
    Path, typer.Argument(metavar="CLASSIFIER_DIR", help="Folder that `medaegis train` or `wrap` wrote.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]
Images = Annotated[
    int | None,
    typer.Option(
        "--images", min=1, help="Use so many of the data set's images, drawn with the seed.", show_default="all"
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Decides all randomness.")]
PictureSize = Annotated[
    str, typer.Option("--size", metavar="N|HxW", help="Of the images in pixels: side, or height x width as 224x320.")
]
Colours = Annotated[Channels, typer.Option("--channels", help="auto: gray for radiographs, else rgb.")]
Attack = Annotated[str, typer.Option("--attack", help="Name from `medaegis attacks`.")]
Way = Annotated[
    Gradient, typer.Option("--gradient", help="Through the Cushion: straight, by its twin, or ignoring it.")
]
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
    bool, typer.Option("--targeted/--untargeted", help="Towards a wrong class drawn for each image, or towards any.")
]
LIMIT = "Draw at most so many test images, classes in proportion; those of them diagnosed rightly are attacked."
SIZES = "Largest changes of a pixel in units of full brightness, with commas between."
QUERIES = "Of the attacks that see answers alone; of an ensemble (`auto`), the most that any of its attacks takes."
Limit = Annotated[int | None, typer.Option("--limit", min=1, help=LIMIT, show_default="all")]
Cascade = Annotated[
    int | None,
    typer.Option(
        "--cascade",
        min=1,
        help="Draw so many, more than --limit, and also tell how many of them any attack breaks, each left alone once "
        "one does: intervals of many images for a fraction of the time.",
        show_default="not asked",
    ),
]
Eps = Annotated[str, typer.Option("--eps", help="Largest change of a pixel, in units of full brightness.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Gradient steps.", show_default="the attack's own")]
SigningKey = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Ed25519 private key (medaegis keys).", show_default="unsigned"),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|cuda:N", help="Where to compute; auto takes a CUDA device if there is one."
    ),
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


def picture_size(text: str) -> Size:
    """`--size`, each side at least 8 px."""
    from medaegis.sizes import as_size, parse_size

    return as_size(parse_size(text), least=8)


def device_of(name: str, *, here: bool = True) -> torch.device:
    """The device of `--device`, asked before anything is read; not `here`: that of other machines."""
    from medaegis.models.hardware import pick_device

    return pick_device(name, here=here)


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


def recorded_command(context: typer.Context) -> str:
    """The call that is running, for a record: names without their folders, and the options that were given.

    Where it is written, and in which form it is answered, is left out.
    """
    from medaegis.images import without_path

    verbs, group = [str(context.info_name)], context.parent
    while group is not None and group.parent is not None:
        verbs.insert(0, str(group.info_name))
        group = group.parent
    words, options = ["medaegis", *verbs], []
    for parameter in context.command.params:
        if parameter.name not in context.params:  # as --help
            continue
        given = context.params[parameter.name]
        source = context.get_parameter_source(parameter.name)
        if parameter.param_type_name == "argument":
            words.append(given.name if isinstance(given, Path) else without_path(given))
        elif source is not None and source.name == "COMMANDLINE" and parameter.name not in ("out", "as_json"):
            options += _as_given(parameter, given)
    return " ".join(words + options)


def _as_given(parameter: Any, value: object) -> list[str]:
    """An option and its value; one that was given several times, again and again."""
    if isinstance(value, bool):
        return [parameter.opts[0] if value else parameter.secondary_opts[0]]
    told = []
    for one in value if isinstance(value, list | tuple) else [value]:
        told += [parameter.opts[0], one.name if isinstance(one, Path) else str(getattr(one, "value", one))]
    return told
