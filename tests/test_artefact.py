"""Folders on disk against damage and malice, with real files; hashes and manifests are forged independently."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import struct
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medaegis import safefiles
from medaegis.artefact import (
    MANIFEST,
    RESERVED,
    SIGNATURE,
    check_other,
    check_target,
    digest,
    generate_keypair,
    kind_of,
    read_folder,
    write_folder,
)
from medaegis.errors import ArtefactError, ConfigError, MedaegisError
from medaegis.safefiles import check_place

CLASSIFIER = {"stem.weight": torch.arange(24.0).view(2, 3, 2, 2), "steps": torch.tensor(7)}
SHIELD = {"head.weight": torch.tensor([[0.5, -0.25]], dtype=torch.bfloat16)}
CONTENT = {
    "manifest": {"classes": ["NORMAL", "PNEUMONIA"], "thresholds": {"NORMAL": 0.93, "PNEUMONIA": -1e-7}},
    "tensors": {"classifier": CLASSIFIER, "shield-NORMAL": SHIELD},
    "documents": {"training": {"seconds": 12.5, "losses": [0.7, 0.1]}},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    write_folder(tmp_path / "guard", kind="guard", **CONTENT)
    return tmp_path / "guard"


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    return generate_keypair(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(tmp_path, keys) -> Path:
    write_folder(tmp_path / "guard", kind="guard", **CONTENT, signing_key=keys[0])
    return tmp_path / "guard"


def forge(folder: Path, entries: dict[str, object], *, write: dict[str, bytes] | None = None, drop: str = "") -> None:
    """What somebody without the signing key can do: change anything and make all hashes fit again."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for name, data in (write or {}).items():
        (folder / name).write_bytes(data)
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.update(entries)
    for name in ("checksum", drop):
        manifest.pop(name, None)
    encode = lambda value: (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()  # noqa: E731
    manifest["checksum"] = hashlib.sha256(encode(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(encode(manifest))


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# ---- what is written comes back


def test_the_kind_is_told_before_anything_else_is_read(folder, tmp_path):
    assert kind_of(folder) == "guard"
    write_folder(tmp_path / "other", kind="classifier", **CONTENT)
    assert kind_of(tmp_path / "other") == "classifier"
    for content in (b"{}", b'{"kind": 3}', b"[]", b"\x80\x04\x95"):
        (folder / MANIFEST).write_bytes(content)
        with pytest.raises(ArtefactError):
            kind_of(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(ArtefactError, match=r"manifest\.json"):
        kind_of(folder)


def test_round_trip(folder):
    read = read_folder(folder, kind="guard")
    assert {name: read.manifest[name] for name in CONTENT["manifest"]} == CONTENT["manifest"]
    assert set(read.manifest) == RESERVED | set(CONTENT["manifest"])
    assert read.tensor_names == ("classifier", "shield-NORMAL")
    assert read.document_names == ("training",)
    assert read.document("training") == CONTENT["documents"]["training"]
    for name, expected in CONTENT["tensors"].items():
        given = read.tensors(name)
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[key], expected[key]) and given[key].dtype == expected[key].dtype for key in given)
    assert read.signer is None
    assert read.digest == digest(folder) == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def test_manifest_lists_every_other_file_by_hash_and_size(folder):
    listed = json.loads((folder / MANIFEST).read_bytes())["files"]
    assert set(listed) == {file.name for file in folder.iterdir()} - {MANIFEST}
    for name, entry in listed.items():
        data = (folder / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(
        [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
    ),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=3, unique=True),
    seed=st.integers(0, 9),
)
def test_any_tensors_come_back_bit_for_bit(tmp_path, shape, dtype, names, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (torch.randn(shape, generator=generator) * 9).to(dtype) for name in names if name != "__metadata__"
    }
    write_folder(tmp_path / "any", kind="any", manifest={}, tensors={"x": tensors})
    read = read_folder(tmp_path / "any", kind="any").tensors("x")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[n], tensors[n]) and read[n].dtype == dtype for n in tensors)


