"""What defences beside the guard hold, alone and with its Shield, against attacks that do and do not know them.

    python -m benchmarks.defences

Trains small networks on drawn pictures and attacks them; writes benchmarks/results/defences.json, and from it the
tables of docs/defences.md. Goes on where it was after a kill; takes about ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.attacks.balls import parse_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.objective import Objective, View
from medaegis.attacks.victim import Victim
from medaegis.bench.assess import assess_classifier, proportion
from medaegis.bench.campaign import Effort
from medaegis.bench.evaluate import evaluate_guard
from medaegis.bench.plan import Planned, plan_assessment, samples_for
from medaegis.bench.sample import draw
from medaegis.cushions import Gradient, parse_cushion
from medaegis.guard.fitting import fit_guard, refit_guard, shield_config
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import Split, split_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.denoising import Denoising
from medaegis.models.learning import TrainConfig
from medaegis.models.training import train_classifier
from medaegis.provenance import environment
from medaegis.robust import parse_recipe

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "defences.md", ROOT / "benchmarks" / "results" / "defences.json"
BEGIN, END = "<!-- made by python -m benchmarks.defences -->", "<!-- end of what it made -->"
EPS = ("2/255", "4/255", "8/255")
ATTACKS, ON_GUARDS = ("pgd", "cw-linf", "apgd-cw"), ("wb", "cw-linf")
OWN = "benchmarks.defences:small"


class Small(nn.Module):
    """Four convolutions with batch norm, and a linear layer: learned in seconds."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        for i, (given, wanted) in enumerate(pairwise(widths), start=1):
            convolution = nn.Conv2d(given, wanted, 3, stride=1 if i == 1 else 2, padding=1, bias=False)
            self.add_module(f"layer{i}", nn.Sequential(convolution, nn.BatchNorm2d(wanted), nn.ReLU(inplace=True)))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def small(classes: int) -> nn.Module:
    """The factory, as a backbone is named."""
    return Small(classes)


@dataclass(frozen=True)
class Published(Objective):
    """Cross-entropy as FGSM and PGD were published with it: its slope is lost where softmax rounds to 0 and 1."""

    def __call__(self, view: View) -> Tensor:
        return -F.cross_entropy(view.known_logits(), view.goal.labels, reduction="none")


@dataclass(frozen=True)
class Defence:
    """A row: which network, behind which Cushion."""

    name: str
    network: str
    cushion: str = "none"


DEFENCES = (
    Defence("none", "plain"),
    Defence("Cushion jpeg:80", "plain", "jpeg:80"),
    Defence("feature denoising, layer1,layer2:0.5", "denoised"),
    Defence("defensive distillation, T = 100", "distilled"),
    Defence("vote of 16, noise 0.02 (MedRDF)", "plain", "vote:16:noise:0.02"),
    Defence("vote of 16, noise 0.05, trained with noise 0.1", "noise", "vote:16:noise:0.05"),
    Defence("robust training, growing to 8/255", "growing"),
    Defence("the same, Cushion jpeg:80", "growing", "jpeg:80"),
)


LONGER = {"teacher": 2, "distilled": 2, "growing": 2}  # epochs, in units of the others'
LITTLE = Effort(harmless=40, far=8, probed=16, guessed=16, queries=200)


@dataclass(frozen=True)
class Sizes:
    """How much is learned from and attacked."""

    spec: str = "phantom-skin?n=800"
    pixels: int = 32
    epochs: int = 10
    updates: int = 300
    limit: int = 50
    steps: int = 20
    effort: Effort = LITTLE


QUICK = Sizes("phantom-skin?n=160", epochs=1, updates=2, limit=4, steps=2, effort=Effort(8, 2, 64 / 256, 2, 2, 4))


