"""CLIP weights from files: both forms give the network that PyTorch's own encoder computes; others are refused."""

import gzip
import json

import pytest
import torch
from safetensors.torch import save_file
from tests.zero_shot.clip_weights import (
    CONTEXT,
    HEAD,
    WORDS,
    hugging_face_state,
    image_embeddings,
    open_clip_state,
    text_embeddings,
)

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.models.dual_encoder import create_dual_encoder
from medaegis.zero_shot import BytePairs, WordTokenizer, load_clip, zero_shot

X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor(
    [[18, 3, 5, 19, 0, 0, 0, 0, 0], [18, 2, 19, 19, 19, 19, 19, 19, 19], [18, 1, 2, 3, 4, 5, 6, 7, 19]]
)


def stored(path, state):
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("quick", [False, True])
def test_it_computes_what_pytorchs_encoder_does(quick, tmp_path):
    state = open_clip_state()
    network = load_clip(stored(tmp_path / "c.safetensors", state), quick_gelu=quick, head_width=HEAD).double()
    with torch.no_grad():
        torch.testing.assert_close(network.visual(X.double()), image_embeddings(state, X, quick=quick))
        torch.testing.assert_close(network.text(TOKENS), text_embeddings(state, TOKENS, quick=quick))
    assert network.scale.item() == pytest.approx(torch.tensor(2.0).exp().item())


def test_all_forms_hold_the_same_network(tmp_path):
    state = open_clip_state()
    own_text = {f"text.{key}" if not key.startswith(("visual.", "logit")) else key: v for key, v in state.items()}
    with_numbers = state | {"input_resolution": torch.tensor(16), "context_length": torch.tensor(9)}
    half = {key: value.half() for key, value in state.items()}
    plain = load_clip(stored(tmp_path / "plain.pth", {"state_dict": state}), quick_gelu=True, head_width=HEAD)
    for name, other in {
        "hf.safetensors": hugging_face_state(state),
        "custom.safetensors": own_text,
        "openai.pth": with_numbers,
        "half.safetensors": half,
    }.items():
        found = load_clip(stored(tmp_path / name, other), quick_gelu=True, head_width=HEAD).state_dict()
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(found[key], value, atol=1e-3 if "half" in name else 0, rtol=0, msg=key)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: {k: v for k, v in state.items() if "resblocks.0.mlp.c_fc.weight" not in k}, "is missing"),
        (lambda state: state | {"logit_bias": torch.tensor(1.0)}, "is not in the network"),
        (lambda state: state | {"ln_final.weight": torch.ones(5)}, "expected"),
        (lambda state: {k: v for k, v in state.items() if "conv1" not in k}, "no CLIP with a vision transformer"),
        (lambda state: state | {"visual.conv1.weight": torch.ones(16)}, "no CLIP with a vision transformer"),
        (lambda state: {"layer1.0.conv1.weight": torch.ones(1)}, "no CLIP with a vision transformer"),
    ],
)
def test_other_weights_are_refused(change, problem, tmp_path):
    path = stored(tmp_path / "c.safetensors", change(open_clip_state()))
    with pytest.raises(ConfigError, match=problem):
        load_clip(path, quick_gelu=False, head_width=HEAD)


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="head_width=64"):
        load_clip(stored(tmp_path / "c.safetensors", open_clip_state()), quick_gelu=False)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"visual": torch.nn.Linear(1, 1)}, tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="not tensors alone"):
        load_clip(tmp_path / "c.pt", quick_gelu=False)


def test_the_published_size():
    """149,620,737 weights, as open_clip's table of models has them (ViT-B-16: 149.62 million)."""
    with torch.device("meta"):
        network = create_dual_encoder("clip-ViT-B-16", classes=4)
    assert sum(weight.numel() for weight in network.parameters()) == 149_620_737


def test_loaded_and_asked_it_can_be_attacked(tmp_path):
    network = load_clip(stored(tmp_path / "c.safetensors", open_clip_state()), quick_gelu=False, head_width=HEAD)
    tokenizer = WordTokenizer.of(["an x-ray with without opacity nodule"], size=WORDS, context=CONTEXT)
    prompts = [("an x-ray with {finding}", "an x-ray without {finding}")]
    model = zero_shot(network, tokenizer, ("opacity", "nodule"), size=16, backbone="clip-small", prompts=prompts)
    x = (X * 255).round() / 255
    labels = (model(x) > 0).long()
    run = find_attack("pgd").attack.run(Victim(model), x, labels, eps=16 / 255)
    assert run.images.sub(x).abs().max() <= 16 / 255 + 1e-6
    assert (model.task.losses(model(run.images), labels) > model.task.losses(model(x), labels)).all()


MERGES = ["d u", "l e</w>", "du le</w>", "n o", "no dule</w>", "n o</w>", "du l"]
LETTERS = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]


class TestBytePairs:
    def vocabulary(self):
        pairs = [pair.replace(" ", "") for pair in MERGES]
        tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *pairs, "<|startoftext|>", "<|endoftext|>"]
        return {token: number for number, token in enumerate(tokens)}

    def read(self, folder, *, context=12):
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
        (folder / "vocab.json").write_text(json.dumps(self.vocabulary()), encoding="utf-8")
        return BytePairs.read(folder / "merges.txt", folder / "vocab.json", context=context)

    def test_pairs_are_joined_in_their_order(self, tmp_path):
        numbers = self.vocabulary()
        found = self.read(tmp_path)(["No  nodule, du1"])[0].tolist()
        expected = ["<|startoftext|>", "no</w>", "nodule</w>", ",</w>", "d", "u</w>", "1</w>", "<|endoftext|>"]
        assert found == [*(numbers[token] for token in expected), 0, 0, 0, 0]

    def test_openais_file_alone_gives_the_same_numbers(self, tmp_path):
        known = self.read(tmp_path)
        text = '"bpe_simple_vocab_16e6.txt#version: 0.2\n' + "\n".join(MERGES) + "\n"
        (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(text.encode()))
        said = ["no nodule's dune!", "~film 12%"]
        assert torch.equal(BytePairs.read(tmp_path / "bpe.txt.gz", context=12)(said[1:]), known(said[1:]))

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("merges.txt", None, "cannot be read"),
            ("merges.txt", b"\x1f\x8bno", "cannot be read"),
            ("merges.txt", gzip.compress(b"#version", mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
            ("merges.txt", b"#version\n", "holds no pairs"),
            ("merges.txt", b"#version\nx yz\n", "have no number, as 'xyz'"),
            ("vocab.json", b"{", "cannot be read"),
            ("vocab.json", b"[1]", "holds no numbers"),
            ("vocab.json", b'{"<|startoftext|>": 3, "<|endoftext|>": 2}', "have no number"),
        ],
    )
    def test_other_files_are_refused(self, name, content, problem, tmp_path):
        self.read(tmp_path)
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=problem):
            BytePairs.read(tmp_path / "merges.txt", tmp_path / "vocab.json")

    @pytest.mark.parametrize(
        ("text", "problem"), [("Erguß", "ASCII"), ("nodule " * 11, "13 tokens"), ("\x00", "number")]
    )
    def test_what_it_cannot_read_is_refused(self, text, problem, tmp_path):
        with pytest.raises(ConfigError, match=problem):
            self.read(tmp_path)([text])
