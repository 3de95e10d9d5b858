"""A guard in a folder: what is saved is what is loaded, and a folder that was touched or cannot be is refused."""

import json
import pickle
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.guard.small import load, make_guard

from medaegis.artefact import digest, generate_keypair, read_folder, write_folder
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import ArtefactError, ConfigError
from medaegis.guard.guard import Guard


@pytest.fixture(scope="module")
def guard():
    return make_guard()


@pytest.fixture(scope="module")
def images(guard):
    return toy_images(9, guard.classifier, seed=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, guard):
    folder = tmp_path_factory.mktemp("guard") / "g"
    guard.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_saved_and_loaded_is_the_same_guard(guard, saved, images):
    again = load(saved)
    verdict, expected = again.judge(images), guard.judge(images)
    for name in ("logits", "predicted", "score", "accepted"):
        assert torch.equal(getattr(verdict, name), getattr(expected, name)), name
    assert again.inspect(images) == guard.inspect(images)
    assert (again.tnr, again.cushion.spec, again.classes) == (guard.tnr, guard.cushion.spec, guard.classes)
    assert again.fingerprint() == guard.fingerprint()


def test_digest_is_known_after_saving(guard, saved):
    assert guard.digest == digest(saved) == load(saved).digest
    assert make_guard().digest == ""


def test_facts_come_back(tmp_path):
    calibration, training = {"tnr_reached": 0.91}, {"config": {"taps": ["input"]}, "seconds": 1.5}
    make_guard(calibration=calibration, training=training).save(tmp_path / "g")
    again = load(tmp_path / "g")
    assert (again.calibration, again.training) == (calibration, training)


def test_the_order_of_classes_and_taps_survives(tmp_path):
    """Names that sort otherwise: JSON objects are written sorted, lists are not."""
    classifier = toy_classifier(3, taps=("relu", "last", "bn1", "input"))
    classifier.classes = ("zebra", "apple", "mango")
    bank = toy_bank(classifier, taps=("relu", "input", "bn1", "last"))
    guard = Guard(classifier, parse_cushion("none"), bank, tnr=0.9)
    guard.save(tmp_path / "g")
    again, images = load(tmp_path / "g"), toy_images(12, classifier)
    assert again.classes == guard.classes
    assert [shield.taps for shield in again.bank.shields] == [shield.taps for shield in bank.shields]
    assert again.inspect(images) == guard.inspect(images)


def test_fingerprint_sees_every_part(guard):
    other = make_guard()
    assert other.fingerprint() == guard.fingerprint()
    seen = {guard.fingerprint()}
    other.bank.scale.mul_(1.01)
    seen.add(other.fingerprint())
    other.classifier.network.fc.bias.data.add_(1e-4)
    seen.add(other.fingerprint())
    seen.add(make_guard(cushion="jpeg:81").fingerprint())
    seen.add(make_guard(taps=("input", "last", "relu")).fingerprint())
    assert len(seen) == 5


def test_every_changed_byte_is_refused(copy):
    for file in sorted(copy.iterdir()):
        good = file.read_bytes()
        for place in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            changed = bytearray(good)
            changed[place] ^= 1
            file.write_bytes(changed)
            with pytest.raises(ArtefactError):
                load(copy)
        file.write_bytes(good)
    load(copy)


def test_a_missing_or_foreign_file_is_refused(copy):
    for file in sorted(copy.iterdir()):
        good = file.read_bytes()
        file.unlink()
        with pytest.raises(ArtefactError, match=file.name):
            load(copy)
        file.write_bytes(good)
    (copy / "extra.py").write_text("print('hello')")
    with pytest.raises(ArtefactError, match=r"extra\.py"):
        load(copy)
    with pytest.raises(ArtefactError):
        load(copy / "nowhere")