class Bench:
    """Data, networks and guards of one run."""

    def __init__(self, sizes: Sizes, work: Path, seed: int, command: str) -> None:
        self.sizes, self.work, self.seed, self.command = sizes, work, seed, command
        self.dataset: Dataset = load_dataset(sizes.spec, size=sizes.pixels, channels="rgb")
        self.split: Split = split_dataset(self.dataset, seed=seed, fractions=(0.6, 0.15, 0.05, 0.2))
        self.eps = [(text, parse_eps(text)) for text in EPS]

    def network(self, name: str) -> Classifier:
        """Trained, or as it was left by an earlier run."""
        robust = {
            "teacher": lambda: parse_recipe("teacher", temperature=100),
            "distilled": lambda: parse_recipe("distillation", temperature=100, helper=self.network("teacher")),
            "noise": lambda: parse_recipe("noise", eps=0.1),
            "growing": lambda: parse_recipe("growing", eps=parse_eps("8/255")),
        }
        config = TrainConfig(
            backbone=OWN,
            taps=("layer2",),
            denoise=Denoising(layers=("layer1", "layer2"), keep=0.5) if name == "denoised" else None,
            epochs=self.sizes.epochs * LONGER.get(name, 1),
            lr=3e-3,
            seed=self.seed,
            device="cpu",
        )
        recipe = robust[name]() if name in robust else None
        return train_classifier(self.dataset, self.split, config, self.work / name, recipe=recipe)

    def alone(self, defence: Defence) -> dict[str, Any]:
        """The classifier behind the Cushion, without a Shield."""
        classifier, cushion, sizes = self.network(defence.network), parse_cushion(defence.cushion), self.sizes
        ways: tuple[Gradient, ...] = ("bpda", "twin", "skip") if defence.cushion.startswith("jpeg") else ("bpda",)
        found = assess_classifier(
            classifier,
            self.dataset,
            self.split,
            cells=plan_assessment(
                ATTACKS, self.eps, steps=sizes.steps, gradients=ways, samples=samples_for(cushion, None)
            ),
            eps=self.eps,
            out_dir=self.work / f"assessment-{defence.network}-{_named(defence.cushion)}",
            cushion=defence.cushion,
            limit=sizes.limit,
            effort=sizes.effort,
            seed=self.seed,
            command=self.command,
        )
        unaware = self._unaware(Victim(classifier, cushion=cushion))
        return {
            "n": found.chosen,
            "clean": _told(found.clean.accuracy),
            "unaware": _told(proportion(unaware, [str(i) for i in range(len(unaware))])),
            "worst": {worst.eps_text: _told(worst.accuracy) for worst in found.worst_case},
            "failed": [control.name for control in found.controls if control.passed is False],
        }

    def _unaware(self, victim: Victim) -> Tensor:
        """Which of the chosen images are diagnosed rightly still, bool `(N,)`, after PGD at the largest eps by one who
        minds neither lost slopes nor the Cushion.
        """
        test = self.dataset.subset(self.split.adv_test)
        test = test.subset(draw(test.labels, self.sizes.limit, self.seed))
        attack = Attack(objective=Published(), steps=self.sizes.steps, random_start=True)
        found = attack.run(
            victim.by("skip"), test.pixels(), test.labels, eps=self.eps[-1][1], ids=test.ids, seed=self.seed
        )
        return ~(found.reached | found.wrong)

    def votes(self, defence: Defence) -> dict[str, float | None]:
        """Median share of the votes that the diagnosis has: of clean images diagnosed rightly, and of attacked ones
        that come out wrong at the largest eps.
        """
        victim = Victim(self.network(defence.network), cushion=parse_cushion(defence.cushion))
        test = self.dataset.subset(self.split.adv_test)
        test = test.subset(draw(test.labels, self.sizes.limit, self.seed))
        attack = find_attack("cw-linf").attack.with_options(steps=self.sizes.steps, samples=4)
        clean = victim.verdicts(test.pixels(), test.ids, seed=self.seed)
        found = attack.run(victim, test.pixels(), test.labels, eps=self.eps[-1][1], ids=test.ids, seed=self.seed)
        rows = {"right": (clean, clean.predicted == test.labels), "fooled": (found.verdict, found.fooled)}
        return {
            name: float(verdict.logits[which].exp().amax(1).median()) if which.any() else None
            for name, (verdict, which) in rows.items()
        }

    def shielded(self, defence: Defence) -> dict[str, Any]:
        """The same with a Shield behind it: that of the guard around the plain network, its threshold set anew."""
        sizes, guard = self.sizes, self._guard(defence)
        cells = [
            Planned(name, value, text, steps=sizes.steps, samples=samples_for(guard.cushion, None))
            for name in ON_GUARDS
            for text, value in self.eps
        ]
        found = evaluate_guard(
            guard,
            Site(self.dataset, self.split, home=True),
            cells=cells,
            out_dir=self.work / f"evaluation-{defence.network}-{_named(defence.cushion)}",
            limit=sizes.limit,
            planted=False,
            effort=sizes.effort,
            seed=self.seed,
            command=self.command,
        )
        rows = {worst.eps_text: worst for worst in found.worst_case if worst.norm == "Linf"}
        return {
            "given": _diagonal(found.confusion),
            "harm": {text: _harm(worst.confusion) for text, worst in rows.items()},
            "failed": [control.name for control in found.controls if control.passed is False],
        }

    def _guard(self, defence: Defence) -> Guard:
        classifier, cushion = self.network(defence.network), parse_cushion(defence.cushion)
        config = shield_config("strong", classifier, updates=self.sizes.updates, seed=self.seed)
        faster = {"width": 16, "lr": 4e-3, "average": 0.97, "eps_growth": 0.8, "inner_steps": 5, "watch_every": 0}
        config = config.model_copy(update={**faster, "inner_step": (0.2, 0.4)})
        first = fit_guard(
            self.network("plain"),
            self.dataset,
            self.split,
            cushion=parse_cushion("none"),
            config=config,
            out_dir=self.work / "guard",
        )
        if (defence.network, defence.cushion) == ("plain", "none"):
            return first
        out = self.work / f"guard-{defence.network}-{_named(defence.cushion)}"
        if out.exists():
            return Guard.load(out, factory=small)
        return refit_guard(first, classifier, self.dataset, self.split, cushion=cushion, out_dir=out)


