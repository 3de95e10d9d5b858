"""Folders that hold classifiers and guards: safetensors and JSON, every byte accounted for, nothing in them executed.

Made for a hostile or damaged folder: each file is read once, checked against the manifest, and parsed from the very
bytes that were checked. The manifest vouches for the other files and for itself, an Ed25519 signature for its origin.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medaegis import signing
from medaegis.artefact_files import (
    MANIFEST,
    MAX_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_TOTAL_BYTES,
    STEM,
    encode,
    encode_files,
    parse_object,
    parse_tensors,
)
from medaegis.errors import ArtefactError, ConfigError
from medaegis.plainjson import decode_json, encode_json
from medaegis.provenance import versions
from medaegis.safefiles import AGAIN, DISK, changed, check_place, guise_of, list_files, listed, put_in_place, read_file
from medaegis.signing import generate_keypair

__all__ = [
    "RESERVED",
    "Folder",
    "check_other",
    "check_target",
    "digest",
    "generate_keypair",
    "kind_of",
    "read_folder",
    "write_folder",
]

FORMAT = "medaegis"
FORMAT_VERSION = 1
SIGNATURE = "manifest.sig"
WRITERS = {"classifier": "`medaegis train`", "guard": "`medaegis fit`"}
RESERVED = frozenset({"format", "format_version", "kind", "versions", "files", "signer", "checksum"})
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Folder:
    """A folder whose every byte has been checked.

    Attributes:
        path: where it was read from.
        manifest: the whole manifest: what the writer gave, and the entries named in `RESERVED`.
        digest: SHA-256 (hex) of the manifest and so, by the hashes in it, of the whole folder.
        signer: the Ed25519 public key (hex) whose signature fits, None for an unsigned folder. It says who signed,
            not that they may be trusted: only `read_folder(..., public_key=...)` does.
    """

    path: Path
    manifest: dict[str, Any]
    digest: str
    signer: str | None
    _tensors: Mapping[str, dict[str, Tensor]] = field(repr=False)
    _documents: Mapping[str, dict[str, Any]] = field(repr=False)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names that `tensors` knows, sorted."""
        return tuple(sorted(self._tensors))

    @property
    def document_names(self) -> tuple[str, ...]:
        """Names that `document` knows, sorted."""
        return tuple(sorted(self._documents))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`; ArtefactError if the folder has no such file."""
        if name not in self._tensors:
            raise ArtefactError(self.path, f"holds no tensors {name!r}, only {list(self.tensor_names)}", AGAIN)
        return dict(self._tensors[name])

    def document(self, name: str) -> dict[str, Any]:
        """The object in `<name>.json`; ArtefactError if the folder has no such file."""
        if name not in self._documents:
            raise ArtefactError(self.path, f"holds no document {name!r}, only {list(self.document_names)}", AGAIN)
        return dict(self._documents[name])


def write_folder(
    path: Path | str,
    *,
    kind: str,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Mapping[str, Any]] | None = None,
    signing_key: Path | str | None = None,
) -> None:
    """Writes a folder in one step: whoever looks sees the old content or the new, never a mixture.

    The same content gives the same bytes and so the same `digest`.

    Args:
        path: the folder; made with its parents. An intact list of files of the same kind is replaced; if anything
            else lies there, nothing is touched.
        kind: what it holds, such as "classifier" or "guard".
        manifest: entries of the caller, plain JSON values, none of them named as in `RESERVED`.
        tensors: name to tensors, each written to `<name>.safetensors`.
        documents: name to JSON object, each written to `<name>.json`.
        signing_key: Ed25519 private key (PEM) that signs the manifest; see `generate_keypair`.

    Raises:
        ConfigError: content that cannot be stored (names, values that are not JSON, tensors), or an unusable key.
        ArtefactError: the place holds something else, or the disk refuses.
    """
    target = Path(os.path.realpath(path))
    taken = sorted(RESERVED & set(manifest))
    if taken:
        raise ConfigError(f"manifest for {target.name}", f"the names {taken} are reserved", "rename these entries")
    key = None if signing_key is None else signing.load_signing_key(signing_key)
    files = encode_files(tensors, documents or {})
    content = {
        **manifest,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "versions": versions(),
        "signer": None if key is None else signing.key_text(key.public_key()),
        "files": {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()},
    }
    encoded = encode(MANIFEST, {**content, "checksum": _sha256(encode(MANIFEST, content))})
    if len(encoded) > MAX_MANIFEST_BYTES:
        raise ConfigError(MANIFEST, f"{len(encoded)} bytes, {MAX_MANIFEST_BYTES} allowed", "store more in a document")
    files[MANIFEST] = encoded
    if key is not None:
        files[SIGNATURE] = key.sign(encoded)
    check_target(target, kind=kind)
    try:
        put_in_place(target, files)
    except OSError as error:
        raise ArtefactError(target, f"could not be written: {error.strerror}", DISK) from None


def check_target(path: Path | str, *, kind: str, empty: bool = False, signing_key: Path | str | None = None) -> None:
    """Whether `write_folder` would write here, to be asked before hours of work as well; nothing is made.

    Args:
        path, kind, signing_key: as for `write_folder`.
        empty: a folder of the same kind is not to be replaced either.

    Raises:
        ArtefactError: the place holds something else, or nothing can be written there.
        ConfigError: an unusable key.
    """
    if signing_key is not None:
        signing.load_signing_key(signing_key)
    if not Path(path).name:
        raise ArtefactError(path, "has no name of its own to write beside", "name a folder in it")
    target = Path(os.path.realpath(path))
    check_place(target)
    check_place(target.parent)  # it is written beside the target, then renamed
    if os.path.lexists(target):
        _check_replaceable(target, None if empty else kind)


def check_other(path: Path | str) -> None:
    """Whether a folder can take files of other kinds, asked before the work; nothing is made.

    Raises:
        ArtefactError: it holds a guard or the like, which they would spoil, or nothing can be written there.
    """
    check_place(path)
    if os.path.lexists(Path(path) / MANIFEST):
        raise ArtefactError(path, f"holds a {MANIFEST} and what it vouches for", "name another folder")


def read_folder(path: Path | str, *, kind: str, public_key: Path | str | None = None) -> Folder:
    """Reads a folder and checks every byte of it; nothing in it is ever executed.

    Args:
        path: the folder. A link to it is followed; links inside it are refused.
        kind: what it must hold.
        public_key: Ed25519 public key (PEM). Given, an unsigned or otherwise signed folder is refused.

    Raises:
        ArtefactError: a changed byte, a missing or a foreign file, another kind or format version, a pickle or
            archive in place of safetensors, a link, a folder inside, an absurd size, a wrong signature.
        ConfigError: `public_key` is no Ed25519 public key.
    """
    root = Path(path)
    trusted = None if public_key is None else signing.key_text(signing.load_public_key(public_key))
    _check_made(root, kind)
    present = list_files(root, limit=MAX_FILES + 2)
    raw = read_file(root / MANIFEST, limit=MAX_MANIFEST_BYTES)
    signature = read_file(root / SIGNATURE, limit=signing.SIGNATURE_BYTES) if SIGNATURE in present else None
    if trusted is not None:  # before anything in it is interpreted
        _check_signature(root, raw, signature, trusted)
    manifest = _parse_manifest(root, raw, kind)
    signer = manifest["signer"]
    if signer is not None:
        _check_signature(root, raw, signature, signer)
    expected = _expected_files(root, manifest["files"])
    _compare_names(root, present, {MANIFEST, *expected, *([SIGNATURE] if signer else [])})

    tensors: dict[str, dict[str, Tensor]] = {}
    documents: dict[str, dict[str, Any]] = {}
    for name, (size, sha256) in expected.items():
        file = root / name
        data = read_file(file, limit=MAX_BYTES[file.suffix], size=size)
        if _sha256(data) != sha256:
            raise changed(file, "its SHA-256 is not the manifest's", data)
        if file.suffix == ".safetensors":
            tensors[file.stem] = parse_tensors(file, data)
        else:
            documents[file.stem] = parse_object(file, data)
    return Folder(root, manifest, _sha256(raw), signer, tensors, documents)


def digest(path: Path | str) -> str:
    """SHA-256 (hex) of a folder's manifest, which names the folder's whole content; checks nothing else."""
    _check_made(Path(path), *WRITERS)
    return _sha256(read_file(Path(path) / MANIFEST, limit=MAX_MANIFEST_BYTES))


def kind_of(path: Path | str) -> str:
    """The kind a folder's manifest names, to choose who shall read it; checks nothing else.

    Raises:
        ArtefactError: no folder, no manifest in it, or one that names no kind.
    """
    _check_made(Path(path), *WRITERS)
    file = Path(path) / MANIFEST
    kind = parse_object(file, read_file(file, limit=MAX_MANIFEST_BYTES)).get("kind")
    if not isinstance(kind, str):
        raise ArtefactError(path, "is not a folder made by this program", "give a folder that medaegis made")
    return kind


def _check_replaceable(target: Path, kind: str | None) -> None:
    """Refuses to replace anything but a folder of the same kind (None: nothing) with nothing else in it."""
    remedy = "choose another place, or move away what is there"
    present = list_files(target, limit=MAX_FILES + 2)
    if not present:
        return
    if kind is None:
        raise ArtefactError(target, "is not an empty folder", remedy)
    try:
        old = decode_json(read_file(target / MANIFEST, limit=MAX_MANIFEST_BYTES))
        ours = old["format"] == FORMAT and old["kind"] == kind
        strangers = sorted(present - {MANIFEST, SIGNATURE, *old["files"]})
    except (ArtefactError, ValueError, KeyError, TypeError):
        ours, strangers = False, []
    if not ours:
        raise ArtefactError(target, f"exists and is not a {kind} folder of this program", remedy)
    if strangers:
        raise ArtefactError(target, f"would be replaced, but also holds {listed(strangers)}", remedy)


def _check_made(root: Path, *kinds: str) -> None:
    """A folder without a manifest is most likely another one than was meant, not a copy that lost it."""
    try:
        os.lstat(root / MANIFEST)
    except OSError as error:
        if not isinstance(error, FileNotFoundError) or not os.path.isdir(root):
            list_files(root, limit=MAX_FILES + 2)  # says what is in the way
            return
        writers = " or ".join(WRITERS.get(kind, "this program") for kind in kinds)
        problem = f"is no {' or '.join(kinds)} folder ({MANIFEST} is missing)"
        raise ArtefactError(root, problem, f"name one that {writers} wrote") from None


def _parse_manifest(root: Path, raw: bytes, kind: str) -> dict[str, Any]:
    file = root / MANIFEST
    manifest = parse_object(file, raw)
    if manifest.get("format") != FORMAT:
        raise ArtefactError(root, "is not a folder made by this program", "give a folder that medaegis made")
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:  # true and 1.0 equal 1 as well
        given = f"is of format version {version!r:.20}, this program reads {FORMAT_VERSION}"
        raise ArtefactError(root, given, "install the medaegis that made it, or make it again with this one")
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    if manifest.get("checksum") != _sha256(encode_json(body)) or encode_json(manifest) != raw:
        raise changed(file, "its checksum does not fit", raw)
    signer = manifest.get("signer")
    if not set(manifest) >= RESERVED or not (signer is None or (isinstance(signer, str) and _HEX64.fullmatch(signer))):
        raise ArtefactError(file, "lacks entries that every manifest has", AGAIN)
    if manifest["kind"] != kind:
        problem = f"is a {manifest['kind']!r:.40} folder, a {kind!r} folder is needed"
        raise ArtefactError(root, problem, "give another path")
    return manifest


def _check_signature(root: Path, raw: bytes, signature: bytes | None, key: str) -> None:
    if signature is None:
        problem = f"is not signed ({SIGNATURE} is missing), a signature by {key[:16]}… is needed"
        raise ArtefactError(root, problem, AGAIN)
    if not signing.verifies(raw, signature, key):
        raise ArtefactError(root, f"its signature is not one by the key {key[:16]}…", AGAIN)


def _expected_files(root: Path, entries: Any) -> dict[str, tuple[int, str]]:
    """The manifest's list of files, name to (size, SHA-256), with every entry checked."""
    file = root / MANIFEST
    if not isinstance(entries, dict) or len(entries) > MAX_FILES:
        raise ArtefactError(file, f"has no list of at most {MAX_FILES} files", AGAIN)
    files: dict[str, tuple[int, str]] = {}
    for name, entry in entries.items():
        stem, suffix = os.path.splitext(name)
        if suffix not in MAX_BYTES or not STEM.fullmatch(stem) or name == MANIFEST:
            raise ArtefactError(file, f"lists {listed([name])}, which is no name for a file here", AGAIN)
        match entry:
            case {"size": int(size), "sha256": str(sha256), **rest} if (
                not rest and not isinstance(size, bool) and 0 <= size <= MAX_BYTES[suffix] and _HEX64.fullmatch(sha256)
            ):
                files[name] = size, sha256
            case _:
                raise ArtefactError(file, f"gives no usable size and SHA-256 for {listed([name])}", AGAIN)
    if sum(size for size, _ in files.values()) > MAX_TOTAL_BYTES:
        raise ArtefactError(file, f"lists more than {MAX_TOTAL_BYTES} bytes", AGAIN)
    return files


def _compare_names(root: Path, present: set[str], expected: set[str]) -> None:
    missing, foreign = expected - present, present - expected
    if missing:
        raise ArtefactError(root, f"lacks {listed(missing)}", AGAIN)
    if foreign:
        first = root / min(foreign)
        found = f"holds {listed(foreign)}, foreign to its manifest{guise_of(first)}"
        raise ArtefactError(root, found, "remove what does not belong there, or copy the folder again")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
