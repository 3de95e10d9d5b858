"""Networks trained elsewhere: wrapped, guarded, attacked, screened, by command line and in Python; the docs' page."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.cli.shop import call, draw
from tests.models import own_networks
from torch.nn.functional import cross_entropy

from medaegis.errors import ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.images import Split, load_dataset
from medaegis.models import wrap_classifier
from medaegis.models.classifier import Classifier
from medaegis.models.store import load_classifier, read_wrapped

ROOT = Path(__file__).parents[2]
OWN = "tests.models.own_networks"
PIXELS = ("--size", 16, "--channels", "gray", "--normalise", "0.5/0.25")


def taught(network, spec, *, size=16, output=None):
    """The network after a few steps of plain PyTorch; the shop's classes are told by brightness."""
    dataset = load_dataset(spec, size=size, channels="gray")
    x, labels = (dataset.pixels() - 0.5).expand(-1, 3, -1, -1) / 0.25, dataset.labels
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(40):
        answer = network(x)
        z = answer if output is None else answer[output]
        logits = torch.cat([-z / 2, z / 2], 1) if z.shape[1] == 1 else z
        optimiser.zero_grad()
        cross_entropy(logits, labels).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw(folder)
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def weights(spec: str, tmp_path_factory):
    """Weights of the three networks, by factory."""
    folder = tmp_path_factory.mktemp("weights")
    made = {"vit": (own_networks.vit(2), None), "one_logit": (own_networks.one_logit(), None)}
    made["in_a_dict"] = (own_networks.in_a_dict(2), "logits")
    for name, (network, output) in made.items():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            state = taught(network, spec, output=output).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    return folder


def wrap(name, weights, out, *more, classes="clear,disc", pixels=PIXELS):
    options = ("--weights", weights / f"{name}.safetensors", "--classes", classes, *pixels, "--out", out)
    return call("wrap", f"{OWN}:{name}", *options, *more)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("vit", (), "logits, in this order: clear, disc"),
        ("one_logit", (), "one of logits: above 0 is 'disc', below is 'clear'"),
        ("in_a_dict", ("--output", "logits"), "logits, its part 'logits', in this order: clear, disc"),
    ],
)
def test_wrapped_guarded_attacked_screened(spec: str, weights, tmp_path, name, more, words):
    classifier, guard, attacked = (tmp_path / part for part in ("c", "g", "a"))
    told = wrap(name, weights, classifier, *more, "--data", spec)
    assert told.exit_code == 0, told.output
    assert words in told.stdout
    accuracy = read_wrapped(classifier).metrics["adv_test"]["accuracy"]
    assert accuracy > 0.8, "the classes are where they belong"
    factory = ("--factory", f"{OWN}:{name}")
    assert f"Next: medaegis fit {classifier} {spec} --out GUARD_DIR --factory {OWN}:{name}" in told.stderr
    made = call("fit", classifier, spec, "--updates", 3, *factory, "--out", guard)
    assert made.exit_code == 0, made.output
    assert f"--factory {OWN}:{name}" in made.stderr
    assert "nothing says which images" not in made.stderr
    options = ("--attack", "wb", "--eps", "8/256", "--steps", 2, "--limit", 6, *factory)
    result = call("attack", guard, spec, *options, "--out", attacked)
    assert result.exit_code == 0, result.output
    assert f"Next: medaegis screen {guard} {attacked} --factory {OWN}:{name}" in result.stderr
    screened = call("screen", guard, attacked, "--format", "jsonl", *factory)
    assert len(screened.stdout.splitlines()) == 6


