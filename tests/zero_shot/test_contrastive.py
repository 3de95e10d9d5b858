"""Sentences, their tokens, the text head, and the training of both encoders."""

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.shop import call
from tests.models.drawn import CONFIG, squares
from tests.models.test_training import Stop, stop_at
from tests.tasks.small import findings

from medaegis.errors import ConfigError
from medaegis.images.phantoms import FINDINGS
from medaegis.models import training
from medaegis.models.dual_encoder import create_dual_encoder
from medaegis.models.learning import TrainConfig
from medaegis.models.store import load_classifier, read_training
from medaegis.models.training import train_classifier
from medaegis.zero_shot import PHRASES, PROMPTS, Contrastive, WordTokenizer, contrastive_loss, report, zero_shot
from medaegis.zero_shot.prompts import prompt_tokens
from medaegis.zero_shot.sentences import spoken

SHORT = TrainConfig(backbone="clip-small", epochs=2, batch_size=20, lr=2e-3, augmentation=False)


def clauses(there):
    """What may be said: clause -> finding."""
    return {spoken(pair[1 - has], name): name for name, has in zip(FINDINGS, there, strict=True) for pair in PHRASES}


def test_a_report_says_what_is_true_and_each_finding_once():
    u = torch.rand(400, len(FINDINGS), 3, generator=torch.Generator().manual_seed(0))
    spoken_of, lengths = Counter(), Counter()
    for i, one in enumerate(u):
        there = tuple(i >> k & 1 for k in range(len(FINDINGS)))
        said = [clauses(there)[clause] for clause in report(FINDINGS, there, one).split(". ")]
        assert 1 <= len(said) == len(set(said))
        lengths[len(said)] += 1
        spoken_of.update((name, there[FINDINGS.index(name)]) for name in said)
    assert len(lengths) == 4
    for name in FINDINGS:  # 200 draws of each; never fewer than one clause adds a little
        assert 160 <= spoken_of[name, 1] <= 200
        assert 25 <= spoken_of[name, 0] <= 75


def test_of_many_findings_a_report_names_few():
    names = [f"finding {k}" for k in range(14)]
    u = torch.rand(50, 14, 3, generator=torch.Generator().manual_seed(0))
    assert {len(report(names, [1] * 14, one).split(". ")) for one in u} == {4}


def test_prompts_are_new_sentences_of_known_words():
    tokenizer = Contrastive(FINDINGS).tokenizer
    learned = {clause for there in ((0,) * 4, (1,) * 4) for clause in clauses(there)}
    asked = {spoken(phrase, name) for name in FINDINGS for pair in PROMPTS for phrase in pair}
    assert not learned & asked
    assert tokenizer(sorted(asked)).shape == (len(PROMPTS) * 2 * len(FINDINGS), tokenizer.context)


def test_words_that_do_not_fit_are_refused():
    tokenizer = WordTokenizer.of(["no opacity is seen"], size=16, context=5)
    for text, problem in (("no opacities", "near it: opacity"), ("no no no no", "6 tokens")):
        with pytest.raises(ConfigError, match=problem):
            tokenizer([text])
    with pytest.raises(ConfigError, match="room is for 2"):
        WordTokenizer.of(["no opacity is seen"], size=5, context=5)


def test_the_loss_is_that_of_clip():
    """Radford 2021, figure 3, pair by pair."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    cosine = [[float(a @ b / (a.norm() * b.norm())) for b in texts] for a in images]
    scores = torch.tensor(cosine, dtype=torch.float64) * 7
    of_images = [-(scores[i, i] - torch.log(sum(torch.exp(scores[i, j]) for j in range(5)))) for i in range(5)]
    of_texts = [-(scores[j, j] - torch.log(sum(torch.exp(scores[i, j]) for i in range(5)))) for j in range(5)]
    expected = (sum(of_images) / 5 + sum(of_texts) / 5) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, torch.tensor(7.0)), expected)


def test_a_logit_is_the_difference_of_two_similarities_times_the_scale():
    network, tokenizer = create_dual_encoder("clip-small", classes=2).eval(), Contrastive(FINDINGS[:2]).tokenizer
    network.set_prompts(prompt_tokens(tokenizer, FINDINGS[:2], PROMPTS))
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = network(x)
    logits.sum().backward()
    assert all(weight.grad is None for weight in (*network.text.parameters(), network.logit_scale))
    assert all(weight.grad is not None for weight in network.visual.parameters())
    with torch.no_grad():
        for i, image in enumerate(network.visual(x)):
            for k, finding in enumerate(FINDINGS[:2]):
                cosines = []
                for side in (0, 1):
                    each = [network.text(tokenizer([spoken(pair[side], finding)]))[0] for pair in PROMPTS]
                    mean = sum(one / one.norm() for one in each) / len(each)
                    cosines.append(image @ mean / (image.norm() * mean.norm()))
                expected = (cosines[0] - cosines[1]) / 0.07
                assert logits[i, k].item() == pytest.approx(expected.item(), abs=1e-4)


def test_stopped_it_goes_on_to_the_same_weights_and_is_asked_anew_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    dataset, split = findings()
    recipe = Contrastive(dataset.classes)
    whole = train_classifier(dataset, split, SHORT, tmp_path / "whole", recipe=recipe)
    for step in (2, 6):  # within the first epoch, and within the second
        with pytest.raises(Stop):
            train_classifier(dataset, split, SHORT, tmp_path / "cut", stop_at(step), recipe=recipe)
    train_classifier(dataset, split, SHORT, tmp_path / "cut", recipe=recipe)
    one, other = (load_file(tmp_path / name / "network.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())

    again, told = load_classifier(tmp_path / "whole"), read_training(tmp_path / "whole")["recipe"]
    x = dataset.pixels(split.adv_test)
    assert again.task.name == "multi"
    torch.testing.assert_close(again(x), whole(x))
    tokenizer = WordTokenizer(told["words"])
    options = {"size": 16, "channels": "gray", "backbone": "clip-small", "normalise": "imagenet"}
    asked = zero_shot(again.network, tokenizer, ("below", "left"), **options)
    torch.testing.assert_close(asked(x), whole(x)[:, [2, 0]])


def test_it_learns(tmp_path):
    """Not one label is a target, and still it tells the findings apart by prompts that it was never given."""
    dataset, split = findings()
    config = SHORT.model_copy(update={"epochs": 16})
    train_classifier(dataset, split, config, tmp_path / "c", recipe=Contrastive(dataset.classes))
    assert read_training(tmp_path / "c")["metrics"]["adv_test"]["auroc"] > 0.8


def test_a_network_without_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no text encoder"):
        train_classifier(*squares(), CONFIG, tmp_path / "c", recipe=Contrastive(("dark", "bright")))
    with pytest.raises(ConfigError, match="not registered"):
        create_dual_encoder("clip-resnet19", classes=2)


@pytest.mark.parametrize(
    ("spec", "options", "problem"),
    [
        ("phantom-xray?n=150", ["--text"], "these data have none"),
        ("phantom-findings?n=12", ["--text", "--robust", "tecoa"], "second stage"),
        ("phantom-findings?n=12", ["--backbone", "clip-small"], "add --text"),
        ("phantom-findings?n=12", ["--robust", "fare"], "--helper"),
    ],
)
def test_options_that_make_no_sense_are_refused(spec, options, problem, tmp_path):
    shown = call("train", spec, *options, "--size", "16", "--out", tmp_path / "c")
    assert shown.exit_code == 2
    assert problem in " ".join(shown.stderr.split())
