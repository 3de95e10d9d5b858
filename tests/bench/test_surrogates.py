"""Transfer within an evaluation: its cells are what `transfer` gives, apart from those that know the classifier."""

import copy

import pytest
import torch
from tests.bench.small import SIZE, fitted, measure
from tests.models.tiny_networks import Tiny

from medaegis.attacks.catalogue import CATALOGUE
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.known import Known
from medaegis.attacks.transfer import committee, transfer
from medaegis.attacks.victim import Victim
from medaegis.bench import store
from medaegis.bench.evaluate import evaluate_guard
from medaegis.bench.plan import Planned, plan
from medaegis.bench.records.archive import read_evaluation
from medaegis.bench.report.report import write_report
from medaegis.bench.report.verdict import write_verdict
from medaegis.bench.store import Store
from medaegis.bench.surrogates import surrogate_of, transferable
from medaegis.errors import ConfigError
from medaegis.guard.site import Site
from medaegis.models.classifier import Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

EPS = 16 / 256
CELLS = [
    Planned("bim", EPS, "16/256", steps=4),
    Planned("bim", EPS, "16/256", steps=4, transferred=True),
    Planned("feature-match", EPS, "16/256", steps=3, transferred=True),
    Planned("uap", EPS, "16/256", steps=2, transferred=True),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def others(work):
    """Two classifiers for the same task: the guard's with other weights, but not all too different."""
    guard, _, _ = fitted(work)
    return [related(guard.classifier, seed) for seed in (1, 2)]


def related(classifier, seed):
    other = copy.deepcopy(classifier)
    source = torch.Generator().manual_seed(seed)
    for weights in other.network.parameters():
        weights.data += 0.1 * weights.std().nan_to_num() * torch.randn(weights.shape, generator=source)
    return other


@pytest.fixture(scope="module")
def whole(work, others):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BATCH", 16)
        found = measure(work, work / "whole", cells=CELLS, surrogates=others)
    return found, read_evaluation(work / "whole")


def test_its_cells_are_what_transfer_gives(work, others, whole):
    found, stored = whole
    guard, dataset, split = fitted(work)
    test = dataset.subset(split.adv_test)
    clean = guard.judge(test.pixels())
    right = (clean.predicted == test.labels).nonzero().squeeze(1)
    labels, ids, pixels = test.labels[right], test.ids[right], test.pixels(right)
    targets = pick_targets(labels, 2, ids=ids, seed=0)
    surrogate, known = Victim(committee(others)), Known(dataset.subset([*split.train, *split.adv_train]))
    bare = Victim(guard.classifier)
    for planned, cell in list(zip(CELLS, found.cells, strict=True))[1:]:
        options = {
            "eps": EPS,
            "targets": targets,
            "ids": ids,
            **known.options(planned.value, surrogate, pixels, targets, ids),
        }
        told = transfer(planned.value, surrogate, guard.victim(), pixels, labels, **options)
        assert stored.scores[cell.id] == pytest.approx(told.verdict.score.numpy(), abs=1e-4)
        assert stored.scores[f"{cell.id}/fooled"].tolist() == told.fooled.int().tolist()
        assert cell.undetected == told.broken.float().mean()
        assert (cell.forwards, cell.backwards) == (told.forwards, told.backwards), cell.id
        alone = bare.judge(told.images).predicted == targets
        assert cell.success_on_classifier == pytest.approx(alone.float().mean().item())


def test_they_are_told_apart_from_those_that_know_the_classifier(others, whole):
    found, _ = whole
    direct, *transferred = found.cells
    assert (direct.access, direct.gradient) == ("white-box", "bpda")
    assert {(cell.access, cell.gradient, cell.adaptive) for cell in transferred} == {("no-box", None, False)}
    name = others[0].backbone
    assert transferred[0].title == f"{CATALOGUE['bim'].title}, made on {name} and {name}"
    rows = {row.attacker: row for row in found.by_attacker}
    assert set(rows) == {"knows the classifier", "knows neither"}
    assert rows["knows the classifier"].undetected == direct.undetected
    assert rows["knows neither"].undetected >= max(cell.undetected for cell in transferred)
    assert direct.success >= transferred[0].success > 0
    assert [fact.weights for fact in found.surrogates] == [weights_fingerprint(other.network) for other in others]


def test_no_control_takes_them_for_attacks_that_must_succeed(whole):
    found, _ = whole
    told = {control.name: control.measured for control in found.controls}
    assert "feature-match" not in told["Attacks on the classifier alone, 64/256"]
    assert told["Attacks on the classifier alone, 64/256"].count("bim") == 1


def test_the_pages_show_them(work, whole):
    found, _ = whole
    report = write_report(work / "whole", work / "report.html").read_text(encoding="utf-8")
    verdict = write_verdict(work / "whole", work / "verdict.html").read_text(encoding="utf-8")
    for cell in found.cells[1:]:
        assert cell.title in report
    assert "Who knows neither" in verdict
    assert "Basic iterative method, made on" in verdict.partition("Who knows neither")[2].partition("</div>")[0]
    assert "made on" not in verdict.partition("Who knows the classifier")[2].partition("</div>")[0]


def test_a_killed_run_goes_on_and_repeats_nothing(work, others, whole, tmp_path, monkeypatch):
    found, _ = whole
    monkeypatch.setattr(store, "BATCH", 16)
    ask, computed = Store.get, []

    def get(self, key, compute):
        def counted():
            if len(computed) == 3:
                raise KeyboardInterrupt
            computed.append(key)
            return compute()

        return ask(self, key, counted)

    def lines(evaluation):
        return [cell.model_dump(exclude={"seconds"}) for cell in evaluation.cells]

    monkeypatch.setattr(Store, "get", get)
    for _ in range(20):
        computed.clear()
        try:
            again = measure(work, tmp_path, cells=CELLS, surrogates=others)
            break
        except KeyboardInterrupt:
            continue
    assert lines(again) == lines(found)
    computed.clear()
    assert lines(measure(work, tmp_path, cells=CELLS, surrogates=others)) == lines(found)
    assert not computed


def test_pieces_belong_to_their_surrogates(work, others, tmp_path, monkeypatch):
    keys = []

    def get(self, key, compute):
        keys.append(str(sorted(key.items())))
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "get", get)

    def ask(surrogates):
        with pytest.raises(KeyboardInterrupt):
            measure(work, tmp_path, cells=CELLS[1:2], surrogates=surrogates)
        return keys[-1]

    first = ask(others)
    assert ask([copy.deepcopy(other) for other in others]) == first
    assert ask(others[:1]) != first
    moved = copy.deepcopy(others[1])
    moved.network.fc.bias.data[0] += 1e-3
    assert ask([others[0], moved]) != first


