"""The front door: one line for each task, any kind of array, and errors that say what to give instead."""

import doctest
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.attacks.toys import seeded
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler
from torch.utils.data import Dataset as TorchDataset

import medaegis as ma
from medaegis import arrays
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError, DataError
from medaegis.models import normalisation

ROOT = Path(__file__).parents[1]
CLASSES = ("normal", "pneumonia")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """Decoded images never go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDAEGIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))
    return ma.wrap(network, classes=CLASSES, size=16, normalise="imagenet")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in ma.__all__ if name != "__version__"])
def test_every_name_has_an_example_that_runs(name):
    examples = [each for each in doctest.DocTestFinder().find(getattr(ma, name), name) if each.examples]
    assert name in {each.name for each in examples}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        assert not any(runner.run(each).failed for each in examples)


def test_the_example_of_normalisation_runs():
    assert doctest.testmod(normalisation).attempted
    assert not doctest.testmod(normalisation).failed


def test_importing_it_is_light_and_every_name_is_there():
    light = "import sys, medaegis; assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy'"
    subprocess.run([sys.executable, "-c", light], check=True)
    for name in ma.__all__:
        assert getattr(ma, name) is not None
        assert name in dir(ma)
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        ma.atack  # noqa: B018


def test_an_attack_by_name_is_the_engines(model, images):
    labels = model(images / 255).argmax(1)
    found = ma.attack("pgd", model, images, labels, eps="8/255", steps=3, seed=5)
    entry = ma.attack(find_attack("pgd").attack, model, images, labels, eps=8 / 255, steps=3, seed=5)
    expected = find_attack("pgd").attack.with_options(steps=3)
    straight = expected.run(Victim(model), images.float() / 255, labels, eps=8 / 255, seed=5)
    assert torch.equal(found.images, straight.images)
    assert torch.equal(entry.images, straight.images)
    assert not torch.equal(found.images, images / 255)


class Pairs(TorchDataset):
    """Images with their labels, as somebody would write it."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return self.images[place], self.labels[place]