def test_what_probabilities_cost_is_said_and_what_a_module_is_given_can_be_tapped(weights, tmp_path):
    options = ("--weights", weights / "in_a_dict.safetensors", "--classes", "clear,disc", *PIXELS)
    more = ("--outputs", "probabilities", "--taps", "body.conv2:input,body.last", "--out", tmp_path / "c")
    told = call("wrap", f"{OWN}:in_a_softmax", *options, *more)
    assert told.exit_code == 0, told.output
    assert "probabilities, in this order: clear, disc" in told.stdout
    assert "robustness looks better than it is" in told.stderr
    again = load_classifier(tmp_path / "c", factory=own_networks.in_a_softmax)
    assert again.taps == ("body.conv2:input", "body.last")
    assert again.outputs.form == "probabilities"


def test_shields_of_recipe_paper_read_tokens(spec: str, weights, tmp_path):
    classifier, guard = tmp_path / "c", tmp_path / "g"
    assert wrap("vit", weights, classifier, "--data", spec).exit_code == 0
    assert load_classifier(classifier, factory=own_networks.vit).taps == ("blocks.0", "blocks.1")
    factory = ("--factory", f"{OWN}:vit", "--json")
    paper = ("--recipe", "paper", "--updates", 3, "--taps", "blocks.1")
    fitted = call("fit", classifier, spec, *paper, *factory, "--out", guard)
    assert fitted.exit_code == 0, fitted.output
    loaded = Guard.load(guard, factory=own_networks.vit)
    assert loaded.bank.taps == loaded.classifier.taps == ("blocks.1",)


def test_without_data_every_command_says_that_nobody_knows_and_splits_alike(spec: str, weights, tmp_path):
    classifier, guard = tmp_path / "c", tmp_path / "g"
    told = wrap("one_logit", weights, classifier, "--seed", 5)
    factory = ("--factory", f"{OWN}:one_logit")
    fitted = call("fit", classifier, spec, "--updates", 3, "--seed", 1, *factory, "--out", guard)
    sizes = ("--eps", "8/256", "--steps", 1, "--limit", 6)
    sizes = ("--attacks", "pgd", *sizes, *factory)
    others = [
        call("assess", classifier, spec, *sizes, "--out", tmp_path / "assessment"),
        call("attack", guard, spec, "--attack", "fgsm", "--limit", 4, *factory, "--out", tmp_path / "attacked"),
    ]
    for result in (told, fitted, *others):
        assert result.exit_code in (0, 1), result.output
        assert "nothing says which images it learned from" in result.stderr
    assert (read_wrapped(classifier).learned, read_wrapped(classifier).seed) == ("unknown", 5)
    training = Guard.load(guard, factory=own_networks.one_logit).training
    assert training["split"]["seed"] == 5
    assert training["network_learned"] == "unknown"


def test_classes_in_another_order_are_not_guessed(spec: str, weights, tmp_path):
    result = wrap("one_logit", weights, tmp_path / "c", "--data", spec, classes="disc,clear")
    assert result.exit_code == 2
    assert "add ?classes=disc,clear to the SPEC" in result.stderr
    result = wrap("one_logit", weights, tmp_path / "c", "--data", spec, classes="a,b")
    assert "in this order, a,b" in result.stderr
    assert wrap("one_logit", weights, tmp_path / "d", classes="disc,clear").exit_code == 0
    later = call("fit", tmp_path / "d", spec, "--factory", f"{OWN}:one_logit", "--out", tmp_path / "g")
    assert "add ?classes=disc,clear to the SPEC" in later.stderr


def test_a_wrong_sign_is_seen_on_the_data(spec: str, tmp_path):
    network = taught(own_networks.one_logit(), spec)
    with torch.no_grad():
        for parameter in network.body.fc.parameters():
            parameter.neg_()
    save_file(network.state_dict(), tmp_path / "one_logit.safetensors")
    result = wrap("one_logit", tmp_path, tmp_path / "c", "--data", spec)
    assert "no better than chance" in result.stderr
    assert "order of --classes" in result.stderr


