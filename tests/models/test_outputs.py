"""Whatever form a network's outputs have, logits come out: against the network itself and closed forms."""

import json

import pytest
import torch
from tests.models.own_networks import images, network, own

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Victim
from medaegis.detectors.reader import PENULTIMATE, Reader
from medaegis.errors import ArtefactError, ConfigError
from medaegis.models.outputs import Outputs, looks_like_probabilities
from medaegis.models.store import load_classifier, save_classifier

KEYS = {"dict": "logits", "object": "logits", "tuple": 1, "named": "logits"}
FORMS = {"softmax": "probabilities", "sigmoid": "probabilities"}
READ = ["column", "row", "squeezed", *KEYS, *FORMS]


def read(name, **options):
    return own(name, output=KEYS.get(name), outputs=FORMS.get(name), **options)


def raw(name, x):
    """What the tiny network itself gives, before whatever is done to its outputs."""
    return network(name).body((x - 0.5) / 0.25)


@pytest.mark.parametrize("name", ["column", "row", "squeezed"])
@pytest.mark.parametrize("n", [1, 6])
def test_one_logit_is_two_with_the_same_probabilities_and_no_common_part(name, n):
    x = images(n)
    z = raw(name, x).squeeze(1)
    found = read(name)(x)
    torch.testing.assert_close(found, torch.stack([-z / 2, z / 2], 1))
    torch.testing.assert_close(found.softmax(1)[:, 1], torch.sigmoid(z))
    assert torch.equal(found.argmax(1), (z > 0).long()), "above 0 is the second class"


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("n", [1, 6])
def test_the_part_that_is_named_holds_the_logits(name, n):
    torch.testing.assert_close(read(name)(images(n)), raw(name, images(n)))


def test_the_logarithm_of_probabilities():
    x = images()
    torch.testing.assert_close(read("softmax")(x), raw("softmax", x).log_softmax(1))
    z = raw("sigmoid", x).squeeze(1)
    torch.testing.assert_close(read("sigmoid")(x), torch.stack([-z / 2, z / 2], 1), rtol=1e-4, atol=1e-4)


def test_certain_probabilities_have_finite_logits():
    many = Outputs(form="probabilities").logits(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    one = Outputs(form="probabilities").logits(torch.tensor([[0.0], [1.0]]))
    assert many.isfinite().all()
    assert one.isfinite().all()
    assert float(one[1, 1] - one[1, 0]) == pytest.approx(16.6, abs=0.1)


@pytest.mark.parametrize("name", READ)
def test_every_way_into_the_classifier_reads_alike(name):
    c, x = read(name), images()
    expected = c(x)
    torch.testing.assert_close(c.activations(x).logits, expected)
    torch.testing.assert_close(c.frozen()(x), expected)
    torch.testing.assert_close(c.frozen(fold=False).activations(x).logits, expected)
    grad = x.clone().requires_grad_()
    assert float(torch.autograd.grad(c(grad)[:, 1].sum(), grad)[0].abs().sum()) > 0


@pytest.mark.parametrize("name", READ)
def test_a_folder_rebuilds_the_adapter(name, tmp_path):
    c, x = read(name), images()
    save_classifier(c, tmp_path / "c")
    again = load_classifier(tmp_path / "c", factory=lambda classes: network(name))
    assert torch.equal(again(x), c(x))


def test_a_folder_without_adapter_is_as_earlier_versions_wrote_it(tmp_path):
    save_classifier(own("column"), tmp_path / "c")
    told = json.loads((tmp_path / "c" / "manifest.json").read_text())["classifier"]
    assert set(told) == {"backbone", "classes", "size", "channels", "taps", "mean", "std"}


def test_a_folder_of_a_network_that_was_replaced_is_refused(tmp_path):
    save_classifier(read("dict"), tmp_path / "c")
    with pytest.raises(ArtefactError, match="returns no tensor as 'logits', but tuple of 2 parts"):
        load_classifier(tmp_path / "c", factory=lambda classes: network("tuple"))


@pytest.mark.parametrize("name", READ)
def test_what_the_last_layer_is_given_is_found(name):
    reader = Reader(read(name))
    seen = reader.read(images())
    assert reader.head is not None
    made = seen.feature(PENULTIMATE) @ reader.head.weight.T + reader.head.bias
    torch.testing.assert_close(made.softmax(1), seen.logits.softmax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attack", ["pgd", "deepfool", "jsma"])
def test_attacks_take_one_logit_as_its_two(attack):
    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = network("column")

        def forward(self, x):
            z = self.one(x)
            return torch.cat([-z / 2, z / 2], 1)

    one = read("column")
    two = own("column")
    two = type(two)(Twin(), classes=("a", "b"), size=16, taps=(), backbone="own:twin", mean=(0.5,), std=(0.25,)).eval()
    x = images()
    found = []
    for c in (one, two):
        victim = Victim(c, dtype=torch.float32)
        found.append(find_attack(attack).attack.run(victim, x, victim.judge(x).predicted, eps=16 / 256))
    assert torch.equal(found[0].fooled, found[1].fooled)
    torch.testing.assert_close(found[0].images, found[1].images)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dict", {}, "returns dict with 'features', 'logits'; name the part"),
        ("dict", {"output": "score"}, "returns no tensor as 'score', but dict with"),
        ("object", {"output": "loss"}, "returns no tensor as 'loss', but Answer with"),
        ("tuple", {}, r"returns tuple of 2 parts \(0 to 1\)"),
        ("tuple", {"output": 5}, "returns no tensor as 5"),
        ("column", {"output": "logits"}, "returns no tensor as 'logits'"),
        ("numbers", {"taps": ()}, "class numbers instead of logits|returns int64"),
        ("softmax", {}, "returns probabilities, expected logits.*outputs='probabilities'"),
        ("softmax", {"outputs": "logits"}, "returns probabilities, expected logits"),
        ("sigmoid", {}, "between 0 and 1, whatever the images: logits, or probabilities by a sigmoid"),
        ("each", {}, "a sigmoid for each class.*several classes at once"),
        ("each", {"outputs": "probabilities"}, "do not add up to 1"),
        ("column", {"outputs": "probabilities"}, "are no probabilities"),
        ("dict", {"output": "logits", "outputs": "probabilities"}, "are no probabilities"),
        ("column", {"outputs": "scores"}, "give logits or probabilities"),
        ("column", {"classes": ("a", "b", "c")}, r"returns \(2, 1\) for 2 images, expected logits \(2, 3\)"),
    ],
)
def test_what_can_be_meant_in_two_ways_or_none_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        own(name, **options)


def test_a_sigmoid_may_be_said_to_be_a_logit():
    x = images()
    p = raw("sigmoid", x).sigmoid().squeeze(1)
    torch.testing.assert_close(own("sigmoid", outputs="logits")(x), torch.stack([-p / 2, p / 2], 1))


def test_probabilities_are_told_from_logits():
    assert looks_like_probabilities(torch.rand(5, 4).softmax(1))
    assert not looks_like_probabilities(torch.rand(5, 4))
    assert not looks_like_probabilities(torch.tensor([[2.0, -1.0]]))