def test_surrogates_that_do_not_fit_are_refused_before_any_work(work, others, tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "get", lambda *_: pytest.fail("worked"))
    guard, dataset, split = fitted(work)

    def ask(surrogates, cells=CELLS):
        evaluate_guard(guard, Site(dataset, split), cells=cells, out_dir=tmp_path, surrogates=surrogates)

    def stranger(classes=2, size=SIZE, channels="gray"):
        names = [f"class {k}" for k in range(classes)] if classes != 2 else guard.classes
        return Classifier(
            Tiny(classes),
            classes=names,
            size=size,
            channels=channels,
            taps=("relu",),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            backbone="tiny",
        )

    for wrong in (stranger(classes=3), stranger(size=16), stranger(channels="rgb")):
        with pytest.raises(ConfigError, match="same classes and images"):
            ask([others[0], wrong])
    with pytest.raises(ConfigError, match="protected classifier itself"):
        ask([copy.deepcopy(guard.classifier)])
    with pytest.raises(ConfigError, match="none given"):
        ask([])
    with pytest.raises(ConfigError, match="no cell is made on them"):
        ask(others, CELLS[:1])
    assert surrogate_of([], guard.classifier) is None


def test_only_gradients_on_the_classifier_can_be_transferred():
    for name in ("wb", "square", "uap-wb", "auto-guard"):
        assert not transferable(name)
        with pytest.raises(ConfigError, match="surrogate"):
            plan(["pgd"], [("8/256", 8 / 256)], transferred=[name])
    cells = plan(["pgd", "wb"], [("4/256", 4 / 256), ("8/256", 8 / 256)], transferred=["pgd", "dim"])
    made = [(cell.attack, cell.eps_text, cell.steps) for cell in cells if cell.transferred]
    assert made == [(name, eps, None) for name in ("pgd", "dim") for eps in ("4/256", "8/256")]
    assert len({cell.id for cell in cells}) == len(cells)
    assert cells[-1].id == "dim-8of256-10x1-transfer"


@pytest.mark.parametrize("name", ["uap", "generator"])
def test_what_is_learned_is_learned_once_for_all_chunks_and_counted_once(name, work, tmp_path, monkeypatch):
    """Once behind the Cushion for the cell, once on the bare classifier for the column beside it, for each class."""
    monkeypatch.setattr(store, "BATCH", 16)
    learned = []
    learn = type(CATALOGUE[name].attack).learn

    def counted(self, victim, *rest, **options):
        learned.append((options["target"], victim.cushion.spec))
        return learn(self, victim, *rest, **options)

    monkeypatch.setattr(type(CATALOGUE[name].attack), "learn", counted)
    found = measure(work, tmp_path, cells=[Planned(name, EPS, "16/256", steps=2)])
    _, _, split = fitted(work)
    assert sorted(learned) == [(0, "jpeg:80"), (0, "none"), (1, "jpeg:80"), (1, "none")]
    (cell,) = found.cells
    assert cell.n > 16, "several chunks"
    # Two passes over every known image, each towards the other of two classes.
    assert cell.forwards == cell.backwards == 2 * len([*split.train, *split.adv_train])
    assert cell.success_on_classifier is not None
    again = measure(work, tmp_path, cells=[Planned(name, EPS, "16/256", steps=2)])
    assert len(learned) == 4
    assert again.cells[0].forwards == cell.forwards
