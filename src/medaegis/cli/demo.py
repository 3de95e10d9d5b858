"""`medaegis demo`: the whole path once, small: data, classifier, guard, attack, screening, evaluation, report.

Sized for a few minutes on two cores. It shows how the parts work together; its figures are those of a toy.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medaegis.cli import console, datasets
from medaegis.cli.options import Device, Seed, check_out, device_of
from medaegis.cli.screen import findings_table
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from medaegis.bench.records.evaluation import Evaluation
    from medaegis.guard.guard import Guard
    from medaegis.guard.screening import Screened
    from medaegis.images import Dataset, Split
    from medaegis.models import Classifier

DRAWN = "phantom-xray?n=2400"
WRITTEN = "sha256 of what medaegis demo wrote"  # in the record of the mixed folder
THREADS = 2  # more only get in each other's way on images this small


@dataclass(frozen=True)
class Sizes:
    """What makes the demo small: sizes of the data, of the classifier's training, of the Shields', of the attacks."""

    pixels: int = 64
    images: int = 2400
    epochs: int = 6
    noise: float = 16 / 256  # in half of the images the classifier learns from, or noise alone would change diagnoses
    updates: int = 800
    # A Shield of the pixels alone learns fastest; narrow, averaged over its last updates.
    shield: Mapping[str, Any] = field(
        default_factory=lambda: {
            "width": 16,
            "lr": 4e-3,
            "average": 0.97,
            "eps_end": 16 / 256,
            "eps_growth": 0.8,
            "inner_steps": 5,
            "inner_step": (0.2, 0.4),
            "early": 0.0,
            "watch_every": 0,
        }
    )
    attacks: tuple[str, ...] = ("fgsm", "pgd", "wb")
    eps: tuple[str, ...] = ("2/256", "4/256", "8/256")
    mixed_eps: str = "4/256"
    attacked: int = 40  # 28 that are rightly diagnosed are needed to judge every check (bench.checks.exact)
    screened: int = 8


@dataclass
class Diary:
    """What was made where, with its key figures, for the closing table."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @contextmanager
    def stage(self, number: int, name: str, where: Path | None) -> Iterator[list[str]]:
        """Times a stage; the figures appended to the list yielded go into its row."""
        console.say(f"[{number}/6] {name}")
        figures: list[str] = []
        started = time.perf_counter()
        yield figures
        seconds = f"{time.perf_counter() - started:.0f} s"
        console.say(f"      {', '.join(figures)} ({seconds})")
        self.rows.append((name, ", ".join(figures), "" if where is None else str(where), seconds))


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("runs/demo"),
    data: Annotated[
        str, typer.Option("--data", metavar="SPEC", help="Data set, for instance chest-xray:PATH; drawn by default.")
    ] = DRAWN,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Show the whole path in a few minutes: train, guard, attack, screen, evaluate, report.

    Run again, it goes on where it was. Its figures are those of a small network trained briefly.
    """
    check_out(out)
    run_demo(out, data, seed=seed, sizes=Sizes(), device=device_of(device))


def run_demo(out: Path, data: str, *, seed: int, sizes: Sizes, device: torch.device | None = None) -> None:
    """The demo in given sizes.

    Raises:
        ConfigError: `out`/mixed holds what the demo did not write; asked before any work.
    """
    import torch

    from medaegis.bench.report.report import write_report
    from medaegis.bench.report.verdict import write_verdict
    from medaegis.images import split_dataset

    written_before(out / "mixed")
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    started = time.perf_counter()
    diary = Diary()
    console.say("A small demonstration. It makes everything from nothing; figures of a real guard are in docs/results.")
    with diary.stage(1, "Images", None) as figures:
        channels = datasets.channels_of(data, "auto")
        dataset = datasets.load(data, size=sizes.pixels, channels=channels, images=sizes.images, seed=seed)
        split = split_dataset(dataset, seed=seed)
        groups = "" if dataset.grouping != "patient" else f" of {len(set(dataset.patients))} patients"
        figures += [f"{len(dataset)} images{groups}", " / ".join(map(console.shown, dataset.classes))]
    with diary.stage(2, "Classifier", out / "classifier") as figures:
        classifier, accuracy = _classifier(dataset, split, sizes, seed, out / "classifier", device)
        figures += [accuracy]
    with diary.stage(3, "Guard", out / "guard") as figures:
        guard = _guard(classifier, dataset, split, sizes, seed, out / "guard")
        figures += [f"accepts {console.percent(guard.calibration['tnr_reached'])} of clean test images, 90 % chosen"]
    with diary.stage(4, "Mixed folder", out / "mixed") as figures:
        screened, truth = _mixed(guard, dataset.subset(split.adv_test), sizes, seed, out / "mixed")
        figures += [_outcome(screened, truth, name) for name in ("clean", "pgd", "wb")]
    console.write(findings_table(screened))
    with diary.stage(5, "Evaluation", out / "evaluation") as figures:
        found = _evaluation(guard, dataset, split, sizes, seed, data, out / "evaluation")
        figures += _key_figures(found, sizes.mixed_eps)
    with diary.stage(6, "Report", out / "report.html") as figures:
        page = write_report(out / "evaluation", out / "report.html")
        write_verdict(out / "evaluation", page.with_suffix(".verdict.html"))
        figures += [f"{page.stat().st_size / 1e6:.1f} MB, opens in any browser"]
    _close(diary, out, data, time.perf_counter() - started)


def _classifier(
    dataset: Dataset, split: Split, sizes: Sizes, seed: int, out: Path, device: torch.device | None
) -> tuple[Classifier, str]:
    from medaegis.models.learning import TrainConfig
    from medaegis.models.store import load_classifier, read_training
    from medaegis.models.training import train_classifier
    from medaegis.robust import Inner, Robust

    config = TrainConfig(backbone="resnet18", epochs=sizes.epochs, seed=seed, device=str(device or "cpu"))
    with console.progress("Training") as progress:
        noise = Robust(inner=Inner(eps=sizes.noise, steps=0), share=0.5)
        train_classifier(dataset, split, config, out, progress, recipe=noise)
    test = read_training(out)["metrics"]["adv_test"]
    figures = f"accuracy {console.percent(test['accuracy'])}, AUROC {console.decimal(test['auroc'])} on test images"
    return load_classifier(out).to(device or "cpu"), figures


def _guard(classifier: Classifier, dataset: Dataset, split: Split, sizes: Sizes, seed: int, out: Path) -> Guard:
    from medaegis.cushions import parse_cushion
    from medaegis.guard.fitting import fit_guard, shield_config
    from medaegis.guard.guard import Guard

    recipe = shield_config("strong", classifier, updates=sizes.updates, seed=seed)
    with console.progress("Fitting") as progress:
        fit_guard(
            classifier,
            dataset,
            split,
            cushion=parse_cushion("jpeg:80"),
            config=recipe.model_copy(update=dict(sizes.shield)),
            out_dir=out,
            about={"recipe": "strong", "images": sizes.images},
            progress=progress,
        )
    return Guard.load(out).to(classifier.device)  # as a deployed guard is read: every byte checked


def _mixed(guard: Guard, test: Dataset, sizes: Sizes, seed: int, out: Path) -> tuple[list[Screened], dict[str, str]]:
    """Clean images and attacked others in one folder, screened as a hospital would; and each file's true class."""
    import torch

    from medaegis.attacks.balls import parse_eps
    from medaegis.attacks.catalogue import find_attack
    from medaegis.bench.attack import png
    from medaegis.bench.sample import Sample

    sample = Sample.draw(test, lambda x, ids: guard.judge(x, ids=ids), limit=None, seed=seed)
    sample = sample.only(sample.few(3 * sizes.screened))
    truth: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part, name in enumerate(("clean", "pgd", "wb")):
        mine = sample.only(torch.arange(part, len(sample), 3))
        images, eps = mine.pixels, parse_eps(sizes.mixed_eps)
        if name != "clean":
            attack = find_attack(name).attack
            with console.progress(f"Attacking ({name})") as progress:
                images = attack.run(
                    guard.victim(),
                    images,
                    mine.labels,
                    eps=eps,
                    targets=mine.targets,
                    ids=mine.ids,
                    seed=seed,
                    progress=progress,
                ).images
        for row, image in zip(mine.rows.tolist(), images, strict=True):
            label = test.classes[int(test.labels[row])]
            file = f"{name}-{int(test.ids[row]):06d}-{''.join(c if c.isalnum() else '-' for c in label)}.png"
            truth[file], files[file] = label, png(image)
    _replace_mixed(out, files)
    return list(guard.screen(out)), truth