def test_strided_shared_and_learning_tensors_are_stored_by_value(tmp_path):
    base = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    tensors = {
        "last": base.to(memory_format=torch.channels_last),
        "view": base[:, 1],
        "same": base,
        "learning": base.clone().requires_grad_(),
    }
    write_folder(tmp_path / "a", kind="x", manifest={}, tensors={"t": tensors})
    read = read_folder(tmp_path / "a", kind="x").tensors("t")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_same_content_same_digest_whatever_the_order(tmp_path, folder):
    backwards = {part: dict(reversed(content.items())) for part, content in CONTENT.items()}
    backwards["tensors"] = {name: dict(reversed(t.items())) for name, t in backwards["tensors"].items()}
    write_folder(tmp_path / "again", kind="guard", **backwards)
    assert digest(tmp_path / "again") == digest(folder)
    assert all((tmp_path / "again" / f.name).read_bytes() == f.read_bytes() for f in folder.iterdir())


def test_other_content_other_digest(tmp_path, folder):
    tensors = {**CONTENT["tensors"], "shield-NORMAL": {"head.weight": SHIELD["head.weight"] + 1}}
    write_folder(tmp_path / "other", kind="guard", **{**CONTENT, "tensors": tensors})
    assert digest(tmp_path / "other") != digest(folder)


def test_unknown_names_are_answered_with_the_known(folder):
    read = read_folder(folder, kind="guard")
    with pytest.raises(ArtefactError, match="classifier"):
        read.tensors("shield-OTHER")
    with pytest.raises(ArtefactError, match="training"):
        read.document("notes")


def test_a_link_to_the_folder_is_followed(tmp_path, folder):
    (tmp_path / "current").symlink_to(folder)
    assert read_folder(tmp_path / "current", kind="guard").digest == digest(folder)


# ---- damage


def test_no_changed_byte_passes_unsigned(folder):
    _flip_through(folder, None)


def test_no_changed_byte_passes_signed(signed, keys):
    _flip_through(signed, keys[1])
    _flip_through(signed, None)


