"""Folders of plain files from outside: listed, read and replaced so that no link, pipe or race gets in between."""

import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from medaegis.errors import ArtefactError

AGAIN = "copy the folder again from where it was made, or make it again"
DISK = "check the disk's space and the rights on the folder"


def list_files(root: Path, *, limit: int) -> set[str]:
    """Names in a folder; ArtefactError if it holds anything but regular files, or more than `limit` of them."""
    names: set[str] = set()
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_symlink() or not entry.is_file(follow_symlinks=False):
                    what = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "special file"
                    raise ArtefactError(root, f"holds a {what}, {listed([entry.name])}, and may hold files only", AGAIN)
                names.add(entry.name)
                if len(names) > limit:
                    raise ArtefactError(root, f"holds more than {limit} files", AGAIN)
    except NotADirectoryError:
        raise ArtefactError(root, "is a file, not a folder" + guise_of(root), "give the folder's path") from None
    except FileNotFoundError:
        left = sorted(root.parent.glob(f".{glob.escape(root.name)}.old-*"))
        hint = f"a replacement was interrupted: rename {left[-1]} back" if left else "check the path"
        raise ArtefactError(root, "does not exist", hint) from None
    except OSError as error:
        raise ArtefactError(root, f"cannot be listed: {error.strerror}", DISK) from None
    return names


def read_file(file: Path, *, limit: int, size: int | None = None) -> bytes:
    """The bytes of a file, read once, none of them if it is larger than `limit` or not of the `size` expected."""
    try:
        with _open(file) as stream:
            found = os.fstat(stream.fileno()).st_size
            if size is not None and found != size:
                raise changed(file, f"{found} bytes in place of {size}", stream.read(16))
            if found > limit:
                raise ArtefactError(file, f"has {found} bytes, more than the {limit} allowed", AGAIN)
            data = stream.read(found + 1)
    except FileNotFoundError:
        raise ArtefactError(file, "is missing", AGAIN) from None
    except OSError as error:
        raise ArtefactError(file, f"cannot be read: {error.strerror}", DISK) from None
    if len(data) != found:
        raise changed(file, "it changed while it was read", data)
    return data


def check_place(path: Path | str, *, folder: bool = True) -> None:
    """Whether a folder (or a file, not `folder`) can be written here, asked before the work; nothing is made.

    Raises:
        ArtefactError: a file in place of a folder or the reverse, or nothing can be written in the folder that is to
            hold it.
    """
    remedy = f"name a {'folder' if folder else 'file'} that you may write to"
    target = Path(os.path.realpath(path))
    if not folder and os.path.isdir(target):
        raise ArtefactError(path, "is a folder", remedy)
    start = target if folder else target.parent
    above = next((place for place in (start, *start.parents) if os.path.lexists(place)), Path(start.anchor))
    if not os.path.isdir(above):
        raise ArtefactError(path, "is a file" if above == target else f"{above} is a file", remedy)
    try:
        # Tried, not looked up: rights say little of a disk mounted read-only, of /proc, or to root.
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ArtefactError(path, f"nothing can be written in {above} ({error.strerror})", remedy) from None


def put_in_place(target: Path, files: Mapping[str, bytes]) -> None:
    """Writes beside the target, then renames; a kill between two renames leaves the old folder as `.NAME.old-*`.

    Names may have folders before them, as `a/b.html`; nobody from outside may choose them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    new, old = (target.with_name(f".{target.name}.{state}-{token}") for state in ("new", "old"))
    new.mkdir()
    try:
        for name, data in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            with open(new / name, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        sync(new)
        replacing = target.exists()
        try:
            if replacing:
                target.rename(old)
            new.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync(target.parent)
    if replacing:
        shutil.rmtree(old)


def changed(file: Path, how: str, data: bytes) -> ArtefactError:
    """The error for a file that is not as it was written, in which bytes `data` were found."""
    return ArtefactError(file, f"changed since it was written: {how}{guise(data)}", AGAIN)


def guise(data: bytes) -> str:
    """What the bytes pretend to be, for a message; a safetensors header starts with `{` at byte 8."""
    if data[8:9] != b"{":
        if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return "; it is a Python pickle, which can run code when loaded, and was not opened"
        if data[:4] == b"PK\x03\x04":
            return "; it is a zip archive such as torch.save writes, which can run code when loaded, and was not opened"
    return ""


def guise_of(file: Path) -> str:
    """As `guise`, for a file that is not read otherwise."""
    try:
        with _open(file) as stream:
            return guise(stream.read(16))
    except OSError:
        return ""  # only words are at stake: the file is refused either way


def listed(names: Iterable[str]) -> str:
    """File names for a message; they come from outside, so control characters are escaped and long lists cut."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if ordered[5:] else ""
    return ", ".join(ascii(name)[:80] for name in ordered[:5]) + more


def _open(file: Path) -> BinaryIO:
    """Opens a regular file for reading; follows no link, waits for no pipe."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtefactError(file, "is no regular file", AGAIN)
    return open(descriptor, "rb")


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk, before something points at it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place is an error, and not waited for
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
