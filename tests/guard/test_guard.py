"""The guard asked about images: findings say what the verdict says, and whatever goes wrong inside withholds."""

import dataclasses
import threading
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.guard.small import make_guard

from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import ConfigError
from medaegis.guard.finding import FAINTEST, blank
from medaegis.guard.guard import Guard

N = 9


@pytest.fixture(scope="module")
def guard():
    return make_guard()


@pytest.fixture(scope="module")
def images(guard):
    return toy_images(N, guard.classifier, seed=4)


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
