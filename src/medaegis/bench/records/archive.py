"""An evaluation folder: evaluation.json (see `evaluation`) and two safetensors files, read and written whole.

Nothing in it is executed; whatever does not fit is one DataError that names the file and the field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from medaegis.bench.records.evaluation import Evaluation, Measured
from medaegis.errors import DataError
from medaegis.provenance import environment

Array = npt.NDArray[Any]
Record = TypeVar("Record", bound=BaseModel)

VIEWS = ("clean", "adversarial", "cushioned")
SHOWN_PROBLEMS = 12
UNFINISHED = "unfinished.json"  # in the folder of an evaluation that has begun
PAGES = ("report.html", "report.verdict.html")  # what `medaegis report` writes into the folder


@dataclass(frozen=True)
class EvaluationFolder:
    """An evaluation with its arrays.

    scores: "clean" float32, of clean images diagnosed rightly, "clean/wrong" of the others, "<cell id>" float32 (n,),
    "<cell id>/fooled" uint8 (n,); higher = more suspicious, +inf where the guard withheld for an error. examples:
    "<cell id>/clean", "/adversarial", "/cushioned" (the adversarial image after the Cushion), each uint8 (k, C, H, W)
    with k = the number of the cell's examples; "through/clean" and "through/adversarial" likewise; "corruptions/…" as
    `Corrupted` says.
    """

    evaluation: Evaluation
    scores: Mapping[str, Array]
    examples: Mapping[str, Array]


def read_evaluation(folder: Path | str) -> EvaluationFolder:
    """Reads and checks an evaluation folder. Raises DataError that names the file and what does not fit in it."""
    folder = Path(folder)
    path = folder / "evaluation.json"
    pieces = len(list((folder / "pieces").glob("*.safetensors")))
    if (folder / UNFINISHED).exists() or (pieces and not path.exists()):
        problem = f"this evaluation is not finished: {pieces} pieces are measured, and its figures are not there yet"
        raise DataError(folder, problem, "call the same `medaegis evaluate` again; it goes on where it was")
    evaluation = read_record(path, Evaluation, "evaluate")
    kept = evaluation.through or evaluation.corruptions or any(cell.examples for cell in evaluation.cells)
    examples = _arrays(folder / "examples.safetensors") if kept else {}
    found = EvaluationFolder(evaluation, _arrays(folder / "scores.safetensors"), examples)
    _check(found, folder)
    return found


def read_record(path: Path, model: type[Record], verb: str) -> Record:
    """Reads and checks a record as JSON. Raises DataError that names the file and every field that does not fit.

    Args:
        verb: the command that writes such records.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise DataError(path, problem, f"name a folder that `medaegis {verb}` wrote") from error
    except ValidationError as error:
        remedy = f"write the folder again with `medaegis {verb}`, or mend the fields named"
        raise DataError(path, _problems(error), remedy) from error


def write_evaluation(folder: Path | str, found: EvaluationFolder) -> None:
    """Writes an evaluation folder, evaluation.json last, each file whole or not at all; pages of earlier figures go.

    Raises DataError when an array is missing, misshapen or holds NaN.
    """
    folder = Path(folder)
    _check(found, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (folder / page).unlink(missing_ok=True)
    for name, arrays in (("scores", found.scores), ("examples", found.examples)):
        replace_file(folder / f"{name}.safetensors", save({key: np.ascontiguousarray(a) for key, a in arrays.items()}))
    (folder / UNFINISHED).unlink(missing_ok=True)
    write_record(folder / "evaluation.json", found.evaluation)


def begin_evaluation(folder: Path, command: str) -> None:
    """Marks a folder until `write_evaluation` is through, so that nobody takes an earlier call's figures for these."""
    replace_file(folder / UNFINISHED, json.dumps({"command": command}).encode())


def _problems(error: ValidationError) -> str:
    """Every problem as `cells[3].auroc: <what>`, the first few of them."""
    lines = []
    for found in error.errors(include_url=False, include_context=False):
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found["loc"])
        lines.append(f"{steps.lstrip('.') or 'the file'}: {found['msg'][:1].lower()}{found['msg'][1:]}")
    more = [f"and {len(lines) - SHOWN_PROBLEMS} more"] if len(lines) > SHOWN_PROBLEMS else []
    return ", ".join(lines[:SHOWN_PROBLEMS] + more)


def _check(found: EvaluationFolder, folder: Path) -> None:
    cells = found.evaluation.cells
    path = folder / "scores.safetensors"
    for key, n in [("clean", None), *((cell.id, cell.n) for cell in cells)] if cells else []:
        array = found.scores.get(key)
        if array is None or array.ndim != 1 or array.dtype != np.float32 or n not in (None, len(array)):
            raise _misfit(path, key, f"float32 ({'n' if n is None else n},)", array)
        if np.isnan(array).any():
            raise DataError(path, f"{key}: holds NaN", "write +inf where the guard withheld for an error")
    for cell in cells:
        fooled = found.scores.get(f"{cell.id}/fooled")
        if fooled is None or fooled.shape != (cell.n,) or fooled.dtype != np.uint8:
            raise _misfit(path, f"{cell.id}/fooled", f"uint8 ({cell.n},)", fooled)
        if cell.examples:
            _check_examples(found.examples, cell.id, len(cell.examples), VIEWS, folder / "examples.safetensors")
    if through := found.evaluation.through:
        _check_examples(found.examples, "through", len(through), VIEWS[:2], folder / "examples.safetensors")
    for name in {row.name for row in found.evaluation.corruptions}:
        k = max(row.severity for row in found.evaluation.corruptions if row.name == name) or 1
        _check_examples(found.examples, "corruptions", k, (name,), folder / "examples.safetensors")


def _check_examples(examples: Mapping[str, Array], name: str, k: int, views: Sequence[str], path: Path) -> None:
    first = examples.get(f"{name}/{views[0]}")
    shape = None if first is None else first.shape
    for view in views:
        pixels = examples.get(f"{name}/{view}")
        fits = pixels is not None and pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape == shape
        if pixels is None or not fits or pixels.shape[0] != k or pixels.shape[1] not in (1, 3) or not pixels.size:
            raise _misfit(path, f"{name}/{view}", f"uint8 ({k}, 1 or 3, H, W), all views alike", pixels)


def _misfit(path: Path, key: str, wanted: str, array: Array | None) -> DataError:
    given = "nothing" if array is None else f"{array.dtype} {array.shape}"
    return DataError(path, f"{key}: expected {wanted}, got {given}", "write the folder again with `medaegis evaluate`")


def _arrays(path: Path) -> Mapping[str, Array]:
    try:
        arrays: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"cannot be read ({error})", "write the folder again with `medaegis evaluate`") from error
    return arrays


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at once or not at all; where the disk is full, nothing of it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_record(path: Path, record: Measured) -> None:
    """Write a record as JSON, at once or not at all."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(path, text.encode())


def provenance(seed: int, command: str, device: torch.device) -> dict[str, Any]:
    """The fields of `Measured`, as of now and on this machine; take it before the work begins."""
    about = environment()
    return {
        "created": datetime.now(UTC).replace(microsecond=0),
        "seed": seed,
        "versions": about["versions"],
        "machine": about["machine"],
        "device": str(device),
        "command": command,
        "commit": about["commit"],
    }
