"""Networks for findings and for masks: data, training plain and robust, folders, figures, attacks by one engine."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.tasks.small import MASKS, SEVERAL, findings, lungs, tiny_unet

from medaegis.attacks.catalogue import CATALOGUE, DENSE, find_attack
from medaegis.attacks.losses.overlap import Overlap
from medaegis.attacks.objective import Goal, View
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import load_dataset
from medaegis.models.augment import augment, augment_with_masks
from medaegis.models.store import load_classifier, read_training
from medaegis.models.training import train_classifier
from medaegis.robust import parse_recipe


def test_drawn_lungs_have_masks():
    dataset, split = lungs()
    assert dataset.labels.shape == (60, 32, 32)
    assert dataset.labels.dtype == torch.uint8
    share = dataset.labels.double().mean((1, 2))
    assert 0.1 < share.min() <= share.max() < 0.5
    pixels = dataset.pixels().squeeze(1)
    inside = (pixels * dataset.labels).sum((1, 2)) / dataset.labels.sum((1, 2))
    outside = (pixels * (1 - dataset.labels.float())).sum((1, 2)) / (1 - dataset.labels.float()).sum((1, 2))
    assert (inside < outside).double().mean() > 0.9, "lungs are darker than what is around them"
    assert len(split.train) + len(split.val) + len(split.adv_train) + len(split.adv_test) == 60


def test_drawn_findings_are_seen_where_they_are():
    """Fluid stands low in a lung, a large heart beside the spine: brighter there than without."""
    data = load_dataset("phantom-findings?n=300", size=32, channels="gray")
    assert data.classes == ("opacity", "effusion", "nodule", "enlarged heart")
    shares = data.labels.double().mean(0)
    assert ((shares > 0.15) & (shares < 0.55)).all()
    pixels = data.pixels().squeeze(1)
    for finding, rows, columns in ((1, slice(18, 25), slice(4, 28)), (3, slice(15, 22), slice(18, 25))):
        place = pixels[:, rows, columns].mean((1, 2)) - pixels.mean((1, 2))
        assert roc_auc_score(data.labels[:, finding], place) > 0.6


def test_the_split_of_findings_keeps_the_rare_ones_everywhere():
    dataset, split = findings()
    strata, names = dataset.strata
    assert names == ("left", "right", "below", "none of them")
    for stratum, row in zip(strata.tolist(), dataset.labels.tolist(), strict=True):
        assert (sum(row) == 0) == (stratum == 3)
        assert stratum == 3 or row[stratum] == 1
    for part in (split.train, split.adv_test):
        assert (dataset.labels[list(part)].sum(0) > 0).all()


@pytest.mark.parametrize("kind", ["segmenter", "finder"])
def test_it_learns_and_is_the_same_from_its_folder(kind, request):
    classifier, out = request.getfixturevalue(kind)
    dataset, split = lungs() if kind == "segmenter" else findings()
    told = read_training(out)["metrics"]["adv_test"]
    assert told["dice" if kind == "segmenter" else "auroc"] > (0.8 if kind == "segmenter" else 0.7)
    from tests.models.tiny_networks import tiny

    again = load_classifier(out, factory=tiny_unet if kind == "segmenter" else tiny)
    assert again.task == classifier.task == dataset.task
    test = dataset.subset(split.adv_test)
    with torch.no_grad():
        torch.testing.assert_close(again(test.pixels()), classifier(test.pixels()))
        logits = classifier.frozen()(test.pixels())
    if kind == "finder":
        each = [roc_auc_score(test.labels[:, k], logits[:, k]) for k in range(3)]
        assert told["auroc"] == pytest.approx(sum(each) / 3)
        right = ((logits > 0).long() == test.labels).all(1).double().mean()
        assert told["accuracy"] == pytest.approx(right.item())


@pytest.mark.parametrize("kind", ["segmenter", "finder"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mim", "cw-linf", "apgd-ce", "pgd-l2", "square"])
def test_attacks_by_the_one_engine(kind, name, request):
    classifier, _ = request.getfixturevalue(kind)
    dataset, split = lungs() if kind == "segmenter" else findings()
    test = dataset.subset(split.adv_test)
    attack = find_attack(name).attack.with_options(steps=None if name == "fgsm" else 40 if name == "square" else 10)
    found = attack.run(Victim(classifier), test.pixels(), test.labels, eps=16 / 256)
    with torch.no_grad():
        said = classifier.frozen()(found.images)
    task = classifier.task
    assert torch.equal(task.predicted(said), found.verdict.predicted)
    before = task.quality(task.predicted(classifier(test.pixels())), test.labels).mean()
    after = task.quality(found.verdict.predicted, test.labels).mean()
    assert after < before
    assert torch.equal(found.reached, ~task.is_right(found.verdict.predicted, test.labels))
    if "l2" not in name:
        assert float((found.images - test.pixels()).abs().max()) <= 16 / 255 + 1e-6


@pytest.mark.parametrize("kind", ["dice", "iou"])
def test_overlaps_are_those_of_sets(kind, segmenter):
    """Of answers that are sure, the soft overlap is that of the masks; the attack brings it down further than fgsm."""
    classifier, _ = segmenter
    dataset, split = lungs()
    test = dataset.subset(split.adv_test)
    with torch.no_grad():
        logits = classifier.frozen()(test.pixels())
    sure = torch.nn.functional.one_hot(logits.argmax(1), 2).movedim(-1, 1) * 200.0
    goal = Goal(test.labels, task=classifier.task)
    found = Overlap(kind)(View(goal, sure, {}))
    mine, true = logits.argmax(1).bool(), test.labels.bool()
    both, one, either = (values.sum((1, 2)).double() for values in (mine & true, mine, mine | true))
    expected = 2 * both / (one + true.sum((1, 2))) if kind == "dice" else both / either
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    wanted = Overlap(kind)(View(Goal(test.labels, test.labels, task=classifier.task), sure, {}))
    torch.testing.assert_close(wanted, -found)
    after = {}
    for name in ("fgsm", f"pgd-{kind}"):
        run = find_attack(name).attack.run(Victim(classifier), test.pixels(), test.labels, eps=16 / 256)
        after[name] = float(classifier.task.quality(run.verdict.predicted, test.labels).mean())
    assert after[f"pgd-{kind}"] < after["fgsm"]


def test_which_attacks_serve_which_task():
    serve = {
        task: [name for name in (*CATALOGUE, *DENSE) if find_attack(name).serves(task)] for task in ("multi", "dense")
    }
    on_shields = {name for name in serve["dense"] if find_attack(name).adaptive}
    assert set(serve["dense"]) - set(serve["multi"]) - on_shields == {
        name for name in DENSE if not find_attack(name).adaptive
    }
    assert {"wb", "shield-only", "wb-dice", "selective-dice", "orthogonal-dice"} <= on_shields
    assert set(serve["multi"]) - set(serve["dense"]) == {"dim"}, "it moves the picture, and a mask no longer fits"
    assert {"fgsm", "bim", "pgd", "pgd-l2", "mim", "cw-linf", "sma", "apgd-ce", "square"} <= set(serve["multi"])
    assert not {"deepfool", "cw-l2", "fmn", "apgd-dlr", "hopskipjump", "wb", "jsma"} & set(serve["multi"])
    assert not find_attack("pgd-dice").serves("single")


def test_a_finding_of_choice_is_made_up_and_others_are_left(finder):
    classifier, _ = finder
    dataset, split = findings()
    test = dataset.subset(split.adv_test)
    healthy = test.subset(test.labels[:, 1] == 0)
    targets = torch.full_like(healthy.labels, -1)
    targets[:, 1] = 1
    found = find_attack("pgd").attack.run(
        Victim(classifier), healthy.pixels(), healthy.labels, eps=32 / 256, targets=targets
    )
    assert torch.equal(found.reached, found.verdict.predicted[:, 1] == 1)
    assert found.reached.double().mean() > 0.5


def test_a_mask_of_choice(segmenter):
    classifier, _ = segmenter
    dataset, split = lungs()
    test = dataset.subset(split.adv_test)
    targets = torch.zeros_like(test.labels)
    attack = find_attack("pgd").attack.with_options(steps=40)
    found = attack.run(Victim(classifier), test.pixels(), test.labels, eps=64 / 256, targets=targets)
    left = (found.verdict.predicted == 1).double().mean((1, 2))
    assert left.mean() < 0.5 * (test.labels == 1).double().mean()
    assert torch.equal(found.reached, left <= 0.01 + 1e-9)


def test_attacks_for_one_class_say_so(segmenter):
    classifier, _ = segmenter
    test = lungs()[0].subset(range(2))
    for name in ("deepfool", "wb", "apgd-dlr", "jsma"):
        with pytest.raises(ConfigError, match=r"one class an image|needs a Shield"):
            find_attack(name).attack.run(Victim(classifier), test.pixels(), test.labels, eps=8 / 256)


@pytest.mark.parametrize(("kind", "name"), [("masks", "trades"), ("findings", "pgd-at"), ("findings", "noise")])
def test_robust_training(kind, name, tmp_path):
    dataset, split = lungs() if kind == "masks" else findings()
    config = (MASKS if kind == "masks" else SEVERAL).model_copy(update={"epochs": 2})
    train_classifier(dataset, split, config, tmp_path / "c", recipe=parse_recipe(name))
    assert all(0 <= entry["val"]["robust_accuracy"] <= 1 for entry in read_training(tmp_path / "c")["history"])


def test_mart_is_for_one_class_an_image(tmp_path):
    with pytest.raises(ConfigError, match="one class an image"):
        train_classifier(*findings(), SEVERAL, tmp_path / "c", recipe=parse_recipe("mart"))


def test_masks_move_with_their_images():
    dataset, _ = lungs()
    x, masks = dataset.pixels(range(6)), dataset.labels[:6]
    u = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    moved, of_masks = augment_with_masks(x, masks, u)
    assert torch.equal(moved, augment(x, u))
    shown, _ = augment_with_masks(masks.unsqueeze(1).float(), masks, torch.cat([u[:, :5], torch.full((6, 2), 0.5)], 1))
    clear = (shown.squeeze(1) - 0.5).abs() > 0.4  # at the edges one interpolates, and the other takes the nearest
    assert torch.equal(of_masks[clear], (shown.squeeze(1) > 0.5).to(torch.uint8)[clear])
    assert clear.double().mean() > 0.8


def test_classes_of_several_findings_cannot_be_regrouped():
    with pytest.raises(DataError, match="one label an image"):
        load_dataset("phantom-findings?n=6&classes=a=opacity,b=nodule", size=16, channels="gray")


def test_a_network_for_masks_gives_them_and_no_other_does(tmp_path):
    wrong = MASKS.model_copy(update={"backbone": "tests.models.tiny_networks:tiny", "taps": ()})
    with pytest.raises(ConfigError, match="class for each pixel"):
        train_classifier(*lungs(), wrong, tmp_path / "c")
    with pytest.raises(ConfigError, match="class for each pixel"):
        train_classifier(*findings(), SEVERAL.model_copy(update={"backbone": "unet", "taps": ()}), tmp_path / "c")