def written_before(folder: Path) -> list[Path]:
    """The files in the mixed folder, every one written by an earlier demo, as its record beside the folder says.

    Raises:
        ConfigError: it holds anything else, which may be somebody's and is not touched.
    """
    record = _record(folder)
    found = [folder] if folder.is_symlink() or folder.exists() else []
    if folder.is_dir() and not folder.is_symlink():
        found = sorted(folder.iterdir())
    told: dict[str, str] = {}
    if record.exists():
        try:
            told = json.loads(record.read_bytes())[WRITTEN]
        except (OSError, ValueError, TypeError, KeyError):
            found = [record, *found]
    for file in found:
        whole = file.is_file() and not file.is_symlink()
        if not whole or told.get(file.name) != hashlib.sha256(file.read_bytes()).hexdigest():
            problem = "is not as the demo wrote it, and the demo puts its own in its place"
            raise ConfigError(console.shown(file), problem, "move it elsewhere, or name another --out")
    return found


def _replace_mixed(folder: Path, files: Mapping[str, bytes]) -> None:
    """These files in the place of an earlier demo's; whose they are is written down before they are there."""
    from medaegis.bench.records.archive import replace_file
    from medaegis.safefiles import put_in_place

    for file in written_before(folder):
        file.unlink()
    if folder.exists():
        folder.rmdir()  # which refuses where something has come since
    told = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    replace_file(_record(folder), json.dumps({WRITTEN: told}, indent=1).encode())
    put_in_place(folder, files)


