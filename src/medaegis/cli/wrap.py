"""`medaegis wrap`: a network that was trained elsewhere, made a classifier that everything else takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medaegis.cli import console, datasets, options
from medaegis.cli.trained import by_class, overview
from medaegis.errors import ConfigError
from medaegis.sizes import told_size

if TYPE_CHECKING:
    from medaegis.images import Dataset
    from medaegis.models import Classifier
    from medaegis.models.outputs import Form


def wrap(
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY",
            help="Builds the network: called with classes=K, or with nothing. Runs that code: name only what you "
            "trust. Also timm:NAME, torchvision:NAME, or a name that `train` knows.",
        ),
    ],
    weights: Annotated[
        Path, typer.Option("--weights", help="Its weights: a .safetensors or .pth state dict.", show_default=False)
    ],
    classes: Annotated[
        str,
        typer.Option("--classes", help="Names, with commas between, in the order of its outputs.", show_default=False),
    ],
    size: options.PictureSize,
    normalise: Annotated[
        str,
        typer.Option(
            "--normalise",
            help="What it was trained with: imagenet, none (or it normalises by itself), MEAN/STD of pixels in 0 to 1, "
            "as 0.5/0.25 or 0.5,0.5,0.5/0.2,0.2,0.2.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the classifier.", show_default=False)],
    channels: Annotated[
        options.Channels,
        typer.Option("--channels", help="Of the images. auto: gray for data sets of radiographs, else rgb."),
    ] = options.Channels.auto,
    taps: Annotated[
        str | None,
        typer.Option(
            "--taps",
            help="Modules that detectors, attacks on features and Shields of recipe paper read.",
            show_default="four, spread over its depth",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", help="Key or number of the part it returns that holds the logits.", show_default="a tensor"
        ),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            "--outputs",
            help="logits, or probabilities: where it ends in a softmax or sigmoid that you cannot take off.",
            show_default="logits",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="Labelled images that it never learned from: measures it, and gives later commands their split.",
            show_default="none",
        ),
    ] = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Take in a network that was trained elsewhere: writes the folder that `train` writes.

    One output for two classes is above 0 (of probabilities, above 0.5) for the second. Which images a network learned
    from, only its owner knows, and figures measured on those are too good: name images that it never saw.
    """
    from medaegis.artefact import check_target
    from medaegis.models.backbones import create_backbone
    from medaegis.models.weights import load_weights
    from medaegis.models.wrapping import wrap_classifier

    options.check_out(out, check_target, kind="classifier")
    place = options.device_of(device)
    named = options.comma_separated(classes, "--classes")
    colours = datasets.channels_of(data or "", channels)
    sides = options.picture_size(size)
    dataset = None if data is None else datasets.load(data, size=sides, channels=colours, images=images, seed=seed)
    network = create_backbone(backbone, classes=len(named))
    load_weights(network, weights)
    classifier = wrap_classifier(
        network.to(place),
        out,
        backbone=backbone,
        classes=named,
        size=sides,
        normalise=normalise,
        channels=colours,
        taps=None if taps is None else options.comma_separated(taps, "--taps"),
        output=int(output) if output is not None and output.isdecimal() else output,
        outputs=_form(outputs),
        dataset=dataset,
        seed=seed,
        weights=weights,
    )
    _tell(out, classifier, normalise, dataset, data or "SPEC", as_json=as_json)


def _form(text: str | None) -> Form | None:
    if text not in (None, "logits", "probabilities"):
        raise ConfigError(f"--outputs {text}", "unknown", "give logits or probabilities")
    return text  # type: ignore[return-value]  # mypy does not narrow by `in`


def _tell(
    out: Path, classifier: Classifier, normalise: str, dataset: Dataset | None, spec: str, *, as_json: bool
) -> None:
    from medaegis.bench.chance import why_no_better_than_chance
    from medaegis.guard.site import UNKNOWN_TRAINING
    from medaegis.images import Split
    from medaegis.models.store import read_wrapped

    told = read_wrapped(out)
    doubt = None
    if dataset is not None:
        doubt = why_no_better_than_chance(classifier, dataset, Split.load(out / "split.json", dataset).adv_test)
    if as_json:
        console.write_json({"classifier": str(out), "taps": classifier.taps, **told.model_dump(), "no_use": doubt})
        return
    shape = f"{told_size(classifier.size)} {classifier.channels}, normalised: {normalise}"
    if classifier.channels == "gray" and classifier.mean.numel() == 3:
        shape += ", given to its three channels alike"
    lines = {"Images": shape, "Answers": answers(classifier), "Taps": ", ".join(classifier.taps) or "none"}
    console.write(console.facts(lines, title=classifier.backbone))
    if told.metrics:
        console.write(overview(told.metrics, "On images that it never learned from, as you say"))
        console.write(by_class(told.metrics["adv_test"], classifier.classes))
    if doubt is not None:
        console.say(
            f"Warning: this classifier is no better than chance: {console.shown(doubt)}. Are --normalise, --channels "
            "and the order of --classes those of its training?"
        )
    if classifier.outputs.form == "probabilities":
        console.say(
            "Of probabilities near 0 and 1 the last digits are lost, and gradients with them: attacks find no way on, "
            "and robustness looks better than it is. Take its last softmax or sigmoid off if you can."
        )
    if told.learned == "unknown":
        console.say(UNKNOWN_TRAINING)
    step = options.next_step("fit", out, spec, "--out", "GUARD_DIR", backbone=classifier.backbone)
    console.say(f"Written to {out}. {step}")


def answers(classifier: Classifier) -> str:
    """How its outputs are read, in words."""
    outputs = classifier.outputs
    part = "" if outputs.key is None else f", its part {outputs.key!r}"
    names = ", ".join(map(console.shown, classifier.classes))
    if not outputs.single:
        return f"{outputs.form}{part}, in this order: {names}"
    middle = "0" if outputs.form == "logits" else "0.5"
    first, second = map(console.shown, classifier.classes)
    return f"one of {outputs.form}{part}: above {middle} is {second!r}, below is {first!r}"
