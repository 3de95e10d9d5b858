"""Records of small runs on drawn X-rays, by a network and a guard that are kept beside them.

``python -m tests.golden.make`` writes FIGURES anew, where they are meant to change: name what changed in the changelog.
``python -m tests.golden.make --guard`` makes network and guard anew before. ``--compare`` writes nothing and prints
every figure that is not the same to the last bit: on one machine, all must be, whatever is moved in the code.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.arithmetic import in_float32
from tests.bench.small import CONFIG, data, learned
from tests.cli.shop import call
from tests.models.tiny_networks import tiny

from medaegis.cushions import parse_cushion
from medaegis.guard.fitting import fit_guard
from medaegis.images.datasets import load_dataset
from medaegis.images.splits import split_dataset
from medaegis.models.store import load_classifier

HERE = Path(__file__).parent
CLASSIFIER, GUARD, FIGURES = HERE / "classifier", HERE / "guard", HERE / "figures.json"
SPEC = "phantom-xray?n=240"
OWN = "tests.models.tiny_networks:tiny"
RUNS = {
    "evaluate": f"evaluate {GUARD} {SPEC} --attacks fgsm,pgd,wb --eps 4/256,8/256 --steps 6 --limit 24 --no-planted",
    "assess": f"assess {CLASSIFIER} {SPEC} --attacks fgsm,pgd,pgd-l2,square,deepfool,jsma --eps 4/256,8/256 --steps 6 "
    "--queries 40 --limit 24",
    "compare": f"compare {CLASSIFIER} {SPEC} --detectors kd,mahalanobis-layers,svm --attacks bim,hfc --eps 8/256 "
    "--steps 6 --limit 24",
    "analyse": f"analyse {GUARD} {SPEC} --attack wb --eps 8/256 --steps 4 --limit 24",
}
# What tells of the run and not of its result; and t-SNE, where the last bit of an image moves every point.
LEFT_OUT = {"versions", "machine", "tsne"}


def make_guard() -> None:
    """A small network trained here, wrapped as anybody's would be, and its guard."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        state = learned(*data(Path(folder))).network.state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, weights)
        options = f"--weights {weights} --classes clear,opacity --size 32 --channels gray --normalise imagenet"
        told = call("wrap", OWN, *options.split(), "--taps", "relu,last", "--data", SPEC, "--out", CLASSIFIER)
        assert told.exit_code == 0, told.output
    dataset = load_dataset(SPEC, size=32, channels="gray")
    fit_guard(
        load_classifier(CLASSIFIER, factory=tiny),
        dataset,
        split_dataset(dataset, seed=0),
        cushion=parse_cushion("jpeg:80"),
        config=CONFIG,
        out_dir=GUARD,
    )


def figures() -> dict[str, float]:
    """Every number of the four records, by run and place; an array by its mean, deviation, least and greatest value.

    In float32 on every machine.
    """
    found: dict[str, float] = {}
    with in_float32(), tempfile.TemporaryDirectory() as folder:
        for name, words in RUNS.items():
            out = Path(folder) / name
            told = call(*words.split(), "--factory", OWN, "--out", out)
            assert told.exit_code in (0, 1), told.output  # 1: a check failed, as it may on so few images
            for path in sorted(out.rglob("*.json")):
                if "manifest" not in path.name:
                    found.update(_numbers(json.loads(path.read_text()), f"{name}/{path.stem}"))
            for path in sorted(out.glob("*.safetensors")):
                for key, values in sorted(load_file(path).items()):
                    found.update(_summary(values.double(), f"{name}/{path.stem}/{key}"))
    return found


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in LEFT_OUT and "seconds" not in key:
                yield from _numbers(inner, f"{where}/{key}")
    elif isinstance(value, list):
        if len(value) > 8 and all(isinstance(one, int | float) for one in value):
            yield from _summary(torch.tensor(value, dtype=torch.float64), where)
        else:
            for place, inner in enumerate(value):
                yield from _numbers(inner, f"{where}/{place}")
    elif isinstance(value, int | float) and math.isfinite(value):
        yield where, float(value)


def _summary(values: torch.Tensor, where: str) -> Iterator[tuple[str, float]]:
    if values.numel():
        named = {
            "mean": values.mean(),
            "deviation": values.std(correction=0),
            "least": values.min(),
            "most": values.max(),
        }
        for name, value in named.items():
            yield f"{where}:{name}", float(value)


def main(words: list[str]) -> int:
    torch.set_num_threads(1)
    if "--guard" in words:
        make_guard()
    now = figures()
    if "--compare" not in words:
        FIGURES.write_text(json.dumps(now, indent=0, sort_keys=True) + "\n")
        return 0
    kept = json.loads(FIGURES.read_text())
    others = sorted(name for name in {*kept, *now} if kept.get(name) != now.get(name))
    for name in others:
        print(name, kept.get(name), now.get(name))
    return min(1, len(others))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
