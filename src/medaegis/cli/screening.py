"""Screening files: every frame of every file through the guard, unreadable ones told, rejected ones set aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from medaegis.errors import ArtefactError, ImageError, UnsupportedError
from medaegis.guard.guard import Finding, Guard
from medaegis.images import model_input, read_image
from medaegis.progress import Progress, silent

FILES_AT_ONCE = 16

Status = Literal["accepted", "rejected", "failed", "unsupported", "unreadable"]
SET_ASIDE = ("rejected", "failed")


@dataclass(frozen=True)
class Screened:
    """What came of one frame of a file.

    Attributes:
        frames: how many the file has; 0 if it cannot be read.
        status: "accepted"; "rejected" by the Shield; "failed" in the guard; "unsupported", a kind of picture that the
            guard is not for; "unreadable". All but the first withhold.
        finding: of the guard; None for an unsupported or unreadable file.
        error: why it is unsupported, or cannot be read.
        other_kind: why it would be unsupported, were it not judged by request.
        copy: where a rejected file was copied to.
        draw: where the guard's Cushion is random, how the record's cushion came about: "fresh", or "given" (--draw).
    """

    path: Path
    frame: int
    frames: int
    status: Status
    finding: Finding | None = None
    error: ImageError | None = None
    other_kind: str | None = None
    copy: Path | None = None
    draw: Literal["fresh", "given"] | None = None

    @property
    def reason(self) -> str:
        """Why it has this status, in words."""
        return self.error.problem if self.error else self.finding.detail if self.finding else ""

    def record(self) -> dict[str, str | int | float | None]:
        """For tables and programs; no class is named unless the image was accepted."""
        finding = self.finding
        diagnosis = finding.diagnosis if finding else None
        drawn = {"cushion": finding.cushion if finding else None, "draw": self.draw} if self.draw else {}
        return {
            "file": os.fspath(self.path),
            "frame": self.frame,
            "frames": self.frames,
            "status": self.status,
            "diagnosis": diagnosis,
            "probability": finding.probabilities[diagnosis] if finding and diagnosis is not None else None,
            "suspicion": finding.score if finding else None,
            "reason": self.reason,
            "other_kind": self.other_kind,
            "remedy": self.error.remedy if self.error else None,
            "quarantined_as": os.fspath(self.copy) if self.copy else None,
            **drawn,
        }


@dataclass(frozen=True)
class _Frame:
    frame: int
    frames: int
    pixels: npt.NDArray[np.uint8] | ImageError
    other_kind: str | None = None


def screen_files(
    guard: Guard,
    paths: list[Path],
    *,
    frame: int | None = None,
    quarantine: Path | None = None,
    draw: str | None = None,
    any_kind: bool = False,
    timeout: float | None = None,
    progress: Progress = silent,
) -> Iterator[Screened]:
    """Judge files in their order, some at a time.

    Args:
        frame: the one to judge of each file; None: all.
        quarantine: files with a rejected or failed frame are copied there.
        draw: to repeat verdicts, what was drawn of a random Cushion; None: drawn anew for each image.
        any_kind: judge pictures that the guard is not for, too.
        timeout: seconds for each batch of images, see `Guard.inspect`.

    Raises:
        ArtefactError: the quarantine folder cannot be written to.
        ConfigError: a draw that the guard's Cushion never draws.
    """

    def read(path: Path) -> list[_Frame]:
        return list(_frames(path, frame, guard, any_kind=any_kind))

    how: Literal["fresh", "given"] | None = None
    if guard.cushion.random:
        how = "fresh" if draw is None else "given"
    with ThreadPoolExecutor(max_workers=min(FILES_AT_ONCE, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), FILES_AT_ONCE):
            part = paths[start : start + FILES_AT_ONCE]
            files = list(pool.map(read, part))
            pixels = [one.pixels for found in files for one in found if not isinstance(one.pixels, ImageError)]
            draws = None if draw is None else [draw] * len(pixels)
            images = torch.from_numpy(np.stack(pixels)).float().div(255) if pixels else None
            findings = iter([] if images is None else guard.inspect(images, draws=draws, timeout=timeout))
            for path, found in zip(part, files, strict=True):
                screened = [replace(_judged(path, one, findings), draw=how) for one in found]
                if quarantine is not None and any(one.status in SET_ASIDE for one in screened):
                    copy = set_aside(path, quarantine)
                    screened = [replace(one, copy=copy) for one in screened]
                yield from screened
            progress(min(start + FILES_AT_ONCE, len(paths)), len(paths), "files screened")


def _frames(path: Path, frame: int | None, guard: Guard, *, any_kind: bool) -> Iterator[_Frame]:
    """One frame of a file, or all; a frame that cannot be read does not keep the others from being judged.

    A file of another kind than the guard is for is one such frame.
    """
    frames, number = 0, frame or 0
    while True:
        try:
            picture = read_image(path, frame=number)
            frames = picture.frames
            other_kind = guard.unsuited(picture.kind)
            if other_kind is not None and not any_kind:
                remedy = "use a guard for such pictures, or --any-kind to judge it all the same"
                yield _Frame(number, frames, UnsupportedError(path, other_kind, remedy))
                return
            pixels = model_input(picture, size=guard.classifier.size, channels=guard.classifier.channels)
            yield _Frame(number, frames, pixels, other_kind)
        except ImageError as error:
            yield _Frame(number, frames, error)
        number += 1
        if frame is not None or number >= frames:
            return


def _judged(path: Path, one: _Frame, findings: Iterator[Finding]) -> Screened:
    if isinstance(one.pixels, ImageError):
        why: Status = "unsupported" if isinstance(one.pixels, UnsupportedError) else "unreadable"
        return Screened(path, one.frame, one.frames, why, error=one.pixels)
    finding = next(findings)
    status: Status = "accepted" if finding.accepted else "failed" if finding.reason == "error" else "rejected"
    return Screened(path, one.frame, one.frames, status, finding, other_kind=one.other_kind)


def set_aside(path: Path, folder: Path) -> Path:
    """Copy a file into a folder; another file of that name there is kept, an equal one is not copied again.

    Raises:
        ArtefactError: it cannot be written.
    """
    try:
        content = path.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        for turn in count():
            copy = folder / (path.name if turn == 0 else f"{path.stem}-{turn}{path.suffix}")
            try:
                with copy.open("xb") as stream:
                    stream.write(content)
            except FileExistsError:
                if copy.is_symlink() or not copy.is_file() or copy.read_bytes() != content:
                    continue
            return copy
    except OSError as error:
        problem = f"{path.name} cannot be copied there ({error.strerror})"
        raise ArtefactError(folder, problem, "name a folder with room that you may write to") from error
    raise AssertionError("count() never ends")
