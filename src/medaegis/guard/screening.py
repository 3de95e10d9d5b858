"""Screening files: every frame of every file through the guard, unreadable ones told, rejected ones set aside."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medaegis.cushions import Cushion
from medaegis.errors import ArtefactError, ConfigError, ImageError, UnsupportedError
from medaegis.guard.finding import Finding
from medaegis.guard.quarantine import keep_mask, set_aside
from medaegis.images import Picture, model_input, read_frames, read_image, search_images
from medaegis.images.kinds import Kind
from medaegis.images.limits import taking_turns
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress
from medaegis.provenance import cores

READERS = 16
FRAMES_AT_ONCE = 16  # read of one file before others get their turn, and judged in one batch
FILES_AHEAD = 2  # for each reader

Status = Literal["accepted", "rejected", "failed", "unsupported", "unreadable"]
SET_ASIDE = ("rejected", "failed")


class Judge(Protocol):
    """What screening asks of a guard."""

    classifier: Classifier
    cushion: Cushion

    def unsuited(self, kind: Kind | None) -> str | None: ...

    def inspect(
        self, images: Tensor, *, draws: Sequence[str] | None = None, timeout: float | None = None
    ) -> list[Finding]: ...


@dataclass(frozen=True)
class Screened:
    """What came of one frame of a file, or of a place that cannot be looked at.

    >>> import tempfile, medaegis as ma
    >>> from PIL import Image
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("L", (40, 30), 128).save(file.name)
    ...     (one,) = guard.screen(file.name)
    >>> type(one).__name__, one.status, one.diagnosis, one.finding.reason
    ('Screened', 'rejected', None, 'blank')

    Attributes:
        frames: how many the file has; 0 if it cannot be read.
        status: "accepted"; "rejected" by the Shield; "failed" in the guard; "unsupported", a kind of picture that the
            guard is not for; "unreadable". All but the first withhold.
        finding: of the guard; None for an unsupported or unreadable file.
        error: why it is unsupported, or cannot be read.
        other_kind: why it would be unsupported, were it not judged by request.
        copy: where the file was copied to because of this frame.
        uncopied: why it could not be.
        classes: of a guard for masks, what its masks may show; None where it gives diagnoses.
        mask_file: where the mask was written to.
        unwritten: why it could not be.
        draw: where the guard's Cushion is random, how the finding's cushion came about: "fresh", or "given" by the
            caller.
    """

    path: Path
    frame: int
    frames: int
    status: Status
    finding: Finding | None = None
    error: ImageError | None = None
    other_kind: str | None = None
    copy: Path | None = None
    uncopied: str | None = None
    classes: tuple[str, ...] | None = None
    mask_file: Path | None = None
    unwritten: str | None = None
    draw: Literal["fresh", "given"] | None = None

    @property
    def reason(self) -> str:
        """Why it has this status, in words."""
        return self.error.problem if self.error else self.finding.detail if self.finding else ""

    @property
    def diagnosis(self) -> str | None:
        """The class, if the image was accepted, otherwise None: withheld."""
        return self.finding.diagnosis if self.finding else None

    def record(self) -> dict[str, str | int | float | None]:
        """For tables and programs; no class is named, and nothing of a mask, unless the image was accepted."""
        finding = self.finding
        drawn = {"cushion": finding.cushion if finding else None, "draw": self.draw} if self.draw else {}
        return {
            "file": os.fspath(self.path),
            "frame": self.frame,
            "frames": self.frames,
            "status": self.status,
            **(self._diagnosed() if self.classes is None else self._masked(self.classes)),
            "suspicion": finding.score if finding else None,
            "reason": self.reason,
            "other_kind": self.other_kind,
            "remedy": self.error.remedy if self.error else None,
            "quarantined_as": os.fspath(self.copy) if self.copy else None,
            "not_quarantined": self.uncopied,
            **drawn,
        }

    def _diagnosed(self) -> dict[str, str | float | None]:
        finding, diagnosis = self.finding, self.diagnosis
        probability = finding.probabilities[diagnosis] if finding and diagnosis is not None else None
        return {"diagnosis": diagnosis, "probability": probability}

    def _masked(self, classes: tuple[str, ...]) -> dict[str, str | float | None]:
        areas = self.finding.areas if self.finding else {}
        return {
            **{f"area_{name}": areas.get(name) for name in classes},
            "mask_sha256": self.finding.mask_sha256 if self.finding else None,
            "mask_file": os.fspath(self.mask_file) if self.mask_file else None,
            "mask_not_written": self.unwritten,
        }


@dataclass(frozen=True)
class _Frame:
    path: Path
    frame: int
    frames: int
    pixels: npt.NDArray[np.uint8] | ImageError
    other_kind: str | None = None


def screen(
    guard: Judge,
    paths: list[Path],
    *,
    frame: int | None,
    quarantine: Path | None,
    masks: Path | None,
    draw: str | None,
    any_kind: bool,
    timeout: float | None,
    progress: Progress,
) -> Iterator[Screened]:
    """`Guard.screen`: finds the files at once, judges them as the records are asked for."""
    files, missed = search_images(paths)
    for folder in (quarantine, masks):
        if folder is not None:
            kept = folder.resolve()  # a link in it is in it, wherever it points
            files = [path for path in files if kept not in (path.parent.resolve() / path.name).parents]
    if not files and not missed:
        raise ConfigError(", ".join(map(str, paths)), "no image in it", "name image files or a folder that holds some")
    how: Literal["fresh", "given"] | None = None
    if guard.cushion.random:
        how = "fresh" if draw is None else "given"

    classes = guard.classifier.classes if guard.classifier.task.name == "dense" else None
    if masks is not None and classes is None:
        raise ConfigError("masks", "this guard gives diagnoses and no masks", "leave it out")

    def found() -> Iterator[Screened]:
        copies: dict[Path, Path | str] = {}
        for done, frames in _read(guard, files, frame, any_kind=any_kind):
            # Frames of one file only: with what a picture is judged must not depend on which files were read sooner.
            for one in _judged(guard, frames, draw, timeout):
                one = one if quarantine is None else _set_aside(one, quarantine, copies)
                one = one if masks is None else _with_mask(one, masks, len(guard.classifier.classes))
                yield replace(one, draw=how, classes=classes)
            progress(done, len(files), "files screened")
        for error in missed:
            yield Screened(Path(error.source), 0, 0, "unreadable", error=error, draw=how, classes=classes)

    return found()


def _read(guard: Judge, paths: list[Path], frame: int | None, *, any_kind: bool) -> Iterator[tuple[int, list[_Frame]]]:
    """How many files are read to their end, and some frames of one file, as they are read."""
    waiting = iter(paths)
    reading: dict[Future[list[_Frame]], Iterator[_Frame]] = {}  # in the order in which they were asked for
    readers = min(READERS, cores())
    pool, done = ThreadPoolExecutor(readers), 0

    def ask(frames: Iterator[_Frame]) -> None:
        reading[pool.submit(lambda: list(islice(frames, FRAMES_AT_ONCE)))] = frames

    try:
        while True:
            for path in islice(waiting, FILES_AHEAD * readers - len(reading)):
                ask(_frames(path, frame, guard, any_kind=any_kind))
            if not reading:
                return
            wait(reading, return_when=FIRST_COMPLETED)
            for future in [future for future in reading if future.done()]:
                frames, part = reading.pop(future), future.result()
                if len(part) == FRAMES_AT_ONCE:
                    ask(frames)
                else:
                    done += 1
                yield done, part
    finally:
        pool.shutdown(cancel_futures=True)


def _frames(path: Path, frame: int | None, guard: Judge, *, any_kind: bool) -> Iterator[_Frame]:
    """One frame of a file, or all; a frame that cannot be read does not keep the others from being judged.

    A file of another kind than the guard is for is one such frame.
    """
    source = read_frames(path) if frame is None else _one(path, frame)
    frames, number = 0, frame or 0
    while True:
        other_kind = None
        pixels: npt.NDArray[np.uint8] | ImageError
        with taking_turns():
            try:
                picture = next(source, None)
                if picture is None:
                    return
                if isinstance(picture, ImageError):
                    pixels = picture
                else:
                    frames = picture.frames
                    other_kind = guard.unsuited(picture.kind)
                    pixels = _input(picture, path, guard, None if any_kind else other_kind)
            except Exception as error:  # whatever a picture brings about, the others are judged
                problem = f"it cannot be made ready for the network ({type(error).__name__})"
                pixels = ImageError(path, problem, "copy or export it again")
            picture = None
        yield _Frame(path, number, frames, pixels, other_kind)
        if isinstance(pixels, UnsupportedError):
            return
        number += 1


def _input(picture: Picture, path: Path, guard: Judge, refused: str | None) -> npt.NDArray[np.uint8] | ImageError:
    if refused is not None:
        remedy = "use a guard for such pictures, or --any-kind (any_kind=True) to judge it all the same"
        return UnsupportedError(path, refused, remedy)
    return model_input(picture, size=guard.classifier.size, channels=guard.classifier.channels)


def _one(path: Path, frame: int) -> Iterator[Picture | ImageError]:
    try:
        yield read_image(path, frame=frame)
    except ImageError as error:
        yield error


def _judged(guard: Judge, frames: list[_Frame], draw: str | None, timeout: float | None) -> Iterator[Screened]:
    pixels = [one.pixels for one in frames if not isinstance(one.pixels, ImageError)]
    draws = None if draw is None else [draw] * len(pixels)
    images = torch.from_numpy(np.stack(pixels)).float().div(255) if pixels else None
    findings = iter([] if images is None else guard.inspect(images, draws=draws, timeout=timeout))
    for one in frames:
        if isinstance(one.pixels, ImageError):
            why: Status = "unsupported" if isinstance(one.pixels, UnsupportedError) else "unreadable"
            yield Screened(one.path, one.frame, one.frames, why, error=one.pixels)
            continue
        finding = next(findings)
        status: Status = "accepted" if finding.accepted else "failed" if finding.reason == "error" else "rejected"
        yield Screened(one.path, one.frame, one.frames, status, finding, other_kind=one.other_kind)


def _set_aside(one: Screened, folder: Path, copies: dict[Path, Path | str]) -> Screened:
    """With the place of the file's copy, or why there is none: the finding counts either way."""
    if one.status not in SET_ASIDE:
        return one
    if one.path not in copies:
        try:
            copies[one.path] = set_aside(one.path, folder)
        except ArtefactError as error:
            copies[one.path] = str(error)
    copy = copies[one.path]
    return replace(one, uncopied=copy) if isinstance(copy, str) else replace(one, copy=copy)


def _with_mask(one: Screened, folder: Path, classes: int) -> Screened:
    """With the place of its mask's file, or why there is none; of an image that is withheld there is no mask."""
    if one.finding is None or one.finding.mask is None:
        return one
    try:
        return replace(one, mask_file=keep_mask(one.finding.mask, folder, classes=classes))
    except ArtefactError as error:
        return replace(one, unwritten=str(error))
