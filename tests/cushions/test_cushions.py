"""What holds for every cushion there is: exactness, shapes, gradients, refusals, specs."""

import json

import pytest
import torch
from tests.cushions.drawings import drawn

from medaegis.cushions import cushion_with_gradient, cushions, parse_cushion
from medaegis.errors import ConfigError, ImageError

SPECS = [
    "none", "jpeg:80", "jpeg:60:444", "bits:3", "bits:4:mid", "tvm", "tvm:0.7:0.1:10", "median:3", "median:5",
    "gaussian:1.0",
]  # fmt: skip
SHAPES = [(3, 1, 24, 24), (2, 3, 17, 22), (2, 1, 1, 5), (1, 3, 6, 1), (1, 1, 1, 1), (0, 1, 8, 8)]
spec_cases = pytest.mark.parametrize("spec", SPECS)


def test_every_cushion_is_tested_here() -> None:
    by_chance = {"random", "noise", "vote"}  # test_random.py, test_noise.py, test_voting.py
    assert {spec.partition(":")[0] for spec in SPECS} == set(cushions()) - by_chance


@spec_cases
@pytest.mark.parametrize("shape", SHAPES)
def test_output_is_8_bit_images_like_the_input(spec: str, shape: tuple[int, ...]) -> None:
    x = drawn(shape)
    before = x.clone()
    out = parse_cushion(spec)(x)
    assert (out.shape, out.dtype) == (x.shape, torch.float32)
    assert torch.equal(out, (out * 255).round() / 255)
    assert torch.equal(x, before)
    assert out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() or not x.numel()


@spec_cases
def test_input_is_rounded_to_8_bits_first(spec: str) -> None:
    x = drawn((2, 3, 16, 20))
    near = x + 0.4 / 255 * torch.sin(torch.arange(20.0))  # slightly outside [0, 1] where x is at its ends
    cushion = parse_cushion(spec)
    assert torch.equal(cushion(near), cushion(x))
    in_double = cushion(near.double())
    assert in_double.dtype == torch.float64
    assert torch.equal((in_double * 255).round(), (cushion(x) * 255).round().double())


@spec_cases
@pytest.mark.parametrize("channels", [1, 3])
def test_batch_size_order_and_layout_change_nothing(spec: str, channels: int) -> None:
    x = drawn((7, channels, 19, 26))
    cushion = parse_cushion(spec)
    whole = cushion(x)
    assert torch.equal(whole, torch.cat([cushion(part) for part in x.split(3)]))
    assert torch.equal(whole, cushion(x.flip(0)).flip(0))
    assert torch.equal(whole, cushion(x.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(whole, cushion(x.transpose(2, 3).contiguous().transpose(2, 3)))


@spec_cases
def test_an_attack_can_leave_the_cushion_out(spec: str) -> None:
    x = drawn((2, 3, 18, 21)).requires_grad_()
    assert cushion_with_gradient(parse_cushion(spec), x, "skip") is x


@spec_cases
@pytest.mark.parametrize("gradient", ["bpda", "twin"])
def test_forward_is_exact_whatever_the_gradient(spec: str, gradient: str) -> None:
    x = drawn((2, 3, 18, 21)).requires_grad_()
    cushion = parse_cushion(spec)
    out = cushion_with_gradient(cushion, x, gradient)
    assert torch.equal(out, cushion(x))
    assert out.requires_grad
    weights = drawn((2, 3, 18, 21), seed=1)
    (slope,) = torch.autograd.grad((out * weights).sum(), x)
    if gradient == "bpda":
        assert torch.equal(slope, weights)
    else:
        (expected,) = torch.autograd.grad((cushion.twin(x) * weights).sum(), x)
        assert torch.equal(slope, expected)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0
    with torch.no_grad():
        assert not cushion_with_gradient(cushion, x, gradient).requires_grad


@spec_cases
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, 1.01])
def test_pixels_that_are_none_are_refused(spec: str, value: float) -> None:
    x = drawn((2, 1, 9, 9))
    x[1, 0, 4, 4] = value
    with pytest.raises(ImageError, match="NaN or values outside"):
        parse_cushion(spec)(x)


@spec_cases
@pytest.mark.parametrize(
    "x",
    [torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 1, 0, 8), torch.zeros(1, 1, 8, 8).byte(),
     torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16)],
)  # fmt: skip
def test_wrong_shapes_and_types_are_refused(spec: str, x: torch.Tensor) -> None:
    cushion = parse_cushion(spec)
    for call in (cushion, cushion.twin, lambda x: cushion_with_gradient(cushion, x, "bpda")):
        with pytest.raises(ConfigError, match="expected"):
            call(x)


def test_unknown_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match="bpda, twin, skip"):
        cushion_with_gradient(parse_cushion("none"), drawn((1, 1, 8, 8)), "identity")


@spec_cases
def test_spec_and_manifest_lead_back_to_the_same_cushion(spec: str) -> None:
    cushion = parse_cushion(spec)
    again = parse_cushion(cushion.spec)
    assert again.spec == cushion.spec
    assert again.manifest() == cushion.manifest() == json.loads(json.dumps(cushion.manifest()))
    x = drawn((1, 1, 16, 16))
    assert torch.equal(again(x), cushion(x))


def test_probes_tell_cushions_apart() -> None:
    assert len({parse_cushion(spec).manifest()["probe"] for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize(
    "spec",
    ["", "jpg:80", "jpeg", "jpeg:0", "jpeg:101", "jpeg:80.5", "jpeg:80:422", "jpeg:80:420:1", "jpeg:٨٠", "bits",
     "bits:8", "bits:0", "bits:3:top", "tvm:0.5", "tvm:0:0.03:50", "tvm:nan:0.03:50", "tvm:0.5:0.03:0", "median:4",
     "median", "gaussian", "gaussian:inf", "gaussian:0", "gaussian:x", "none:1", " jpeg:80"],
)  # fmt: skip
def test_bad_specs_teach_the_syntax(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cushion(spec)
    name = spec.partition(":")[0]
    syntax = cushions()[name].partition(": ")[0] if name in cushions() else "jpeg:QUALITY[:420|444]"
    assert syntax in str(caught.value)
    assert repr(spec) in str(caught.value)
