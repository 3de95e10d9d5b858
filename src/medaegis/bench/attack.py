"""One attack on a guard's test images, written as lossless files: what `medaegis attack` makes."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from medaegis.attacks.known import Known
from medaegis.bench.campaign import Campaign, guard_key
from medaegis.bench.outcome import broken_by, pixels_of
from medaegis.bench.plan import Planned
from medaegis.bench.records.archive import replace_file
from medaegis.bench.sample import Sample, check_images
from medaegis.bench.store import Piece, Store
from medaegis.bench.surrogates import surrogate_of
from medaegis.cushions import DrawnCushion
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress, Resumed, silent

RECORD = "attack.json"


def attack_guard(
    guard: Guard,
    site: Site,
    planned: Planned,
    *,
    out_dir: Path,
    surrogates: Sequence[Classifier] = (),
    targeted: bool = True,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Attack the test images that the guard diagnoses rightly; writes a PNG each, attack.csv and attack.json.

    Called again after a kill it goes on where it was.

    Args:
        planned: the attack; `transferred` if it is made on the surrogates.
        targeted: each image towards a wrong class drawn for it, which alone counts; else to any.
        limit: draw at most so many test images, classes in proportion.

    Returns:
        What attack.json holds.

    Raises:
        ConfigError: the folder holds another attack; surrogates without a transferred attack, or the other way round.
        DataError: the images are not of the guard's kind, or none is diagnosed rightly.
    """
    check_images(guard.classifier, site.dataset, site.split, limit, "guard")
    if (out_dir / RECORD).exists():
        raise ConfigError(f"--out {out_dir}", f"holds another attack ({RECORD})", "name another folder")
    surrogate = surrogate_of(surrogates, guard.classifier)
    if (surrogate is not None) != planned.transferred:
        raise ConfigError("surrogates", "an attack is made on them, or on the guard", "give both or neither")
    dataset, split = site.dataset, site.split
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    campaign = Campaign(
        guard.victim(),
        Sample.draw(
            dataset.subset(split.adv_test), lambda x, ids: guard.judge(x, ids=ids, seed=seed), limit=limit, seed=seed
        ),
        store,
        guard_key(guard, seed),
        "drawn class" if targeted else "any wrong class",
        known=Known(dataset.subset([*split.train, *split.adv_train]), seed=seed),
        surrogate=surrogate,
    )
    piece = campaign.attack(planned, progress)
    seconds, forwards, backwards = piece["cost"].sum(0).tolist()
    told: dict[str, Any] = {
        "attack": planned.attack,
        "eps": planned.eps_text,
        "steps": planned.value.steps,
        "restarts": planned.value.restarts,
        "targeted": targeted,
        "gradient": planned.gradient,
        "samples": planned.samples,
        "surrogates": [classifier.backbone for classifier in surrogates],
        "seed": seed,
        "guard": guard.digest,
        "images": len(campaign),
        "fooled": int(piece["fooled"].sum()),
        "undetected": int(broken_by(piece).sum()),
        "stood_still": int(piece["still"].sum()),
        "forwards": int(forwards),
        "backwards": int(backwards),
        "seconds": round(seconds, 1),
    }
    _write(out_dir, guard, campaign.sample, piece, told)
    shutil.rmtree(store.folder)  # all that was stored is written; the folder is for images
    return told


def _write(out_dir: Path, guard: Guard, sample: Sample, piece: Piece, told: dict[str, Any]) -> None:
    """The images as PNG, attack.csv with a line each, attack.json last."""
    eps = str(told["eps"]).replace("/", "of")
    cushion = guard.victim().drawn(sample.ids, seed=sample.seed).cushion
    draws = cushion.specs if isinstance(cushion, DrawnCushion) else []  # those that judge
    table, broken = [], broken_by(piece)
    for i, (row, image) in enumerate(zip(sample.rows.tolist(), pixels_of(piece), strict=True)):
        name = f"{told['attack']}-{eps}-{int(sample.ids[i]):06d}.png"
        replace_file(out_dir / name, png(image))
        table.append(
            {
                "file": name,
                "source": sample.test.names[row],
                "label": sample.test.classes[int(sample.labels[i])],
                "predicted": guard.classes[int(piece["predicted"][i])],
                "suspicion": float(piece["score"][i]),
                "accepted": bool(piece["accepted"][i]),
                "fooled": bool(piece["fooled"][i]),
                "undetected": bool(broken[i]),
                **({"cushion": draws[i]} if draws else {}),
            }
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    replace_file(out_dir / "attack.csv", text.getvalue().encode("utf-8", "backslashreplace"))
    replace_file(out_dir / RECORD, json.dumps(told, indent=2).encode())


def png(image: Tensor) -> bytes:
    """A lossless file of `(1 or 3, H, W)` in [0, 1]."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