def _record(folder: Path) -> Path:
    """Names and SHA-256 of what the demo wrote into the folder."""
    return folder.with_name(f"{folder.name}.json")


def _outcome(screened: list[Screened], truth: dict[str, str], name: str) -> str:
    mine = [one for one in screened if one.path.name.startswith(f"{name}-")]
    rejected = sum(one.status != "accepted" for one in mine)
    shown = [(one.record()["diagnosis"], truth[one.path.name]) for one in mine]
    wrong = sum(diagnosis is not None and diagnosis != label for diagnosis, label in shown)
    return f"{name}: {rejected} of {len(mine)} rejected, {wrong} wrong diagnoses shown"


def _evaluation(
    guard: Guard, dataset: Dataset, split: Split, sizes: Sizes, seed: int, data: str, out: Path
) -> Evaluation:
    from medaegis.attacks.balls import parse_eps
    from medaegis.bench.evaluate import evaluate_guard
    from medaegis.bench.plan import plan
    from medaegis.guard.site import Site
    from medaegis.images import without_path

    with console.progress("Evaluating") as progress:
        return evaluate_guard(
            guard,
            Site(dataset, split, home=True),
            cells=plan(sizes.attacks, [(text, parse_eps(text)) for text in sizes.eps]),
            out_dir=out,
            limit=sizes.attacked,
            planted=False,
            seed=seed,
            command=f"medaegis demo --data {without_path(data)} --seed {seed}",
            progress=progress,
        )


def _key_figures(found: Evaluation, text: str) -> list[str]:
    """What each attack got past the guard at one eps, in its full length, and AUROC by the wanted class's Shield."""
    cells = {cell.attack: cell for cell in reversed(found.cells) if cell.eps_text == text}
    through = ", ".join(f"{name} {console.percent(cell.undetected)}" for name, cell in reversed(cells.items()))
    areas = ", ".join(f"{name} {console.decimal(cell.auroc_wanted)}" for name, cell in reversed(cells.items()))
    return [f"undetected at {text}: {through}", f"AUROC of the wanted class's Shield: {areas}"]


def _close(diary: Diary, out: Path, data: str, seconds: float) -> None:
    from medaegis.images import without_path

    title = f"Made in {seconds // 60:.0f} min {seconds % 60:.0f} s"
    console.write(console.table("What", "Key figures", "Where", "Time", rows=diary.rows, title=title))
    drawn = data.startswith("phantom-")
    told = [
        "These figures are those of a toy: a small network, few images, minutes of training"
        + (", drawn pictures." if drawn else "."),
        "What a guard trained properly on real X-rays reaches, and where it breaks, is in docs/results/chest-xray.md.",
        "",
        "What to try next:",
        f"  open {out / 'report.html'}, and report.verdict.html beside it",
        f"  medaegis screen {out / 'guard'} YOUR_IMAGE.png --format jsonl",
        f"  medaegis attack {out / 'guard'} {without_path(data)} --attack wb --eps 16/256 --out {out / 'attacked'}",
        f"  medaegis evaluate {out / 'guard'} {without_path(data)} --out {out / 'full-evaluation'}",
    ]
    if drawn:
        told.append("  make demo DATA=chest-xray:PATH     (the same with real images)")
    console.write("\n".join(told))
