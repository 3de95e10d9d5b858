"""`medaegis attack`: adversarial images of test images, as lossless files to look at and to screen."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medaegis.cli import console, datasets
from medaegis.cli.options import (
    AsJson,
    Factory,
    Gradient,
    GuardDir,
    Images,
    Samples,
    Seed,
    Spec,
    Targeted,
    check_out,
    factory,
    gradient_list,
    next_step,
    samples_for,
)
from medaegis.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from medaegis.attacks.engine import AttackResult
    from medaegis.attacks.known import Known
    from medaegis.attacks.victim import Victim
    from medaegis.guard.guard import Guard
    from medaegis.images import Dataset

RECORD = "attack.json"


def attack(
    guard_dir: GuardDir,
    spec: Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images and their table.", show_default=False)],
    attack: Annotated[str, typer.Option("--attack", help="Name from `medaegis attacks`.")] = "wb",
    eps: Annotated[
        str, typer.Option("--eps", help="Largest change of a pixel, in units of full brightness.")
    ] = "8/256",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Gradient steps.", show_default="the attack's own")
    ] = None,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Random starts.")] = 1,
    gradient: Annotated[
        Gradient, typer.Option("--gradient", help="Through the Cushion: straight, by its twin, or ignoring it.")
    ] = Gradient.bpda,
    targeted: Targeted = True,
    samples: Samples = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(
            "--surrogate",
            metavar="CLASSIFIER_DIR",
            help="Attack this classifier instead (several: their mean) and only judge by the guard.",
            show_default="none",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Attack at most so many.", show_default="all")
    ] = None,
    images: Images = None,
    seed: Seed = 0,
    network: Factory = None,
    as_json: AsJson = False,
) -> None:
    """Attack the test images that the guard diagnoses rightly, with full knowledge of it, or none (--surrogate).

    Writes one PNG each, of the classifier's size, attack.csv and attack.json. Every figure is of those 8-bit files.
    """
    from medaegis.attacks.balls import parse_eps
    from medaegis.attacks.catalogue import find_attack
    from medaegis.attacks.known import Known
    from medaegis.bench.surrogates import surrogate_of, transferable
    from medaegis.cushions import parse_cushion
    from medaegis.guard.guard import Guard
    from medaegis.models.store import load_classifier

    check_out(out)
    if (out / RECORD).exists():
        raise ConfigError(f"--out {out}", f"holds another attack ({RECORD})", "name another folder")
    entry = find_attack(attack)
    chosen = entry.attack.with_options(steps=steps, restarts=None if restarts == 1 else restarts)
    radius = parse_eps(eps)
    surrogates = surrogate or []
    if surrogates and not transferable(attack):
        problem = "this attack needs the guard's own Shields or answers"
        raise ConfigError(f"--surrogate with --attack {attack}", problem, "take one on the classifier, as dim")
    if entry.access == "black-box" and samples is not None and samples > 1:
        raise ConfigError(f"--samples with --attack {attack}", "it gets one answer a query", "leave it out")
    guard = Guard.load(guard_dir, factory=factory(network))
    if surrogates and samples is not None:
        raise ConfigError("--samples with --surrogate", "nothing in a surrogate is random", "leave one of them out")
    draws = 1 if surrogates or entry.access == "black-box" else samples_for(guard.cushion, samples)
    chosen = chosen.with_options(samples=draws)
    (way,) = gradient_list(gradient.value, parse_cushion("none") if surrogates else guard.cushion, [attack])
    stand_in = surrogate_of([load_classifier(path, factory(network)) for path in surrogates], guard.classifier)
    dataset, split = datasets.data_of_guard(guard, spec, images=images)
    test = dataset.subset(split.adv_test)
    rows = rightly_diagnosed(guard, test, limit, seed=seed)
    with console.progress("Attacking") as progress:
        found = run_attack(
            guard,
            test,
            rows,
            chosen,
            eps=radius,
            gradient=way,
            targeted=targeted,
            seed=seed,
            progress=progress,
            known=Known(dataset.subset([*split.train, *split.adv_train]), seed=seed),
            surrogate=None if stand_in is None else stand_in.victim,
        )
    fooled, undetected = int(found.fooled.sum()), int(found.broken.sum())
    told: dict[str, Any] = {
        "attack": attack,
        "eps": eps,
        "steps": chosen.steps,
        "restarts": chosen.restarts,
        "targeted": targeted,
        "gradient": way,
        "samples": draws,
        "surrogates": [path.name for path in surrogates],
        "seed": seed,
        "guard": guard.digest,
        "images": len(rows),
        "fooled": fooled,
        "undetected": undetected,
        "stood_still": int(found.still.sum()),
        "forwards": found.forwards,
        "backwards": found.backwards,
        "seconds": round(found.seconds, 1),
    }
    write_attacked(out, guard, test, rows, found, told)
    if as_json:
        console.write_json({"out": str(out), **told})
        return
    lines = {
        "Images": f"{len(rows)} test images that the guard diagnoses rightly",
        "Wrong diagnosis behind the Cushion": f"{fooled} ({console.percent(fooled / len(rows))})",
        "Wrong and accepted by the Shield": f"{undetected} ({console.percent(undetected / len(rows))})",
        "Passes": f"{found.forwards} forward, {found.backwards} backward, over single images",
        "Time": f"{found.seconds:.1f} s",
    }
    if told["stood_still"]:
        lines["Stood still"] = (
            f"{told['stood_still']} images, which neither a gradient nor an answer led away from the start"
        )
    if guard.cushion.random:
        lines["Judged"] = f"once each, by a draw of {guard.cushion.spec} that no gradient was taken at"
    console.write(console.facts(lines, title=f"{entry.title}, eps {eps}, {chosen.steps} steps"))
    console.say(f"Written to {out}. {next_step('screen', guard_dir, out, backbone=guard.classifier.backbone)}")


def rightly_diagnosed(guard: Guard, test: Dataset, limit: int | None, *, seed: int = 0) -> Tensor:
    """Rows of the test images whose clean diagnosis is right; with a limit, spread over all of them."""
    import torch

    verdict = guard.judge(test.pixels(), ids=test.ids, seed=seed)
    right = (verdict.predicted == test.labels).nonzero().squeeze(1)
    if not len(right):
        raise DataError(test.spec, "no test image is diagnosed rightly, so none can be attacked", "train longer")
    if limit is not None and limit < len(right):
        right = right[torch.linspace(0, len(right) - 1, limit).long()]
    return right


def run_attack(
    guard: Guard,
    test: Dataset,
    rows: Tensor,
    chosen: Any,
    *,
    eps: float,
    gradient: str,
    targeted: bool = True,
    seed: int,
    progress: Any,
    known: Known | None = None,
    surrogate: Victim | None = None,
) -> AttackResult:
    """Attack on these rows of `test`, each image with its own random start and, if targeted, its own target class.

    `known`: other clean images, for attacks that imitate one or hide among normal features. `surrogate`: what is
    attacked instead of the guard, which then only judges.
    """
    from medaegis.attacks.choices import pick_targets
    from medaegis.attacks.transfer import transfer

    victim = guard.victim(gradient=gradient)  # type: ignore[arg-type]
    labels, ids = test.labels[rows], test.ids[rows]
    targets = pick_targets(labels, len(test.classes), ids=ids, seed=seed)
    pixels = test.pixels(rows)
    options: dict[str, Any] = {"eps": eps, "ids": ids, "seed": seed, "progress": progress}
    options["targets"] = targets if targeted else None
    if known is not None:
        options |= known.options(chosen, surrogate or victim, pixels, targets, ids)
    if surrogate is not None:
        return transfer(chosen, surrogate, victim, pixels, labels, **options)
    result: AttackResult = chosen.run(victim, pixels, labels, **options)
    return result


def write_attacked(
    out: Path, guard: Guard, test: Dataset, rows: Tensor, found: AttackResult, told: dict[str, Any]
) -> None:
    """The images as PNG, attack.csv with a line each, attack.json with the settings and counts."""
    out.mkdir(parents=True, exist_ok=True)
    eps = str(told["eps"]).replace("/", "of")
    draws = judging_draws(guard, test.ids[rows], seed=told["seed"])
    table = []
    for i, row in enumerate(rows.tolist()):
        name = f"{told['attack']}-{eps}-{int(test.ids[row]):06d}.png"
        (out / name).write_bytes(png(found.images[i]))
        table.append(
            {
                "file": name,
                "source": test.names[row],
                "label": test.classes[int(test.labels[row])],
                "predicted": guard.classes[int(found.verdict.predicted[i])],
                "suspicion": float(found.verdict.score[i]),
                "accepted": bool(found.verdict.accepted[i]),
                "fooled": bool(found.fooled[i]),
                "undetected": bool(found.broken[i]),
                **({"cushion": draws[i]} if draws else {}),
            }
        )
    with (out / "attack.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    (out / RECORD).write_text(json.dumps(told, indent=2), encoding="utf-8")


def judging_draws(guard: Guard, ids: Tensor, *, seed: int) -> list[str]:
    """What a random Cushion draws to judge these images; nothing where it is not random."""
    from medaegis.cushions import DrawnCushion

    cushion = guard.victim().drawn(ids, seed=seed).cushion
    return cushion.specs if isinstance(cushion, DrawnCushion) else []


def png(image: torch.Tensor) -> bytes:
    """A lossless file of `(1 or 3, H, W)` in [0, 1]."""
    import torch
    from PIL import Image

    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