@pytest.mark.parametrize(
    ("name", "more", "pixels", "words"),
    [
        ("one_logit", ("--outputs", "scores"), PIXELS, "give logits or probabilities"),
        ("one_logit", ("--output", "3"), PIXELS, "returns no tensor as 3"),
        ("in_a_dict", (), PIXELS, "returns dict with 'features', 'logits'"),
        ("one_logit", (), (*PIXELS[:4], "--normalise", "127/64"), "divide by 255"),
        ("vit", (), ("--size", 24, *PIXELS[2:]), "does not run on normalised images"),
        ("vit", ("--taps", "blocks.7"), PIXELS, "has no tap 'blocks.7'"),
        ("absent", (), PIXELS, "no function 'absent'"),
        ("images", (), PIXELS, "the factory returned Tensor"),
        ("own", (), PIXELS, "its factory failed: TypeError"),
    ],
)
def test_what_cannot_be_wrapped(weights, tmp_path, name, more, pixels, words):
    for source in ("one_logit", "vit", "in_a_dict"):
        (tmp_path / f"{source}.safetensors").write_bytes((weights / f"{source}.safetensors").read_bytes())
    result = wrap(name, tmp_path, tmp_path / "c", *more, pixels=pixels)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "c").exists()


def test_weights_of_another_network_are_refused_whole(weights, tmp_path):
    (tmp_path / "vit.safetensors").write_bytes((weights / "one_logit.safetensors").read_bytes())
    result = wrap("vit", tmp_path, tmp_path / "c")
    assert result.exit_code == 2
    assert "does not fit the network" in result.stderr


def test_next_steps_can_be_copied(spec: str, weights, tmp_path):
    folder = tmp_path / "my folder"
    told = wrap("one_logit", weights, folder)
    (line,) = (line for line in told.stderr.splitlines() if "Next:" in line)
    words = shlex.split(line.partition("Next: ")[2])
    assert words[:3] == ["medaegis", "fit", str(folder)]
    assert words[-2:] == ["--factory", f"{OWN}:one_logit"]


def test_in_python_data_of_other_classes_and_odd_folders_are_refused(spec: str, tmp_path):
    dataset = load_dataset(spec, size=16, channels="gray")
    told = {"backbone": f"{OWN}:one_logit", "size": 16, "channels": "gray", "normalise": "0.5/0.25"}
    with pytest.raises(DataError, match="in this order, a,b"):
        wrap_classifier(own_networks.one_logit(), tmp_path / "c", classes=("a", "b"), dataset=dataset, **told)
    with pytest.raises(ConfigError, match="expected logits"):
        wrap_classifier(own_networks.one_logit(), tmp_path / "c", classes=("a", "b", "c"), **told)
    made = wrap_classifier(own_networks.one_logit(), tmp_path / "c", classes=("a", "b"), taps=(), **told)
    assert made.taps == ()
    assert not (tmp_path / "c" / "split.json").exists()


def test_the_page_works_as_it_is_written(spec: str, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "own-network.md").read_text(encoding="utf-8")
    module, script = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("clinic.py").write_text(module)
    Path("unseen").symlink_to(spec.removeprefix("folder:"))
    names: dict = {}
    exec(module, names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(taught(names["build"](), "folder:unseen", size=32, output="logits").state_dict(), "weights.pth")
    (commands,) = re.findall(r"```\nexport PYTHONPATH=.\n(.*?)```", page, re.DOTALL)
    few = {"fit": ("--updates", "3"), "attack": ("--limit", "4", "--steps", "2")}
    for line in commands.splitlines():
        program, verb, *options = shlex.split(line)
        assert program == "medaegis"
        result = call(verb, *options, *few.get(verb, ()))
        assert result.exit_code in ((0, 1) if verb == "screen" else (0,)), result.output
    exec(script.replace("updates=2400", "updates=3"), names)
    assert isinstance(names["classifier"], Classifier)
    split = Split.load("runs/classifier/split.json", names["unseen"])
    assert split == names["split"], "by command and in Python alike"
    first = Guard.load("runs/guard", factory=names["build"])
    assert first.fingerprint() == names["guard"].fingerprint()