def _named(cushion: str) -> str:
    return cushion.replace(":", "-")


def _told(found: Any) -> dict[str, Any]:
    return {"share": found.share, "interval": list(found.interval)}


def _diagonal(confusion: dict[str, list[int]]) -> float:
    """Share of all images that are diagnosed rightly and given out."""
    rows = list(confusion.values())
    return sum(row[k] for k, row in enumerate(rows)) / sum(map(sum, rows))


def _harm(confusion: dict[str, list[int]]) -> float:
    """Share of all images of which a wrong diagnosis is given out."""
    rows = list(confusion.values())
    return sum(sum(row[:-1]) - row[k] for k, row in enumerate(rows)) / sum(map(sum, rows))


def run(sizes: Sizes, work: Path, seed: int, command: str) -> dict[str, Any]:
    """All rows, in turn."""
    bench, rows = Bench(sizes, work, seed, command), []
    for defence in DEFENCES:
        row = {"name": defence.name, **bench.alone(defence), "shield": bench.shielded(defence)}
        if defence.cushion.startswith("vote"):
            row["votes"] = bench.votes(defence)
        rows.append(row)
        print(f"{defence.name}: {json.dumps({k: v for k, v in row.items() if k != 'name'})}", flush=True)
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "data": sizes.spec,
        "pixels": sizes.pixels,
        **environment(),
        "rows": rows,
    }


def tables(content: dict[str, Any]) -> str:
    """The tables as Markdown."""
    rows = content["rows"]
    about = (
        f"`{content['command']}`, commit {content['commit'][:7]}, {content['data']} at {content['pixels']} px, "
        f"{rows[0]['n']} test images, seed {content['seed']}, {content['date']}."
    )
    alone = [
        [row["name"], _range(row["clean"]), _range(row["unaware"]), *(_range(row["worst"][text]) for text in EPS)]
        for row in rows
    ]
    shielded = [
        [
            row["name"],
            _percent(row["shield"]["given"]),
            *(f"{_percent(1 - row['worst'][text]['share'])} → {_percent(row['shield']['harm'][text])}" for text in EPS),
        ]
        for row in rows
    ]
    votes = [
        f"{row['name']}: {_percent(row['votes']['right'])} of the votes for a right diagnosis of a clean image, "
        f"{_percent(row['votes']['fooled'])} for a wrong one after an attack at 8/255 (medians)."
        for row in rows
        if "votes" in row
    ]
    failed = [
        f"Controls that failed, {row['name']}: {', '.join([*row['failed'], *row['shield']['failed']])}."
        for row in rows
        if row["failed"] or row["shield"]["failed"]
    ]
    return "\n".join(
        [
            about,
            "",
            "**Right diagnoses without a Shield**, of all images, with 95 % intervals:",
            "",
            *_table(("defence", "clean", "8/255, unaware", *(f"{text}, worst case" for text in EPS)), alone),
            "",
            "**Wrong diagnoses given out, without → with a Shield**, of all images, in the worst case:",
            "",
            *_table(("defence", "clean: right and given out", *EPS), shielded),
            "",
            *(f"- {line}" for line in [*votes, *failed]),
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _range(told: dict[str, Any]) -> str:
    low, high = told["interval"]
    return f"{_percent(told['share'])} ({100 * low:.0f}–{100 * high:.0f})"


def with_tables(page: str, content: dict[str, Any]) -> str:
    """The page with these tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(content)}\n{END}{after}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/defences"), help="networks, guards, attacked images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; prints the tables only")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    content = run(
        QUICK if given.quick else Sizes(),
        given.work,
        given.seed,
        shlex.join(["python", "-m", "benchmarks.defences", *arguments]),
    )
    if given.quick:
        print(tables(content))
        return
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
