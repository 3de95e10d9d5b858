"""What an evaluation has already measured: one small file per piece of work, so a killed run goes on where it was.

A piece is keyed by the hash of everything that its result depends on, the code included, so that what other code
measured is never taken for its own.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medaegis.bench.records.archive import replace_file

Piece = dict[str, Tensor]

BATCH = 32  # images attacked together, and at most so many between two savings
# Floating-point operations between two savings: under a minute on two slow cores; a GPU does a hundred times as many.
PIECE_FLOPS = {"cpu": 1e13, "cuda": 1e15}
# Whose sources decide what is stored, with FILES.
ROOMS = ("attacks", "corruptions", "cushions", "detectors", "guard", "models", "robust")
FILES = ("draws.py", "task.py", "bench/quality.py")


@cache
def code_fingerprint(root: Path = Path(__file__).parents[1], more: tuple[str, ...] = ()) -> str:
    """SHA-256 (hex) over the names of these sources and their code: the same on every machine that has this code.

    Comments and the words of docstrings do not count: whoever mends a sentence keeps what was measured.

    Args:
        more: further files, by their paths from the root.
    """
    told = hashlib.sha256()
    files = [root / name for name in (*FILES, *more)] + [file for room in ROOMS for file in (root / room).rglob("*.py")]
    sources = {file.relative_to(root).as_posix(): file for file in files}
    for name in sorted(sources):
        code = code_alone(sources[name].read_text(encoding="utf-8"))
        told.update(f"{name} {hashlib.sha256(code.encode()).hexdigest()}\n".encode())
    return told.hexdigest()


def code_alone(source: str) -> str:
    """Python source without its comments, and with empty docstrings: the same program.

    >>> code_alone('x = 1  # one\\n# two\\ny = "# three"\\n')
    'x = 1\\ny = "# three"\\n'
    """
    lines = io.StringIO(source).readlines()
    for kind, _, (row, column), *_ in tokenize.generate_tokens(io.StringIO(source).readline):
        if kind == tokenize.COMMENT:
            code = lines[row - 1][:column].rstrip()
            lines[row - 1] = f"{code}\n" if code else ""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            docstring = node.body[0]
            first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
            before = lines[first].encode()[: docstring.col_offset]
            after = lines[last - 1].encode()[docstring.end_col_offset :]
            if not before.strip() and not after.strip():  # on lines of its own
                lines[first:last] = [f'{before.decode()}""\n', *([""] * (last - first - 1))]
    return "".join(lines)


class Store:
    """Finished pieces in a folder; a half-written or damaged one is computed again.

    Attributes:
        begin: called before a piece is computed.
        spent_before: seconds that earlier calls spent on the pieces that were found here (first of their "cost").
    """

    def __init__(self, folder: Path, begin: Callable[[], None] = lambda: None) -> None:
        self.folder, self.spent_before, self.begin = folder, 0.0, begin
        self._counted: set[str] = set()

    def get(self, key: Mapping[str, Any], compute: Callable[[], Piece]) -> Piece:
        """The piece of `key` (plain JSON values), computed if it is not there yet."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        file = self.folder / f"{name}.safetensors"
        if file.is_file():
            try:
                piece = load_file(file)
            except SafetensorError:
                file.unlink()
            else:
                if "cost" in piece and name not in self._counted:
                    self.spent_before += float(piece["cost"][0, 0])
                self._counted.add(name)
                return piece
        self.begin()
        piece = compute()
        self._counted.add(name)
        replace_file(file, save({field: value.contiguous() for field, value in piece.items()}))
        return piece


def flops(judge: Callable[[Tensor], object], image: Tensor) -> int:
    """Floating-point operations of one verdict on `(1, C, H, W)`."""
    with FlopCounterMode(display=False) as counter:
        judge(image)
    return int(counter.get_total_flops())


def images_per_piece(passes: float, each: int, device: torch.device) -> int:
    """Images between two savings: counted, not timed, so that a run repeats exactly.

    Args:
        passes: forwards and backwards together that an image takes; each: operations of a verdict.
    """
    piece = PIECE_FLOPS["cpu" if device.type == "cpu" else "cuda"]
    return max(1, min(BATCH, int(piece / (1.5 * max(1.0, passes) * max(1, each)))))  # a backward takes two forwards
