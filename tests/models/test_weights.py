"""Files of weights: where training code puts them; whatever else is refused in our own words, and not run."""

import io
import os
import pickle
import random

import pytest
import torch
from safetensors.torch import save, save_file
from tests.models.tiny_networks import Tiny
from torch import nn

from medaegis.errors import ConfigError
from medaegis.models.weights import load_weights


def state():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Tiny(2).state_dict()


def legacy(content):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class _Bomb:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "nested",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"model_state_dict": weights},
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
    ],
)
@pytest.mark.parametrize("pickled", [zipped, legacy])
def test_weights_are_found_where_training_code_puts_them(tmp_path, nested, pickled):
    weights, network = state(), Tiny(2)
    (tmp_path / "w.pth").write_bytes(pickled(nested(weights)))
    load_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


DAMAGED = {
    "empty": b"",
    "text": b"no weights\n" * 9,
    "zeros": bytes(200),
    "a pickle that ends at once": b".",
    "a pickle that sets items of nothing": b"\x80\x02}q\x00u.",
    "a pickle that recalls nothing": b"\x80\x02h\x05.",
    "plain pickle": pickle.dumps({"a": 1}),
    "zip cut short": zipped({"a": torch.ones(300)})[:-40],
    "legacy cut short": legacy({"a": torch.ones(300)})[:-40],
}


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        load_weights(Tiny(2), path)
    assert caught.value.problem
    assert caught.value.remedy
    for unsafe in ("weights_only", "add_safe_globals", "allowlist", "arbitrary code"):
        assert unsafe not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_what_is_no_file_of_weights_is_refused(tmp_path, name, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(DAMAGED[name])
    refusal(path)


@pytest.mark.parametrize("made", [zipped, legacy])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_file_cut_short_anywhere_is_told_as_one(tmp_path, made, share):
    """Some of these make the reader ask the system for places that are not there, which is no fault of the disk."""
    whole = made({"a": torch.ones(30_000), "b": torch.ones(3)})
    (tmp_path / "w.pth").write_bytes(whole[: int(share * len(whole))])
    assert refusal(tmp_path / "w.pth").problem == "is no file of weights, cut short, or damaged"
    with pytest.raises(ConfigError, match=r"(n|N)o such file"):
        load_weights(Tiny(2), tmp_path / "gone.pth")


@pytest.mark.parametrize("pickled", [zipped, legacy, pickle.dumps])
def test_what_would_run_code_is_not_run_and_the_remedy_is_safe(tmp_path, capsys, pickled):
    path = tmp_path / "w.pth"
    path.write_bytes(pickled(_Bomb()))
    told = refusal(path)
    assert "never run" not in capsys.readouterr().out
    assert "safetensors.torch.save_file(network.state_dict()" in told.remedy


def test_a_whole_pickled_network_is_told_as_one(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    assert "object of torch.nn.modules.linear.Linear" in refusal(tmp_path / "w.pth").problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no state dict"),
        ({}, "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({3: torch.ones(2)}, "something else than text"),
        ({"a": torch.eye(2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2, device="meta")}, "sparse, quantised or empty"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path, content, words):
    torch.save(content, tmp_path / "w.pth")
    assert words in refusal(tmp_path / "w.pth").problem


@pytest.mark.parametrize("whole", [zipped(state()), legacy(state()), save(state())], ids=["zip", "legacy", "safe"])
def test_damage_anywhere_loads_or_is_refused(tmp_path, whole, request):
    path = tmp_path / ("w.safetensors" if request.node.callspec.id == "safe" else "w.pth")
    draw, refused = random.Random(0), 0
    for _ in range(120):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(min(len(data), 900))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)
        try:
            load_weights(Tiny(2), path)
        except ConfigError:
            refused += 1
    assert refused > 30


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_without_the_right_to_read_it(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(state(), path)
    path.chmod(0)
    refusal(path)