def _flip_through(folder: Path, public_key: Path | None) -> None:
    read_folder(folder, kind="guard", public_key=public_key)
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for position in [*range(0, len(data), 13), len(data) - 1]:
            file.write_bytes(data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :])
            with pytest.raises(ArtefactError):
                read_folder(folder, kind="guard", public_key=public_key)
        for damaged in (b"", data[:-1], data[: len(data) // 2], data + b"\n", data + data):
            file.write_bytes(damaged)
            with pytest.raises(ArtefactError):
                read_folder(folder, kind="guard", public_key=public_key)
        file.write_bytes(data)
    read_folder(folder, kind="guard", public_key=public_key)


def test_changed_weights_are_named(folder):
    file = folder / "classifier.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=r"classifier\.safetensors: changed since it was written.*SHA-256.*; copy"):
        read_folder(folder, kind="guard")


def test_no_missing_file_passes(signed):
    for file in sorted(signed.iterdir()):
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(ArtefactError, match=f"(?s){file.name}.*(missing|lacks)|lacks.*{file.name}"):
            read_folder(signed, kind="guard")
        file.write_bytes(data)


def test_exchanged_files_are_found(folder):
    first, second = folder / "classifier.safetensors", folder / "shield-NORMAL.safetensors"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(ArtefactError, match="changed"):
        read_folder(folder, kind="guard")


def test_missing_folder_and_interrupted_replacement(tmp_path, folder):
    with pytest.raises(ArtefactError, match="does not exist; check the path"):
        read_folder(tmp_path / "nowhere", kind="guard")
    folder.rename(tmp_path / ".guard.old-1234")
    with pytest.raises(ArtefactError, match=r"rename .*\.guard\.old-1234 back"):
        read_folder(folder, kind="guard")


# ---- malice


class Canary:
    """Unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _torch_file(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("rehashed", [False, True])
@pytest.mark.parametrize(
    ("encode", "word"),
    [
        *[(lambda c, p=p: pickle.dumps(c, protocol=p), "Python pickle") for p in (2, 3, 4, 5)],
        (lambda c: pickle.dumps(c, protocol=0), "safetensors|changed"),
        (_torch_file, "zip archive"),
    ],
)
def test_a_pickle_is_never_opened(tmp_path, folder, encode, word, rehashed):
    canary = tmp_path / "canary"
    data = encode(Canary(canary))
    open_it = torch.load if word == "zip archive" else pickle.load
    open_it(io.BytesIO(data), **({"weights_only": False} if word == "zip archive" else {}))
    assert canary.exists()  # the payload is live: it runs when anything opens it
    canary.rmdir()
    for name in ("classifier.safetensors", "training.json", MANIFEST):
        copy = tmp_path / f"copy-{name}"
        shutil.copytree(folder, copy)
        if rehashed and name != MANIFEST:
            forge(copy, {}, write={name: data})
        else:
            (copy / name).write_bytes(data)
        expected = word if name == "classifier.safetensors" or "safetensors" not in word else "JSON|changed"
        with pytest.raises(ArtefactError, match=expected):
            read_folder(copy, kind="guard")
    assert not canary.exists()


def test_a_pickle_beside_the_known_files_is_foreign(tmp_path, folder):
    (folder / "model.pt").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(ArtefactError, match=r"'model\.pt', foreign to its manifest; it is a Python pickle"):
        read_folder(folder, kind="guard")
    assert not (tmp_path / "canary").exists()


def test_a_single_file_instead_of_a_folder(tmp_path):
    (tmp_path / "model.pt").write_bytes(_torch_file({"a": torch.zeros(1)}))
    with pytest.raises(ArtefactError, match="is a file, not a folder; it is a zip archive"):
        read_folder(tmp_path / "model.pt", kind="guard")


def test_safetensors_whose_first_byte_looks_like_a_pickle_is_read(tmp_path):
    # A header of 0x0280 = 640 bytes starts the file with b"\x80\x02", as a pickle does.
    for length in range(1, 700):
        write = {"x" * length: torch.zeros(1)}
        if safetensors.torch.save(write)[:2] == b"\x80\x02":
            break
    write_folder(tmp_path / "a", kind="x", manifest={}, tensors={"t": write})
    assert (tmp_path / "a" / "t.safetensors").read_bytes()[:2] == b"\x80\x02"
    assert read_folder(tmp_path / "a", kind="x").tensors("t").keys() == write.keys()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("."),
        os.mkfifo,
    ],
    ids=["folder", "link", "dangling", "link-to-folder", "pipe"],
)
@pytest.mark.parametrize("name", ["extra", "classifier.safetensors", MANIFEST])
def test_only_regular_files_inside(folder, make, name):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(ArtefactError, match="may hold files only"):
        read_folder(folder, kind="guard")
    if name == MANIFEST:
        with pytest.raises(ArtefactError):
            digest(folder)


def test_a_link_to_the_very_same_bytes_is_refused(tmp_path, folder):
    (folder / "classifier.safetensors").rename(tmp_path / "elsewhere")
    (folder / "classifier.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match="link"):
        read_folder(folder, kind="guard")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json",
        "/etc/secret.json",
        "a/b.json",
        "..json",
        ".json",
        "x.pt",
        "",
        "a\x00.json",
        "a\n.json",
        MANIFEST,
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder, name):
    (folder.parent / "secret.json").write_text("{}")
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    entry = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    forge(folder, {"files": {**files, name: entry}})
    with pytest.raises(ArtefactError, match="no name for a file here") as caught:
        read_folder(folder, kind="guard")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "entry",
    [
        None, [], "x", {}, {"size": 1}, {"size": True, "sha256": "0" * 64}, {"size": -1, "sha256": "0" * 64},
        {"size": 1.0, "sha256": "0" * 64}, {"size": 1, "sha256": "0" * 63}, {"size": 1, "sha256": "G" * 64},
        {"size": 1, "sha256": None}, {"size": 1 << 60, "sha256": "0" * 64},
        {"size": 1, "sha256": "0" * 64, "more": 1},
    ],
)  # fmt: skip
def test_odd_entries_are_refused(folder, entry):
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    forge(folder, {"files": {**files, "classifier.safetensors": entry}})
    with pytest.raises(ArtefactError, match="no usable size and SHA-256"):
        read_folder(folder, kind="guard")


def test_absurd_amounts_are_refused(folder):
    entry = {"size": 4 << 30, "sha256": "0" * 64}
    forge(folder, {"files": {f"t{i}.safetensors": entry for i in range(3)}})
    with pytest.raises(ArtefactError, match="more than 8589934592 bytes"):
        read_folder(folder, kind="guard")
    forge(folder, {"files": {f"t{i}.json": {"size": 0, "sha256": "0" * 64} for i in range(257)}})
    with pytest.raises(ArtefactError, match="at most 256 files"):
        read_folder(folder, kind="guard")
    with (folder / MANIFEST).open("ab") as stream:
        stream.truncate(1 << 40)  # a sparse file: large to read, small on disk
    with pytest.raises(ArtefactError, match="1099511627776 bytes, more than the 1048576 allowed"):
        read_folder(folder, kind="guard")


def test_a_crowded_folder_is_refused(folder):
    for index in range(300):
        (folder / f"{index}").touch()
    with pytest.raises(ArtefactError, match="more than 258 files"):
        read_folder(folder, kind="guard")


def test_a_file_grown_to_absurdity_is_not_read(folder):
    with (folder / "classifier.safetensors").open("ab") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ArtefactError, match="1099511627776 bytes in place of"):
        read_folder(folder, kind="guard")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "no JSON object"),
        (b'"medaegis"', "no JSON object"),
        (b"{}", "not a folder made by this program"),
        (b'{"format": "other"}', "not a folder made by this program"),
        (b'{"format": "medaegis"}', "format version None"),
        (b'{"format": "medaegis", "format_version": 2}', r"format version 2, this program reads 1; install"),
        (b'{"format": "medaegis", "format_version": 1}', "checksum"),
        (b'{"format": "medaegis", "format": "medaegis"}', "twice"),
        (b'{"format": NaN}', "finite"),
        (b'{"a": ' + b"[" * 50_000, "deep"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "deep"),
    ],
)
def test_manifests_that_are_none(folder, raw, reason):
    (folder / MANIFEST).write_bytes(raw)
    with pytest.raises(ArtefactError, match=reason):
        read_folder(folder, kind="guard")


def test_another_kind_or_version_or_program(folder):
    with pytest.raises(ArtefactError, match="'guard' folder, a 'classifier' folder is needed"):
        read_folder(folder, kind="classifier")
    forge(folder, {"format_version": 2})
    with pytest.raises(ArtefactError, match="version 2"):
        read_folder(folder, kind="guard")
    for alike in (True, 1.0, "1", [1], None):
        forge(folder, {"format_version": alike})
        with pytest.raises(ArtefactError, match="version"):
            read_folder(folder, kind="guard")
    forge(folder, {"format_version": 1, "format": "other"})
    with pytest.raises(ArtefactError, match="not a folder made by this program"):
        read_folder(folder, kind="guard")


@pytest.mark.parametrize("signer", [5, "", "ab", "0" * 64, [], {}])
def test_an_invented_signer_is_refused(folder, signer):
    forge(folder, {"signer": signer})
    with pytest.raises(ArtefactError):
        read_folder(folder, kind="guard")


@pytest.mark.parametrize("missing", sorted(RESERVED - {"format", "format_version", "checksum"}))
def test_a_manifest_without_its_entries_is_refused(folder, missing):
    forge(folder, {}, drop=missing)
    with pytest.raises(ArtefactError, match="lacks entries"):
        read_folder(folder, kind="guard")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 50) + b"{}",
        safetensors_bytes(b"[]"),
        safetensors_bytes(b"{" * 50_000),
        safetensors_bytes({"a": F32}),
        safetensors_bytes({"a": F32}, b"\x00" * 9),
        safetensors_bytes({"a": {**F32, "shape": [3]}}, b"\x00" * 8),
        safetensors_bytes({"a": {**F32, "shape": [-2]}}, b"\x00" * 8),
        safetensors_bytes({"a": {**F32, "shape": [1 << 63, 1 << 63, 0], "data_offsets": [0, 0]}}),
        safetensors_bytes({"a": {**F32, "dtype": "F64"}}, b"\x00" * 8),
        safetensors_bytes({"a": {**F32, "dtype": "OBJECT"}}, b"\x00" * 8),
        safetensors_bytes({"a": F32, "b": F32}, b"\x00" * 8),
        safetensors_bytes({"a": {**F32, "data_offsets": [8, 16]}}, b"\x00" * 16),
        safetensors_bytes(b'{"a":%b,"a":%b}' % ((json.dumps(F32).encode(),) * 2), b"\x00" * 8),
    ],
)
def test_unsound_safetensors_with_fitting_hashes(folder, data):
    forge(folder, {}, write={"classifier.safetensors": data})
    with pytest.raises(ArtefactError, match="safetensors file"):
        read_folder(folder, kind="guard")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_crash_the_reader(folder, data):
    """Whatever stands in a forged file, the answer is content or an ArtefactError."""
    good = safetensors.torch.save(SHIELD)
    cut = data.draw(st.integers(0, len(good)))
    junk = data.draw(st.binary(max_size=60))
    name = data.draw(st.sampled_from(["classifier.safetensors", "training.json"]))
    forge(folder, {}, write={name: good[:cut] + junk + good[cut + len(junk) :]})
    with contextlib.suppress(ArtefactError):
        read_folder(folder, kind="guard")


def test_each_file_is_opened_once(signed, keys, monkeypatch):
    """Hash and content come from one reading, so that nothing can be exchanged in between."""
    opened = []
    real = os.open
    monkeypatch.setattr(
        safefiles.os, "open", lambda path, *args, **more: opened.append(Path(path).name) or real(path, *args, **more)
    )
    read_folder(signed, kind="guard", public_key=keys[1])
    opened = [name for name in opened if name != keys[1].name]
    assert sorted(opened) == sorted(file.name for file in signed.iterdir())


def test_a_file_exchanged_while_it_is_read_cannot_slip_in(folder, monkeypatch):
    """An attacker who swaps the file right after it was opened changes nothing: the opened bytes are used."""
    real, other = os.open, b"x" * (folder / "classifier.safetensors").stat().st_size

    def swapping(path, *args, **more):
        descriptor = real(path, *args, **more)
        if Path(path).name == "classifier.safetensors":
            (folder / "swap").write_bytes(other)
            (folder / "swap").rename(path)
        return descriptor

    monkeypatch.setattr(safefiles.os, "open", swapping)
    read = read_folder(folder, kind="guard")
    assert torch.equal(read.tensors("classifier")["stem.weight"], CLASSIFIER["stem.weight"])
    assert (folder / "classifier.safetensors").read_bytes() == other


# ---- signatures


def test_signed_folder(signed, keys):
    read = read_folder(signed, kind="guard", public_key=keys[1])
    assert read.signer == read_folder(signed, kind="guard").signer is not None
    assert len((signed / SIGNATURE).read_bytes()) == 64


def test_unsigned_where_a_signature_is_needed(folder, keys):
    with pytest.raises(ArtefactError, match="not signed"):
        read_folder(folder, kind="guard", public_key=keys[1])


def test_signature_of_somebody_else(tmp_path, keys):
    other = generate_keypair(tmp_path / "other-keys")
    write_folder(tmp_path / "a", kind="guard", **CONTENT, signing_key=other[0])
    assert read_folder(tmp_path / "a", kind="guard", public_key=other[1]).signer
    with pytest.raises(ArtefactError, match="signature is not one by the key"):
        read_folder(tmp_path / "a", kind="guard", public_key=keys[1])


def test_forging_needs_the_key(signed, keys):
    forge(signed, {"thresholds": {"NORMAL": 9e9, "PNEUMONIA": 9e9}})
    for public_key in (keys[1], None):
        with pytest.raises(ArtefactError, match="signature is not one"):
            read_folder(signed, kind="guard", public_key=public_key)
    forge(signed, {"signer": None})
    with pytest.raises(ArtefactError, match=r"manifest\.sig', foreign"):
        read_folder(signed, kind="guard")
    (signed / SIGNATURE).unlink()
    with pytest.raises(ArtefactError, match="not signed"):
        read_folder(signed, kind="guard", public_key=keys[1])


def test_signature_is_checked_before_the_manifest_is_interpreted(signed, keys):
    (signed / MANIFEST).write_bytes(b"[" * 1000)
    with pytest.raises(ArtefactError, match="signature"):
        read_folder(signed, kind="guard", public_key=keys[1])


def test_keys_are_private_and_kept(tmp_path):
    secret, public = generate_keypair(tmp_path / "new" / "keys")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_bytes(), public.read_bytes()
    with pytest.raises(ArtefactError, match="exists already"):
        generate_keypair(secret.parent)
    public.unlink()
    with pytest.raises(ArtefactError, match="exists already"):
        generate_keypair(secret.parent)
    assert secret.read_bytes() == before[0]


def test_wrong_key_files(tmp_path, folder, keys):
    secret, public = keys
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    for path in (secret, rubbish, tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError):
            read_folder(folder, kind="guard", public_key=path)
    for path in (public, rubbish, tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            write_folder(tmp_path / "new", kind="guard", **CONTENT, signing_key=path)
    assert not (tmp_path / "new").exists()


# ---- writing


def test_replaces_the_same_kind_and_leaves_nothing_behind(tmp_path, folder):
    old = digest(folder)
    write_folder(folder, kind="guard", manifest={"new": True}, tensors={"t": SHIELD})
    assert digest(folder) != old
    assert {file.name for file in folder.iterdir()} == {MANIFEST, "t.safetensors"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["guard"]


def test_fills_an_empty_folder_and_makes_parents(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        write_folder(place, kind="x", manifest={}, tensors={})
        assert read_folder(place, kind="x").tensor_names == ()


def test_replaces_nothing_else(tmp_path, folder, keys):
    def contents(place):
        return {file.name: file.read_bytes() for file in place.iterdir()}

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years")
    shutil.copytree(folder, tmp_path / "mixed")
    (tmp_path / "mixed" / "thesis.txt").write_text("ten years")
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / MANIFEST).write_text("{")
    for place, kind in ((folder, "classifier"), *((tmp_path / name, "guard") for name in ("mine", "mixed", "damaged"))):
        before = contents(place)
        with pytest.raises(ArtefactError, match="choose another place"):
            write_folder(place, kind=kind, manifest={}, tensors={})
        assert contents(place) == before
        with pytest.raises(ArtefactError, match="choose another place"):
            check_target(place, kind=kind)  # asked beforehand, the same
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        for ask in (check_target, partial(write_folder, manifest={}, tensors={})):
            with pytest.raises(ArtefactError, match="is a file; name a folder"):
                ask(place, kind="guard")


def test_asking_whether_a_folder_could_be_written_makes_nothing(tmp_path, folder, keys):
    before = sorted(tmp_path.rglob("*"))
    for place in (tmp_path / "new", tmp_path / "a" / "b" / "c", folder):
        check_target(place, kind="guard", signing_key=keys[0])
    check_other(tmp_path / "a" / "b")
    check_other(tmp_path)
    check_place(tmp_path / "a" / "page.html", folder=False)
    check_place(folder / MANIFEST, folder=False)  # a file is replaced
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ArtefactError, match="not an empty folder"):
        check_target(folder, kind="guard", empty=True)
    with pytest.raises(ArtefactError, match=r"holds a manifest\.json.*another folder"):
        check_other(folder)
    with pytest.raises(ArtefactError, match="is a folder; name a file"):
        check_place(tmp_path, folder=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place that not even root may write to")
def test_where_nothing_can_be_written_is_found_out_by_trying(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: True)  # what root is told of /proc
    for ask in (check_place, check_other, partial(check_target, kind="guard")):
        with pytest.raises(ArtefactError, match=r"nothing can be written in /proc \("):
            ask("/proc/a/b")


def test_a_folder_that_never_was_one_of_ours_is_not_to_be_copied_again(tmp_path):
    (tmp_path / "data" / "classes").mkdir(parents=True)  # folders inside, as data sets have
    (tmp_path / "file").write_text("x")
    for ask in (kind_of, partial(read_folder, kind="guard"), digest):
        with pytest.raises(
            ArtefactError, match=r"guard.*folder \(manifest\.json is missing\); name one .*`medaegis fit`"
        ):
            ask(tmp_path / "data")
        with pytest.raises(ArtefactError, match="absent: does not exist; check the path"):
            ask(tmp_path / "absent")
        with pytest.raises(ArtefactError, match="file: is a file, not a folder"):
            ask(tmp_path / "file")


@pytest.mark.parametrize("call", range(5))
def test_a_failing_disk_changes_nothing(tmp_path, folder, monkeypatch, call):
    old, calls, real = digest(folder), [], os.fsync

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) > call:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(ArtefactError, match="No space left"):
        write_folder(folder, kind="guard", **{**CONTENT, "manifest": {"new": True}})
    monkeypatch.undo()
    assert read_folder(folder, kind="guard").digest == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["guard"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_an_interrupted_exchange_puts_the_old_folder_back(tmp_path, folder, monkeypatch, error):
    old, real = digest(folder), Path.rename

    def interrupted(self, target):
        if ".new-" in self.name:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((ArtefactError, KeyboardInterrupt)):
        write_folder(folder, kind="guard", manifest={"new": True}, tensors={})
    monkeypatch.undo()
    assert read_folder(folder, kind="guard").digest == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["guard"]


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": {"files": {}}},
        {"manifest": {"checksum": "x"}},
        {"manifest": {"a": float("nan")}},
        {"manifest": {"a": object()}},
        {"manifest": {1: 2}},
        {"manifest": {"a": "x" * (1 << 20)}},
        {"documents": {"manifest": {}}},
        {"documents": {"Manifest": {}}},
        {"documents": {"a": {"b": {1, 2}}}},
        {"documents": {"a": {"b": "x" * (17 << 20)}}},
        {"documents": {"../a": {}}},
        {"documents": {"": {}}},
        {"documents": {"a": {}, "A": {}}},
        {"documents": {f"d{index}": {} for index in range(257)}},
        {"tensors": {"a/b": {}}},
        {"tensors": {".hidden": {}}},
        {"tensors": {"x" * 101: {}}},
        {"tensors": {"a": {"b": [1.0]}}},
        {"tensors": {"a": {"b": torch.zeros(2, 2).to_sparse()}}},
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, change):
    with pytest.raises(ConfigError):
        write_folder(tmp_path / "a", kind="guard", **{**CONTENT, **change})
    assert list(tmp_path.iterdir()) == []


def test_errors_are_of_one_family(tmp_path):
    with pytest.raises(MedaegisError):
        digest(tmp_path)