class Stream(IterableDataset):
    """The same without a length or an end of its own."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        return iter(self.pairs)


class NoLength(TorchDataset):
    def __init__(self, images, labels):
        self.pairs = list(zip(images, labels, strict=True))

    def __getitem__(self, place):
        return self.pairs[place]


ONE = {
    "numpy": lambda x: x.numpy(),
    "read-only": lambda x: np.frombuffer(x.numpy().tobytes(), np.uint8).reshape(x.shape),
    "strided": lambda x: np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "other byte order": lambda x: (x.double() / 255).numpy().astype(">f4"),
    "float16": lambda x: (x.double() / 255).half(),
    "bfloat16": lambda x: (x.double() / 255).bfloat16(),
    "float64": lambda x: x.double() / 255,
    "needs gradients": lambda x: (x.double() / 255).requires_grad_(),
}
OTHER = {
    "numpy": lambda y: y.numpy(),
    "names": lambda y: [CLASSES[one] for one in y.tolist()],
    "array of names": lambda y: np.array(CLASSES)[y.numpy()],
    "list": lambda y: y.tolist(),
    "list of tensors": lambda y: list(y),
    "int32": lambda y: y.int(),
    "uint16": lambda y: y.numpy().astype(np.uint16),
}
BOTH = {
    "pairs": Pairs,
    "pairs of names": lambda x, y: Pairs(x.numpy(), [CLASSES[one] for one in y.tolist()]),
    "no length": NoLength,
    "stream": lambda x, y: Stream(list(zip(x, y, strict=True))),
    "loader": lambda x, y: DataLoader(Pairs(x, y), batch_size=5),
    "loader of floats": lambda x, y: DataLoader(Pairs(x / 255, y), batch_size=5),
    "loader of names": lambda x, y: DataLoader(Pairs(x, [CLASSES[one] for one in y.tolist()]), batch_size=5),
    "loader of single images": lambda x, y: DataLoader(Pairs(x, y), batch_size=None),
    "loader of batches": lambda x, y: DataLoader([(x[:7], y[:7]), (x[7:], y[7:])], batch_size=None),
    "loader of a stream": lambda x, y: DataLoader(Stream(list(zip(x, y, strict=True))), batch_size=5),
    "ours": lambda x, y: ours(x, y),
}


def ours(images, labels):
    names = tuple(map(str, range(len(images))))
    return ma.Dataset("arrays", images, labels, CLASSES, names, names, torch.arange(len(images)))


def attacked(model, *given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ma.attack("bim", model, *given, eps="4/255", steps=2).images


@pytest.mark.parametrize("kind", ONE)
def test_all_kinds_of_images_give_the_same(model, images, kind):
    labels = model(images / 255).argmax(1)
    assert torch.equal(attacked(model, ONE[kind](images), labels), attacked(model, images, labels))


@pytest.mark.parametrize("kind", OTHER)
def test_all_kinds_of_labels_give_the_same(model, images, kind):
    labels = model(images / 255).argmax(1)
    assert torch.equal(attacked(model, images, OTHER[kind](labels)), attacked(model, images, labels))


@pytest.mark.parametrize("kind", BOTH)
def test_what_holds_images_and_labels_gives_the_same(model, images, kind):
    labels = model(images / 255).argmax(1)
    given = BOTH[kind](images, labels)
    assert torch.equal(attacked(model, given), attacked(model, images, labels))


def test_a_spec_is_attacked_and_known_as_its_arrays_are():
    model = ma.load("tests/golden/classifier", factory="tests.models.tiny_networks:tiny")
    data, spec = ma.load_dataset("phantom-xray?n=60", size=32, channels="gray"), "phantom-xray?n=60"
    x, y = data.images[:4], data.labels[:4]
    assert torch.equal(attacked(model, spec), attacked(model, data.images, data.labels))
    for known in (spec, data, Pairs(data.images, data.labels), DataLoader(Pairs(data.images, data.labels))):
        found = ma.attack("hfc", model, x, y, eps="8/255", steps=2, known=known)
        same = ma.attack("hfc", model, x, y, eps="8/255", steps=2, known=(data.images, data.labels))
        assert torch.equal(found.images, same.images)


def test_detectors_take_loaders(model, images):
    y = torch.arange(60) % 2
    x = torch.cat([images] * 5)
    pairs = Pairs(x, y)
    scores = ma.detector("kd", model).fit(x, y).score(x[:9])
    assert torch.equal(ma.detector("kd", model).fit(DataLoader(pairs, 7)).score(Pairs(x[:9], y)), scores)
    lid = [
        ma.detector("lid", model, neighbours=4).fit(given, attacked=hostile).score(x[:9])
        for given, hostile in ((pairs, x.flip(3)), (DataLoader(pairs, 7), DataLoader(Pairs(x.flip(3), y), 7)))
    ]
    assert torch.equal(*lid)


def endless(images, labels):
    class Endless(Stream):
        def __iter__(self):
            return cycle(self.pairs)

    return Endless(list(zip(images, labels, strict=True)))


def mixed(images, labels):
    return Pairs([images[0], images[1, :, :, :9]], labels)


class Broken(Pairs):
    def __getitem__(self, place):
        if place == 2:
            raise RuntimeError("no such\nfile")
        return super().__getitem__(place)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda x, y: DataLoader(Pairs(x, y), shuffle=True), "DataLoader: shuffles: .* shuffle=False"),
        (lambda x, y: DataLoader(Pairs(x, y), sampler=SubsetRandomSampler([1, 2])), "shuffles"),
        (lambda x, y: DataLoader(Pairs(x, y), batch_sampler=BatchSampler(RandomSampler(x), 2, False)), "shuffles"),
        (endless, "Endless: has given 14 images, and may never end; let it end, or give it a length"),
        (lambda x, y: DataLoader(endless(x, y), 4), "DataLoader: has given 16 images, and may never end"),
        (mixed, r"Pairs: got \(1, 3, 16, 9\); give \(N, 3, 16, 16\)"),
        (lambda x, y: DataLoader(mixed(x, y), 4), "fails at batch 0: RuntimeError: .*; .* must have one size"),
        (lambda x, y: Pairs([x[0], x[1] / 255], y), "gives torch.uint8 on cpu and torch.float32 on cpu; .* one type"),
        (Broken, "Broken: fails at image 2: RuntimeError: no such file"),
        (lambda x, y: Pairs(x, y / 2), r"tensor\(0.*\) is no class; give whole numbers"),
        (lambda x, y: DataLoader(Pairs(x, y.float())), "[01].0 is no class; give whole numbers"),
        (lambda x, y: Pairs(x, [[0, 1]] * 12), r"\[0, 1\] is no class"),
        (lambda x, y: DataLoader(Pairs(x, torch.eye(2)[y].long())), r"\[[01], [01]\] is no class"),
        (lambda x, y: Pairs(x, ["normal", "effusion"] * 6), "effusion: no such class"),
        (lambda x, y: Pairs(x, y + 1), "go from 1 to 2"),
        (lambda x, y: Pairs(x[:0], y[:0]), "Pairs: holds no image"),
        (lambda x, y: DataLoader(Stream([])), "DataLoader: holds no image"),
        (lambda x, y: DataLoader(list(x)), "gives a Tensor of 1, expected .image, label."),
        (lambda x, y: Pairs(["a.png"] * 12, y), "gives a str as image; let it give tensors or arrays"),
        (lambda x, y: DataLoader([(x, 1)], batch_size=None), "gives the label 1 for 12 images"),
        (lambda x, y: DataLoader([(x, y[:5])], batch_size=None), "gives 5 labels for 12 images"),
        (lambda x, y: x, "labels: none, and arrays hold none; give labels"),
        (lambda x, y: list(x), "got list; give an array, a torch Dataset or DataLoader, or a spec"),
        (lambda x, y: ours(x[..., :8, :8].contiguous(), y), r"got \(12, 3, 8, 8\); give \(N, 3, 16, 16\)"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_reason(model, images, monkeypatch, given, says):
    monkeypatch.setattr(arrays, "MOST", 10_000)  # values: 13 images
    labels = model(images / 255).argmax(1)
    with pytest.raises(ConfigError, match=says):
        ma.attack("fgsm", model, given(images, labels), eps="8/255")


def test_labels_come_from_one_place(model, images):
    labels = model(images / 255).argmax(1)
    for given in (Pairs(images, labels), ours(images, labels), "phantom-xray?n=8"):
        with pytest.raises(ConfigError, match="labels: given, and"):
            ma.attack("fgsm", model, given, labels, eps="8/255")
    with pytest.raises(ConfigError, match="patients: given, and the data set holds its own"):
        ma.fit(model, ours(images, labels), patients=list("abcdefghijkl"), updates=2)
    with pytest.raises(DataError, match="its classes are clear, opacity"):
        ma.attack("fgsm", model, "phantom-xray?n=8", eps="8/255")


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def inference_under_autocast():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        yield


MODES = {
    "no_grad": torch.no_grad,
    "inference under autocast": inference_under_autocast,
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
}


def tour(network, folder):
    """Every entry of the front door once."""
    data = ma.load_dataset("phantom-xray?n=240", size=32, channels="gray")
    own = "tests.models.tiny_networks:tiny"
    model = ma.wrap(network, classes=data.classes, size=32, channels="gray", normalise="imagenet", backbone=own)
    x, y = data.images[:40], data.labels[:40]
    between = x.clone().to(torch.float32) / 255 * 0.999
    loader = DataLoader(Pairs(x, y), 16)
    bare = ma.attack("pgd", model, between[:4], y[:4], eps=0.01, steps=2, rounding="none")
    known = ma.attack("hfc", model, x[:4], y[:4], eps="8/255", steps=2, known=loader)
    detector = ma.detector("kd", model).fit(loader)
    guard = ma.fit(model, data.images, data.labels, patients=data.patients, updates=2, out=folder)
    through = ma.attack("wb", ma.load(folder, factory=own), x[:4], y[:4], eps="8/255", steps=2)
    pictures = folder.with_name(f"{folder.name} pictures")
    write_folder_of_pictures(pictures, x[:3, 0].numpy())
    found = sorted(guard.screen(pictures), key=lambda one: one.path)
    screened = torch.tensor([one.finding.score for one in found], dtype=torch.float32)
    judged = guard.judge(x.float() / 255).score
    return [bare.images, known.images, detector.score(x[:5]), judged, through.images, screened]


def test_modes_of_the_caller_change_nothing(tmp_path):
    network = ma.load("tests/golden/classifier", factory="tests.models.tiny_networks:tiny").network
    outside = tour(network, tmp_path / "outside")
    for name, mode in MODES.items():
        with mode():
            inside = tour(network, tmp_path / name)
        for place, (one, other) in enumerate(zip(outside, inside, strict=True)):
            assert one.dtype == other.dtype, (name, place)
            assert torch.equal(one, other), (name, place)


def test_pixels_between_the_grey_levels_are_rounded_with_a_word_or_left(model, images):
    labels = model(images / 255).argmax(1)
    between = (images / 255 + 0.4 / 255).clamp(0, 1)
    with pytest.warns(UserWarning, match=r"rounded to 8 bits \(by up to 0\.40"):
        found = ma.attack("bim", model, between, labels, eps="4/255", steps=2)
    assert torch.equal(found.images * 255, (found.images * 255).round())
    left = ma.attack("bim", model, between, labels, eps=0.5 / 255, steps=2, rounding="none")
    far = (left.images - between).abs().amax((1, 2, 3)) * 255
    assert far.max() <= 0.5001
    assert (far > 0.4).all()
    with pytest.raises(ConfigError, match="less than a grey level"):
        ma.attack("bim", model, images, labels, eps=0.5 / 255)


def test_several_eps_are_so_many_attacks(model, images):
    labels = model(images / 255).argmax(1)
    told = []
    both = ma.attack(
        "fgsm",
        model,
        images,
        labels,
        eps=["2/255", 8 / 255],
        progress=lambda done, total, _: told.append((done, total)),
    )
    for one, eps in zip(both, ("2/255", "8/255"), strict=True):
        assert torch.equal(one.images, ma.attack("fgsm", model, images, labels, eps=eps).images)
    assert told == [(12, 24), (24, 24)]


def test_until_broken_as_many_break_and_most_of_the_passes_are_spared(model, images):
    labels = model(images / 255).argmax(1)
    options = {"eps": ["8/255", "1/255", "64/255"], "steps": 40}
    curve = ma.attack("pgd", model, images, labels, **options, until="broken")
    for found, whole in zip(curve, ma.attack("pgd", model, images, labels, **options), strict=True):
        assert (found.broken | ~whole.broken).all()
        assert found.forwards + found.backwards + found.checks < whole.forwards + whole.backwards
    narrow, wide = curve[0], curve[2]
    assert 0 < narrow.broken.sum() <= wide.broken.sum()
    assert torch.equal(wide.images[narrow.broken], narrow.images[narrow.broken])
    with pytest.raises(ConfigError, match="until 'fooled'"):
        ma.attack("pgd", model, images, labels, eps="8/255", until="fooled")


def test_targets_are_drawn_or_given(images):
    with seeded(1):
        network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    model = ma.wrap(network, classes=("a", "b", "c"), size=16, normalise=None)
    labels = model(images / 255).argmax(1)
    given = (labels + 1) % 3
    found = ma.attack("bim", model, images, labels, eps="64/255", targets=given)
    assert torch.equal(found.verdict.predicted, given)
    with pytest.raises(ConfigError, match="targets: 1 for"):
        ma.attack("bim", model, images, labels, eps="64/255", targets=given[:1])
    drawn = ma.attack("bim", model, images, labels, eps="64/255", targets="random")
    assert torch.equal(drawn.verdict.predicted, pick_targets(labels, 3))


def test_what_an_attack_needs_is_asked_for(model, images):
    labels = model(images / 255).argmax(1)
    with pytest.raises(ConfigError, match="aimed at a Shield, and the target has none"):
        ma.attack("wb", model, images, labels, eps="8/255")
    with pytest.raises(ConfigError, match="give known="):
        ma.attack("hfc", model, images, labels, eps="8/255")
    with pytest.raises(ConfigError, match="did you mean 'pgd'"):
        ma.attack("pdg", model, images, labels, eps="8/255")
    more = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = ma.attack("hfc", model, images, labels, eps="8/255", steps=2, known=(more, model(more / 255).argmax(1)))
    assert found.images.shape == images.shape


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((4, 16, 16, 3), np.uint8), r"x\.transpose\(0, 3, 1, 2\)"),
        (np.zeros((4, 1, 16, 16), np.uint8), r"give \(N, 3, 16, 16\)"),
        (np.zeros((3, 16, 16), np.uint8), r"give \(N, 3, 16, 16\)"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.int64), "give uint8, or floats"),
        (torch.full((4, 3, 16, 16), 200.0), "divide by 255"),
        (torch.full((4, 3, 16, 16), -1.0), "before normalisation"),
        (torch.full((4, 3, 16, 16), torch.nan), "before normalisation"),
        (torch.zeros(0, 3, 16, 16), r"got \(0, 3, 16, 16\)"),
        (np.zeros((4, 3, 16, 16), object), "its type is object"),
        (np.zeros((4, 3, 16, 16), np.longdouble), "its type is float128|its type is longdouble"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.complex64), "are torch.complex64"),
        (torch.zeros(4, 3, 16, 16).to_sparse(), "is sparse"),
        ("chest.png", "the images are a str, which holds its own"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_what_to_give(model, x, says):
    with pytest.raises(ConfigError, match=says):
        ma.attack("fgsm", model, x, [0] * 4, eps="8/255")


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (["normal", "pneumonia", "effusion"], "effusion: no such class; the classes are normal, pneumonia"),
        (torch.zeros(3), "give whole numbers"),
        (torch.zeros(3, 1, dtype=torch.int64), "give whole numbers"),
        ([0, 1, 2], "go from 0 to 2; the classes are 0 to 1"),
        (np.array([0, -1, 1]), "go from -1 to 1"),
        ([0, 1], "2 for 3 images"),
        ([0, 0.5, 1], "0.5 is no class; give whole numbers"),
        (np.array([None, 0, 1]), "None is no class"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model, images, y, says):
    with pytest.raises(ConfigError, match=says):
        ma.attack("fgsm", model, images[:3], y, eps="8/255")


def test_a_guard_is_fitted_attacked_saved_and_loaded(tmp_path):
    data = ma.load_dataset("phantom-xray?n=240", size=32, channels="gray", cache_dir=tmp_path / "cache")
    model = ma.load("tests/golden/classifier", factory="tests.models.tiny_networks:tiny")
    guard = ma.fit(model, data.images.numpy(), data.labels, patients=data.patients, updates=2, out=tmp_path / "guard")
    found = ma.attack("wb", guard, data.images[:4], data.labels[:4], eps="8/256", steps=2, targets="random")
    assert found.images.shape == (4, 1, 32, 32)
    again = ma.load(tmp_path / "guard", factory="tests.models.tiny_networks:tiny")
    assert isinstance(again, ma.Guard)
    assert torch.equal(again.judge(found.images).score, guard.judge(found.images).score)
    with pytest.raises(ConfigError, match="attack its classifier"):
        ma.attack("wb", guard, data.images[:4], data.labels[:4], eps="8/256", rounding="none")
    with pytest.raises(ConfigError, match="give labels"):
        ma.fit(model, data.images)
    pairs = ma.fit(model, DataLoader(Pairs(data.images, data.labels), 64), patients=data.patients, updates=2)
    assert torch.equal(pairs.judge(found.images).score, guard.judge(found.images).score)
    with pytest.raises((ConfigError, DataError), match="classes"):
        ma.fit(model, "phantom-skin?n=60", updates=2)


def test_a_detector_scores_images(model, images):
    x = torch.cat([images] * 4)
    y = torch.arange(len(x)) % 2
    attacked = ma.attack("bim", model, x, y, eps="8/255", steps=2)
    scores = ma.detector("lid", model, neighbours=4).fit(x, y, attacked=attacked.images).score(x[:5])
    assert scores.shape == (5,)
    assert scores.isfinite().all()
    with pytest.raises(ConfigError, match="not in the table"):
        ma.detector("kdd", model)


def test_own_attacks_are_values(model, images):
    labels = model(images / 255).argmax(1)
    mine = Attack(objective=CrossEntropy(), steps=2)
    assert ma.attack(mine, model, images, labels, eps="4/255").images.shape == images.shape


def test_the_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    whole, screening = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    torch.manual_seed(0)
    exec(whole, names)
    turned, past, scores = capsys.readouterr().out.split("\n", 2)
    assert turned.endswith("turned by changes that nobody sees")
    assert int(turned.split("%")[0]) > 10
    assert past.endswith("past the guard")
    assert scores.startswith("tensor(")
    assert [int(one.fooled.sum()) for one in names["curve"]] == sorted(int(one.fooled.sum()) for one in names["curve"])
    write_folder_of_pictures(tmp_path / "incoming", names["x"][:3, 0].numpy())
    shutil.copytree(ROOT / "tests" / "golden" / "guard", tmp_path / "runs" / "guard")
    factory = partial(ma.load, factory="tests.models.tiny_networks:tiny")  # which a registered network does not need
    monkeypatch.setattr(ma, "load", factory)
    exec(screening, {})
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split()[0] for line in lines] == [f"incoming/{i}.png" for i in range(3)]
    assert {line.split()[1] for line in lines} <= {"accepted", "rejected"}


def write_folder_of_pictures(folder, pixels):
    folder.mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")