def test_a_pickle_in_place_of_safetensors_is_not_executed(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (copy / "shields.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtefactError, match="shields"):
        load(copy)
    torch.save({"weight": torch.zeros(1)}, copy / "shields.safetensors")
    with pytest.raises(ArtefactError, match="shields"):
        load(copy)
    assert not (tmp_path / "executed").exists()


def test_a_manifest_of_another_version_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["format_version"] = 99
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="version"):
        load(copy)


def test_another_kind_of_folder_is_refused(saved, tmp_path):
    write_folder(tmp_path / "c", kind="classifier", manifest={}, tensors={"a": {"b": torch.zeros(1)}})
    with pytest.raises(ArtefactError, match="classifier"):
        load(tmp_path / "c")


def forged(saved, folder, change, **options):
    """A folder whose hashes fit and whose content was made by somebody else."""
    found = read_folder(saved, kind="guard")
    entry, tensors = found.manifest["guard"], {name: found.tensors(name) for name in found.tensor_names}
    change(entry, tensors)
    write_folder(folder, kind="guard", manifest={"guard": entry}, tensors=tensors, **options)
    return folder


def shrink(entry, tensors):
    entry["shields"].pop()


def stretch(entry, tensors):
    entry["shields"][0]["taps"][0]["shape"] = [10**9, 10**9, 10**9]


def rename_tap(entry, tensors):
    entry["shields"][0]["taps"][1]["name"] = "no.such.module"


def widen(entry, tensors):
    entry["shields"][0]["width"] = 8


def other_cushion(entry, tensors):
    entry["cushion"]["spec"] = "jpeg:50"


def no_cushion(entry, tensors):
    entry["cushion"]["spec"] = "magic:1"


def other_codec(entry, tensors):
    entry["cushion"]["probe"] = "0" * 64


def unsure(entry, tensors):
    entry["tnr"] = 2.0


def surplus(entry, tensors):
    entry["run_me"] = "rm"


def lost_weight(entry, tensors):
    tensors["shields"].pop("centre")


def other_weights(entry, tensors):
    tensors["classifier"]["fc.weight"] = torch.zeros(5, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shrink, "1 Shields for 2 classes"),
        (stretch, "shape"),
        (rename_tap, "no.such.module"),
        (widen, "do not fit together"),
        (other_cushion, "other pixels here"),
        (no_cushion, "magic"),
        (other_codec, "other pixels here"),
        (unsure, "tnr"),
        (surplus, "run_me"),
        (lost_weight, "centre"),
        (other_weights, "fit"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_parts_that_do_not_fit_are_refused(saved, tmp_path, change, words):
    with pytest.raises(ArtefactError, match=words):
        load(forged(saved, tmp_path / "forged", change))


def test_own_code_is_not_run_on_the_word_of_a_folder(saved):
    with pytest.raises(ArtefactError, match="may not have code run"):
        Guard.load(saved)


def test_signed_guards(guard, tmp_path):
    mine, theirs = (generate_keypair(tmp_path / name) for name in ("mine", "theirs"))
    make_guard().save(tmp_path / "signed", signing_key=mine[0])
    make_guard().save(tmp_path / "unsigned")
    load(tmp_path / "signed", public_key=mine[1])
    load(tmp_path / "signed")
    for folder, key in (("signed", theirs[1]), ("unsigned", mine[1])):
        with pytest.raises(ArtefactError, match="sign"):
            load(tmp_path / folder, public_key=key)


def test_a_later_save_replaces_the_folder_and_the_digest(tmp_path):
    one = make_guard()
    one.save(tmp_path / "g")
    first = one.digest
    one.calibration["tnr_reached"] = 0.5
    one.save(tmp_path / "g")
    assert one.digest == load(tmp_path / "g").digest != first


# ---- numbers that cannot be


def number(part, name, value):
    def change(entry, tensors):
        tensors[part] = {key: tensor.clone() for key, tensor in tensors[part].items()}
        tensors[part][name].view(-1)[-1] = value

    change.__name__ = f"{part}/{name}={value}"
    return change


def entry_at(*place, value):
    def change(entry, tensors):
        for step in place[:-1]:
            entry = entry[step]
        entry[place[-1]] = value

    change.__name__ = f"{'.'.join(map(str, place))}={value!s:.20}"
    return change


def twice(entry, tensors):
    entry["shields"][0]["taps"].append(entry["shields"][0]["taps"][0])


IMPOSSIBLE = [
    *(number("shields", "centre", value) for value in (torch.nan, torch.inf, -torch.inf, -1e30)),
    *(number("shields", "scale", value) for value in (torch.nan, torch.inf, 0.0, -1.0, 1e30)),
    *(number("shields", "shields.0.heads.0.std", value) for value in (torch.nan, torch.inf, 0.0, -1.0)),
    number("shields", "shields.1.heads.0.mean", torch.nan),
    *(number("shields", "shields.1.join.0.weight", value) for value in (torch.nan, -torch.inf)),
    *(number("classifier", "conv1.weight", value) for value in (torch.nan, torch.inf)),
    *(number("classifier", "bn1.running_var", value) for value in (torch.nan, torch.inf, -1e-3)),
    number("classifier", "bn1.running_mean", torch.nan),
    number("classifier", "bn1.num_batches_tracked", -1),
    *(entry_at("tnr", value=value) for value in (True, 1, 0, -0.9, 0.5, "0.9", 10**400)),
    *(entry_at("classifier", "std", value=[value]) for value in (0, 0.0, -0.2, 1e-9, True)),
    *(entry_at("classifier", "mean", value=value) for value in ([], [1e30], ["0.5"])),
    *(entry_at("classifier", "size", value=value) for value in (0, -16, True, 16.0, "16", 10**6)),
    *(entry_at("classifier", "taps", value=value) for value in ([""], ["relu", "relu"], "relu")),
    *(entry_at("classifier", "classes", value=value) for value in (["a", ""], ["a", "a"], ["a", 1])),
    *(entry_at("shields", 0, "width", value=value) for value in (0, -8, True, 32.0, 10**9)),
    *(entry_at("shields", 0, "hidden", value=value) for value in (0, True, "128", 10**9)),
    *(entry_at("shields", 0, "taps", value=value) for value in ([], [{}], {})),
    *(
        entry_at("shields", 0, "taps", 0, "shape", value=value)
        for value in ([], [True, 16, 16], [1.0, 16, 16], [1] * 9)
    ),
    entry_at("shields", 0, "taps", 0, "name", value=""),
    entry_at("shields", value=[]),
    *(entry_at("calibration", value={"tnr_reached": value}) for value in (2.0, -0.1, "0.9", True)),
    *(entry_at("version", value=value) for value in (1, True, 2.0e13, "20260101000000")),
    twice,
]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=lambda change: change.__name__)
def test_a_number_that_cannot_be_is_refused(saved, tmp_path, change):
    folder = forged(saved, tmp_path / "forged", change)
    assert digest(folder) != digest(saved)
    with pytest.raises(ArtefactError):
        load(folder)


def test_weights_of_another_type_are_refused(saved, tmp_path):
    for kind in (torch.float64, torch.float16, torch.complex64, torch.int64, torch.float8_e4m3fn):

        def change(entry, tensors, kind=kind):
            tensors["classifier"]["fc.bias"] = tensors["classifier"]["fc.bias"].to(kind)

        folder = forged(saved, tmp_path / str(kind), change)
        if kind in (torch.float64, torch.float16):  # read as the network's own type, as ever
            load(folder)
            continue
        with pytest.raises(ArtefactError, match=r"fc\.bias"):
            load(folder)


def test_an_uncalibrated_guard_is_not_saved(tmp_path):
    classifier = toy_classifier()
    bank = ShieldBank([Shield({"input": (1, 16, 16)}) for _ in range(2)])
    with pytest.raises(ConfigError, match="'centre'"):
        Guard(classifier, parse_cushion("none"), bank, tnr=0.9).save(tmp_path / "g")
    assert not (tmp_path / "g").exists()


BOMBS = """
import resource, sys
from medaegis.errors import ArtefactError
from medaegis.guard.guard import Guard
from tests.models.tiny_networks import tiny
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Guard.load(sys.argv[1], factory=tiny)
except ArtefactError as error:
    print(error, file=sys.stderr)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_manifest_that_asks_for_gigabytes_gets_none(saved, tmp_path):
    def bomb(entry, tensors):
        for shield in entry["shields"]:
            shield["width"], shield["hidden"] = 1024, 16384  # allowed, and 10 GB if it were built

    folder = forged(saved, tmp_path / "bomb", bomb)
    told = subprocess.run([sys.executable, "-c", BOMBS, str(folder)], capture_output=True, text=True, check=True)
    assert "do not fit together" in told.stderr
    assert int(told.stdout) < 300, "MiB more than before"


# ---- who signed it, and when


def test_a_signed_guard_has_a_version_and_older_ones_can_be_refused(tmp_path):
    secret, public = generate_keypair(tmp_path / "keys")
    before = int(datetime.now(UTC).strftime("%Y%m%d%H%M%S"))
    one = make_guard()
    one.save(tmp_path / "g", signing_key=secret)
    assert before <= one.version <= before + 100
    for least in (None, one.version - 1, one.version):
        assert load(tmp_path / "g", public_key=public, min_version=least).version == one.version
    with pytest.raises(ArtefactError, match=rf"version {one.version}, at least {one.version + 1}"):
        load(tmp_path / "g", public_key=public, min_version=one.version + 1)


def test_a_version_that_nobody_signed_proves_nothing(saved, tmp_path):
    assert load(saved).version is None
    with pytest.raises(ConfigError, match="public key"):
        load(saved, min_version=20260101000000)
    secret, public = generate_keypair(tmp_path / "keys")

    def unnumbered(entry, tensors):
        entry.pop("version", None)

    # As guards were signed before they had versions.
    folder = forged(saved, tmp_path / "old", unnumbered, signing_key=secret)
    assert load(folder, public_key=public).version is None
    with pytest.raises(ArtefactError, match="no version, at least"):
        load(folder, public_key=public, min_version=20260101000000)
