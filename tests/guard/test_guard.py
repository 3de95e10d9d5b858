"""The guard: what is saved is what is loaded, a touched folder is refused, and whatever goes wrong inside withholds."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.models.tiny_networks import tiny

from medaegis.artefact import digest, generate_keypair, write_folder
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import ArtefactError, ConfigError
from medaegis.guard.finding import FAINTEST, blank
from medaegis.guard.guard import Guard

N = 9


def make_guard(*, classes=2, cushion="jpeg:80", taps=("input", "relu", "last"), **options):
    classifier = toy_classifier(classes)
    return Guard(classifier, parse_cushion(cushion), toy_bank(classifier, taps=taps), tnr=0.9, **options)


@pytest.fixture(scope="module")
def guard():
    return make_guard()


@pytest.fixture(scope="module")
def images(guard):
    return toy_images(N, guard.classifier, seed=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, guard):
    folder = tmp_path_factory.mktemp("guard") / "g"
    guard.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def load(folder, **options):
    return Guard.load(folder, factory=tiny, **options)


def alike(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.accepted, one.reason, one.label) == (other.accepted, other.reason, other.label)
        assert (one.score is None) == (other.score is None)
        if one.score is not None:
            assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-4)
            assert one.probabilities == pytest.approx(other.probabilities, rel=1e-3, abs=1e-5)


def withheld(finding, words=""):
    assert not finding.accepted
    assert finding.reason == "error"
    assert finding.diagnosis is None
    assert finding.label is None
    assert finding.score is None
    assert finding.probabilities == {}
    assert words in finding.detail


# ---- findings


def test_findings_say_what_the_verdict_says(guard, images):
    verdict, findings = guard.judge(images), guard.inspect(images)
    assert {f.accepted for f in guard.inspect(toy_images(60, guard.classifier, seed=8))} == {True, False}
    for i, finding in enumerate(findings):
        assert finding.label == guard.classes[int(verdict.predicted[i])]
        assert finding.accepted == bool(verdict.accepted[i]) == (finding.score <= 1)
        assert finding.score == pytest.approx(float(verdict.score[i]), abs=1e-6)
        assert sum(finding.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(finding.probabilities, key=finding.probabilities.get) == finding.label
        assert finding.diagnosis == (finding.label if finding.accepted else None)
        assert finding.reason == ("accepted" if finding.accepted else "suspicious")


@pytest.mark.parametrize(("score", "shown"), [(1.0000001, "1.01"), (1.2, "1.20"), (3.456, "3.46")])
def test_what_is_rejected_is_not_told_as_what_is_allowed(guard, images, monkeypatch, score, shown):
    verdict = guard.judge(images[:1])
    verdict = dataclasses.replace(
        verdict, score=torch.tensor([score], dtype=torch.float64), accepted=torch.tensor([False])
    )
    monkeypatch.setattr(guard._exact, "judge", lambda x: verdict)
    (finding,) = guard.inspect(images[:1])
    assert finding.detail == f"suspicion {shown}, 1.00 allowed"


def test_findings_do_not_depend_on_the_batch_size(guard, images):
    alike(guard.inspect(images, batch_size=2), guard.inspect(images, batch_size=16))


def test_an_empty_batch_has_no_findings(guard, images):
    assert guard.inspect(images[:0]) == []
    assert guard.inspect(images[:0].half()) == []
    assert guard.inspect(images[:0, :, :0]) == []


@pytest.mark.parametrize("what", [torch.zeros(1, 16, 16), torch.zeros(16), [[1.0]], None])
def test_what_is_no_batch_is_refused(guard, what):
    with pytest.raises(ConfigError, match=r"\(N, C, H, W\)"):
        guard.inspect(what)


# ---- whatever goes wrong withholds


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1.5, -0.2])
def test_a_bad_image_is_withheld_and_spoils_no_other(guard, images, value):
    spoilt = images.clone()
    spoilt[4, 0, 3, 3] = value
    findings = guard.inspect(spoilt)
    withheld(findings[4], "NaN or values outside [0, 1]")
    rest = [i for i in range(N) if i != 4]
    alike([findings[i] for i in rest], guard.inspect(images[rest]))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_withheld_however_typical_it_looks(images, level):
    trusting = make_guard()
    trusting.bank.centre.fill_(-1e6)
    flat = torch.full_like(images[:3], level / 255)
    flat[1, 0, 3, 3] = abs(level - FAINTEST + 1) / 255
    flat[2, 0, 3, 3] = abs(level - FAINTEST) / 255
    *blank, faint, whole = trusting.inspect(torch.cat([flat, images[:1]]))
    for finding, levels in zip(blank, (0, FAINTEST - 1), strict=True):
        assert (finding.reason, finding.accepted, finding.diagnosis) == ("blank", False, None)
        assert (finding.label, finding.score, finding.probabilities) == (None, None, {})
        assert f"{levels} of 255 grey levels" in finding.detail
    assert faint.accepted
    assert whole.accepted


def test_an_image_with_a_value_that_is_no_number_is_an_error_even_where_cushion_and_network_bear_it(images):
    image = images[0].clone()
    image[0, 3, 3] = torch.nan
    finding = blank(image)
    assert (finding.accepted, finding.reason) == (False, "error")
    assert "not finite" in finding.detail


def test_one_flat_colour_is_blank_and_a_picture_in_one_channel_is_not():
    classifier = toy_classifier(channels="rgb")
    trusting = Guard(classifier, parse_cushion("jpeg:80"), toy_bank(classifier), tnr=0.9)
    trusting.bank.centre.fill_(-1e6)
    pixels = torch.tensor([200, 30, 90]).view(1, 3, 1, 1).expand(3, 3, 16, 16) / 255
    pixels = pixels.clone()
    pixels[1, 2, 3, 3] += (FAINTEST - 1) / 255
    pixels[2, 2, 3, 3] += FAINTEST / 255
    flat, faint, seen = trusting.inspect(pixels)
    assert (flat.reason, flat.diagnosis, faint.reason, faint.diagnosis) == ("blank", None, "blank", None)
    assert "blank or nearly so: 0 of 255" in flat.detail
    assert seen.accepted


def test_images_of_twice_the_precision_get_the_same_findings(guard, images):
    assert guard.inspect(images.double()) == guard.inspect(images)
    levels = (torch.arange(256, dtype=torch.float64) / 255).view(1, 1, 16, 16)
    assert guard.inspect(levels) == guard.inspect(levels.float())


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, 2, 16, 16),
        torch.zeros(2, 1, 17, 16),
        torch.zeros(2, 1, 1, 1),
        torch.zeros(2, 1, 0, 16),
        torch.zeros(2, 0, 16, 16),
        torch.zeros(2, 1, 16, 16, dtype=torch.float16),
        torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(2, 1, 16, 16, dtype=torch.complex64),
    ],
    ids=lambda b: f"{tuple(b.shape)}-{b.dtype}",
)
def test_a_batch_of_another_kind_is_withheld(guard, batch):
    findings = guard.inspect(batch)
    assert len(findings) == 2
    for finding in findings:
        withheld(finding, "expected")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.tuples(*(st.sampled_from(sizes) for sizes in ((0, 1, 3), (0, 1, 2, 3), (0, 1, 16), (1, 16, 33)))),
    st.sampled_from([0.0, 1e-3, 1.0, -1.0, 1e30, torch.nan, torch.inf]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_inspect_never_raises_for_a_float_tensor(guard, dtype, shape, scale, seed, turned):
    batch = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)
    batch = batch.transpose(2, 3) if turned else batch
    findings = guard.inspect(batch)
    assert len(findings) == shape[0]
    for finding in findings:
        assert finding.accepted == (finding.reason == "accepted")
        if dtype in (torch.float16, torch.bfloat16) or not batch.isfinite().all():
            withheld(finding)


def raising(kind, when):
    """A stage that fails for bright images, or for any batch that holds one."""

    def fail(x):
        if bool((x.mean((1, 2, 3)) > 0.9).any()):
            raise kind(when)

    return fail


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, ValueError, KeyError, AssertionError, RecursionError])
@pytest.mark.parametrize("stage", ["cushion", "classifier", "shield"])
def test_a_stage_that_raises_withholds_that_image_alone(stage, kind, images, monkeypatch, caplog):
    guard = make_guard()
    expected = guard.inspect(images[1:])
    bright = images.clone()
    bright[0] = 1.0
    fail = raising(kind, "secret detail")
    if stage == "cushion":
        inner = type(guard.cushion)._cushion

        def cushion(self, pixels):
            fail(pixels / 255)
            return inner(self, pixels)

        monkeypatch.setattr(type(guard.cushion), "_cushion", cushion)
    elif stage == "classifier":
        guard._exact.exact.register_forward_pre_hook(lambda module, args: fail(args[0]))
        network, mean, std = guard._exact.exact.network, guard.classifier.mean, guard.classifier.std
        network.register_forward_pre_hook(lambda module, args: fail(args[0] * std + mean))
    else:
        for shield in guard.bank.shields:
            shield.register_forward_pre_hook(lambda module, args: fail(args[0]["input"]))
    findings = guard.inspect(bright)
    withheld(findings[0], f"internal error ({kind.__name__})")
    assert "secret" not in findings[0].detail + caplog.text
    alike(findings[1:], expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stage", ["logits", "score"])
def test_a_value_that_is_no_number_withholds_that_image_alone(stage, value, images):
    guard = make_guard()
    expected = guard.inspect(images[1:])
    bright = images.clone()
    bright[0] = 1.0

    def spoil(x, output):
        return torch.where((x.mean((1, 2, 3)) > 0.9).view(-1, *[1] * (output.ndim - 1)), value, output)

    if stage == "logits":
        mean, std = guard.classifier.mean, guard.classifier.std
        guard._exact.exact.network.register_forward_hook(lambda m, args, out: spoil(args[0] * std + mean, out))
    else:
        for shield in guard.bank.shields:
            shield.register_forward_hook(lambda m, args, out: spoil(args[0]["input"], out))
    findings = guard.inspect(bright)
    withheld(findings[0], "not finite")
    assert not guard.judge(bright).accepted[0]
    alike(findings[1:], expected)


def test_an_interrupt_is_not_swallowed(images):
    guard = make_guard()

    def interrupt(module, args):
        raise KeyboardInterrupt

    guard.bank.shields[0].register_forward_pre_hook(interrupt)
    guard.bank.shields[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        guard.inspect(images)


def test_an_uncalibrated_guard_accepts_nothing(images):
    classifier = toy_classifier(2)
    shapes = classifier.tap_shapes(("relu",))
    guard = Guard(classifier, parse_cushion("none"), ShieldBank([Shield(shapes), Shield(shapes)]), tnr=0.9)
    assert not any(finding.accepted for finding in guard.inspect(images))


# ---- folders


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
    from medaegis.artefact import read_folder

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


# ---- what is asked of inspect


def quantised():
    return torch.quantize_per_tensor(torch.zeros(2, 1, 16, 16), 1 / 255, 0, torch.quint8)


ODD = {
    "sparse": lambda: torch.zeros(2, 1, 16, 16).to_sparse(),
    "sparse rows": lambda: torch.zeros(2, 1, 16, 16).to_sparse_csr(),
    "meta": lambda: torch.zeros(2, 1, 16, 16, device="meta"),
    "quantised": quantised,
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(1, 16, 16)] * 2),
    "ragged": lambda: torch.nested.nested_tensor([torch.zeros(1, 16, 16), torch.zeros(1, 8, 16)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.zeros(3, 16), torch.zeros(4, 16)], layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_what_holds_no_plain_values_is_refused(guard, kind):
    with pytest.raises(ConfigError, match="dense tensor"):
        guard.inspect(ODD[kind]())


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.int8, torch.int64, torch.uint16, torch.complex64, torch.complex128, torch.float8_e4m3fn],
    ids=str,
)
def test_values_of_another_type_are_withheld(guard, dtype):
    for finding in guard.inspect(torch.zeros(3, 1, 16, 16).to(dtype), batch_size=2):
        withheld(finding)


def test_gradients_and_views_change_nothing(guard, images):
    expected = guard.inspect(images)
    learning = images.clone().requires_grad_()
    assert guard.inspect(learning) == guard.inspect(learning * 1) == expected
    assert learning.grad is None
    with torch.inference_mode():
        assert guard.inspect(images.clone()) == expected
    conjugate = torch.complex(torch.zeros_like(images), images).conj().imag  # a view that negates lazily
    assert guard.inspect(-conjugate) == expected
    assert guard.inspect(images.new_ones(1, 1, 1, 1).expand(3, 1, 16, 16))[0].reason == "blank"


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "2", None])
def test_a_batch_size_that_cannot_be_is_refused(guard, images, batch_size):
    for ask in (guard.inspect, guard.judge):
        with pytest.raises(ConfigError, match="batch_size"):
            ask(images, batch_size=batch_size)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_a_time_limit_that_cannot_be_is_refused(guard, images, timeout):
    with pytest.raises(ConfigError, match="timeout"):
        guard.inspect(images, timeout=timeout)


def test_a_time_limit_that_is_kept_changes_nothing(guard, images):
    assert guard.inspect(images, timeout=60, batch_size=4) == guard.inspect(images, batch_size=4)


def test_a_network_that_hangs_is_given_up_and_withholds(images):
    guard, go_on = make_guard(), threading.Event()
    expected = guard.inspect(images)
    hook = guard._exact.exact.network.register_forward_pre_hook(lambda module, args: go_on.wait(60) and None)
    start = time.monotonic()
    findings = guard.inspect(images, batch_size=2, timeout=0.2)
    assert time.monotonic() - start < 10
    assert len(findings) == N
    for finding in findings[:2]:
        withheld(finding, "no answer within 0.2 s")
    for finding in findings[2:]:
        withheld(finding, "has not ended")
    assert sum(thread.name == "medaegis-watched" for thread in threading.enumerate()) == 1
    withheld(guard.inspect(images[:1], timeout=0.2)[0], "has not ended")
    go_on.set()
    hook.remove()
    for thread in threading.enumerate():
        if thread.name == "medaegis-watched":
            thread.join(60)
    assert guard.inspect(images, timeout=60) == expected


def test_what_a_watched_pass_raises_is_told_as_ever(guard, images):
    spoilt = images.clone()
    spoilt[4] = torch.nan
    assert guard.inspect(spoilt, timeout=60) == guard.inspect(spoilt)
