"""The analysis folder: every figure as SVG and PNG, the numbers behind them, and one HTML page that opens offline."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from medaegis.bench.analyse import figures
from medaegis.bench.analyse.record import Analysis, Rings, arrays, numbers
from medaegis.bench.analyse.study import Study
from medaegis.bench.records.archive import read_record, replace_file
from medaegis.bench.report.pages import page_environment
from medaegis.bench.report.words import of, percent
from medaegis.errors import ArtefactError, DataError
from medaegis.safefiles import AGAIN, read_file

RECORD = "analysis.json"
MOST_BYTES = 32 * 2**20  # of a figure


@dataclass(frozen=True)
class FigureEntry:
    """One figure of the page: file name, heading, what it shows and how to read it, where it comes from."""

    name: str
    title: str
    draw: Callable[[Study, str], figures.Drawn | None]
    caption: str
    source: str


ENTRIES = (
    FigureEntry(
        "tsne",
        "Features, layer by layer",
        figures.tsne_figure,
        "Channel means of each layer, clean and attacked, drawn by t-SNE. Distances between far points mean nothing. "
        "“Told apart” is the share of images whose five nearest neighbours among the others, in the layer's own space, "
        "say rightly whether they are attacked: 50 % is chance.",
        "HFC fig. 1; Ma 2021 fig. 9; van der Maaten 2008",
    ),
    FigureEntry(
        "attention",
        "Where the network looks",
        figures.attention_figure,
        "Grad-CAM and saliency (largest derivative of a logit by a pixel) of the class diagnosed, before and after the "
        "attack. Each map is on its own scale, so brightness does not compare between maps. Right: the change, "
        "magnified about mid grey.",
        "Ma 2021 fig. 6 and 11; Selvaraju 2017; Simonyan 2014",
    ),
    FigureEntry(
        "activations",
        "Mean activation maps",
        figures.activation_figure,
        "Mean over the channels of each layer's output. Clean and attacked share a scale; the difference has its own.",
        "Ma 2021 fig. 6 and 10",
    ),
    FigureEntry(
        "landscape",
        "Loss landscapes",
        figures.landscape_figure,
        "The loss around an image (+) along the sign of its gradient and along random signs at right angles to it, "
        "through the Cushion if there is one. Every point is an 8-bit image. White: where the diagnosis turns wrong. "
        "Suspicion, where there are Shields: of the wanted class's, whose line at 1 parts accepted from rejected.",
        "Ma 2021 fig. 7, with a random orthogonal direction in place of a surrogate model's",
    ),
    FigureEntry(
        "direction",
        "The direction of the attack",
        figures.direction_figure,
        "Left: cosine of the penultimate features' shift with the last layer's weights of the wanted minus the true "
        "class. Middle: the same channel by channel, for the most frequent pair of classes. Right: mean cosine between "
        "the shifts that different attacks of the same size cause in the same images.",
        "HFC theorem 1 and fig. 2",
    ),
    FigureEntry(
        "stress",
        "Stress test",
        figures.stress_figure,
        "How far the mean activation of a layer can be driven up and down by BIM aimed at it, relative to that of the "
        "clean images; random noise of the same size for comparison. The scale is logarithmic beyond 10 %.",
        "HFC table 1; Medical Aegis table 1",
    ),
    FigureEntry(
        "spectra",
        "Spectra of the perturbation",
        figures.spectra_figure,
        "Left: mean power of each ring of the frequency plane; “after” is the difference between the cushioned "
        "attacked and the cushioned clean image, in which rounding adds differences of its own. Right: what of the "
        "perturbation is found again in that difference, by least squares at each frequency.",
        "Medical Aegis section 3.2",
    ),
)


def write_analysis(study: Study, folder: Path, *, about: Mapping[str, Any]) -> Path:
    """Write the folder and return the page's path.

    Args:
        about: facts on victim and data for the record: "victim", "data" and what else the caller knows.

    Raises:
        DataError: a number in it is not finite, so that no figure can be relied on.
    """
    try:
        record = json.dumps({**about, **numbers(study)}, allow_nan=False)
    except ValueError:
        raise DataError("analysis", "the classifier gives numbers that are not finite", "train it anew") from None
    origin = f"seed {study.plan.seed} · {about['victim']} · {about['data']}"
    shown = {}
    for entry in ENTRIES:
        drawn = entry.draw(study, origin)
        if drawn is None:
            continue
        replace_file(folder / f"{entry.name}.svg", drawn.svg)
        replace_file(folder / f"{entry.name}.png", drawn.png)
        shown[entry.name] = drawn.png
    page = _page(Analysis.model_validate_json(record), shown, in_folder=True)
    replace_file(folder / "analysis.safetensors", safetensors.torch.save(arrays(study)))
    replace_file(folder / RECORD, record.encode())
    replace_file(folder / "analysis.html", page.encode())
    return folder / "analysis.html"


def rewrite_page(folder: Path, out_html: Path) -> Analysis:
    """Write the page of an analysis folder anew, from its record and its figures alone, and return the record.

    So a folder from outside gives a page that holds nothing but text and pictures. Figures that are missing are left
    out.

    Raises:
        DataError: the record cannot be read or does not fit.
        ArtefactError: a figure that is no regular file, too large or no PNG.
    """
    found, shown = read_record(folder / RECORD, Analysis, "analyse"), {}
    for entry in ENTRIES:
        file = folder / f"{entry.name}.png"
        if os.path.lexists(file):
            shown[entry.name] = read_file(file, limit=MOST_BYTES)
            if not shown[entry.name].startswith(b"\x89PNG\r\n\x1a\n"):
                raise ArtefactError(file, "is no PNG", AGAIN)
    replace_file(out_html, _page(found, shown, in_folder=False).encode())
    return found


def _page(found: Analysis, pictures: Mapping[str, bytes], *, in_folder: bool) -> str:
    """The page of a record and its figures, PNG by name; in the folder it names the files beside it."""
    shown = [
        (entry, "data:image/png;base64," + base64.b64encode(pictures[entry.name]).decode())
        for entry in ENTRIES
        if entry.name in pictures
    ]
    told = {"facts": _facts(found), "findings": _findings(found), "has_head": found.direction is not None}
    return page_environment().get_template("analysis.html.j2").render(shown=shown, in_folder=in_folder, **told)


def _facts(found: Analysis) -> dict[str, str]:
    facts = {
        "Victim": found.victim,
        "Data": f"{found.data}, {found.n} test images diagnosed rightly before the attack",
        "Attack": f"{found.attack_line}, each image towards another class",
        "Seed": str(found.seed),
        "Fooled": of(found.fooled / found.n, found.n),
    }
    if found.undetected is not None:
        facts["Undetected"] = of(found.undetected / found.n, found.n)
    return facts


def _findings(record: Analysis) -> list[str]:
    """The figures in a sentence each."""
    deepest, cloud = list(record.tsne.items())[-1]
    found = [f"Nearest neighbours tell {percent(cloud.told_apart)} of the images apart at {deepest}."]
    cam = record.attention.grad_cam_correlation
    found.append(f"Grad-CAM before and after correlate by {sum(cam) / len(cam):.2f} on average.")
    if record.direction is not None:
        ends = record.direction.cosine[-1], record.direction.cosine_of_noise
        cosine, noise = (float(np.median(one)) for one in ends)
        found.append(
            f"In the median image the features' shift and the weights have a cosine of {cosine:.2f}; under noise of "
            f"the same size {noise:.2f}."
        )
    shares = [_share_passed(spectrum) for spectrum in (record.spectra.attack, record.spectra.noise)]
    if shares[0] is not None:
        found.append(
            f"Of the perturbation {percent(shares[0])} passes the Cushion {record.spectra.cushion}, of noise of the "
            f"same size {percent(shares[1])}."
        )
    return found


def _share_passed(told: Rings) -> float | None:
    if told.passed is None:
        return None
    weight = np.array(told.power) * told.count
    return float((np.array(told.passed) * weight).sum() / max(weight.sum(), 1e-300))
