"""The attacks that look for the smallest change against closed forms, foolbox, torchattacks and direct transcriptions.

Success is of 8-bit pixels; DeepFool is compared on floats (`gradient="skip"`), where it stops after so many steps.
"""

import pytest
import torch
from tests.attacks.test_engine import Passes, separate_victim
from tests.attacks.test_peers import Rounding
from tests.attacks.toys import SIZE, toy_classifier, toy_images, toy_labels, toy_victim
from torch import nn

from medaegis.attacks.balls import L2, Linf
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.minimal import Boundary, CarliniL2, NearestBoundary, Saliency, Sparse
from medaegis.attacks.objective import Goal, margin
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier

PIXELS = SIZE * SIZE
WHOLE = L2(rms=False)


class Plane(nn.Module):
    """A linear classifier of the mean of the three channels it is given, which for grey images are alike."""

    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(PIXELS, classes)

    def forward(self, x):
        return self.fc(x.mean(1).flatten(1))


def plane(classes, shift=0.0, gradient="bpda"):
    generator = torch.Generator().manual_seed(3)
    network = Plane(classes)
    network.fc.weight.data = torch.randn(classes, PIXELS, generator=generator)
    network.fc.bias.data = -network.fc.weight.data.sum(1) / 2 + shift
    names = [f"class {k}" for k in range(classes)]
    classifier = Classifier(
        network, classes=names, size=SIZE, channels="gray", backbone="x:y", mean=(0,) * 3, std=(1,) * 3
    )
    return Victim(classifier.eval(), dtype=torch.float32, gradient=gradient)


def grey(victim, n):
    """Images well inside their class, and in the middle of the range, where no bound of it is met."""
    generator = torch.Generator().manual_seed(5)
    weight = victim.exact.network.fc.weight.detach()
    towards = weight[torch.arange(n) % len(weight)].view(n, 1, SIZE, SIZE)
    return (0.5 + 0.05 * towards + 0.04 * torch.randn(towards.shape, generator=generator)).mul(255).round() / 255


def walk(attack, victim, images, labels, targets=None, eps=1e3):
    return attack.descend(victim, images, Goal(labels, targets), torch.full((len(images), 1, 1, 1), eps), images)[0]


def closed_form(victim, images, labels, norm, targets=None):
    """Least distance to a wrong class, or of the target to beat all others where one boundary is enough: `(N,)`."""
    weight, logits = victim.exact.network.fc.weight, victim.exact(images)
    far = torch.full((len(images), len(weight)), torch.inf)
    for i, label in enumerate(labels.tolist()):
        for k in range(len(weight)):
            if k != label:
                w = weight[k] - weight[label]
                far[i, k] = (logits[i, label] - logits[i, k]) / torch.linalg.vector_norm(w, 2 if norm == 2 else 1)
    return far.amin(1).detach() if targets is None else far.gather(1, targets[:, None])[:, 0].detach()


def lengths(change, norm):
    return torch.linalg.vector_norm(change, norm, dim=(1, 2, 3))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("ball", "norm"), [(WHOLE, 2), (Linf(), torch.inf)])
def test_deepfool_on_a_plane_is_one_step_of_the_closed_form(ball, norm, classes):
    victim = plane(classes, gradient="skip")  # floats reach the network
    images = grey(victim, 12)
    labels = victim.exact(images).argmax(1)
    attack = Attack(objective=NearestBoundary(ball), ball=ball, rule=Boundary(), steps=4)
    found = walk(attack, victim, images, labels)
    torch.testing.assert_close(
        lengths(found - images, norm), 1.02 * closed_form(victim, images, labels, norm), rtol=1e-3, atol=1e-6
    )
    assert (victim.exact(found).argmax(1) != labels).all()


@pytest.mark.parametrize(("classes", "targeted", "shift"), [(2, False, 0.0), (2, True, -500.0), (4, False, -500.0)])
def test_cw_l2_on_a_plane_comes_to_the_closed_form(classes, targeted, shift):
    """Never nearer than the boundary, and hardly farther; logits far below 0 change nothing."""
    victim = plane(classes, shift)
    images = grey(victim, 6)
    labels = victim.exact(images).argmax(1)
    targets = 1 - labels if targeted else None
    attack = Attack(objective=CarliniWagner(), ball=WHOLE, rule=CarliniL2(), steps=9 * 120)
    found = walk(attack, victim, images, labels, targets)
    least = closed_form(victim, images, labels, 2)
    assert (victim.exact(found).argmax(1) != labels).all()
    ratio = lengths(found - images, 2) / least
    assert (ratio > 0.999).all()
    assert ratio.mean() < 1.01, ratio
    assert (ratio < 1.05).all(), ratio


def test_kappa_is_a_confidence():
    victim = plane(2)
    images = grey(victim, 8)
    labels = victim.exact(images).argmax(1)
    attack = Attack(objective=CarliniWagner(), ball=WHOLE, rule=CarliniL2(kappa=2.0), steps=540)
    found = walk(attack, victim, images, labels)
    apart = margin(victim.exact(found), Goal(labels))
    assert (apart <= -2).all()
    assert (apart > -3).all(), "farther than asked"


@pytest.mark.parametrize("targeted", [False, True])
def test_cw_l2_is_no_farther_than_foolbox(targeted):
    """Its search at the same steps, which walks in tanh space; a curved network, black and white, negative logits."""
    foolbox = pytest.importorskip("foolbox")
    classifier = toy_classifier(3, shift=-30.0).frozen(fold=False)
    images = toy_images(10, classifier)
    labels = classifier(images).argmax(1)
    targets = (labels + 1) % 3 if targeted else None
    criterion = foolbox.criteria.Misclassification(labels)
    if targeted:
        criterion = foolbox.criteria.TargetedMisclassification(targets)
    theirs = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=40, abort_early=False)
    network = Rounding(classifier).eval()
    expected = rounded(theirs.run(foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu"), images, criterion))
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    attack = Attack(objective=CarliniWagner(), ball=WHOLE, rule=CarliniL2(search=6), steps=6 * 40)
    found = rounded(walk(attack, victim, images, labels, targets))
    reached = Goal(labels, targets).reached
    assert reached(classifier(found).argmax(1)).all()
    assert reached(classifier(expected).argmax(1)).all()
    ratio = lengths(found - images, 2) / lengths(expected - images, 2)
    assert ratio.mean() < 1.0, ratio
    assert ratio.max() < 1.1, ratio


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cw_l2_moves_black_pixels(share):
    """In tanh space they stay, and the others must make up for them: on a plane ours is no longer than DeepFool's."""
    victim = plane(2)
    images = grey(victim, 8)
    black = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) < share
    images = torch.where(black, 0.0, images)
    labels = victim.exact(images).argmax(1)
    found = {name: find_attack(name).attack.run(victim, images, labels, eps=1.0) for name in ("cw-l2", "deepfool-l2")}
    assert all(result.fooled.all() for result in found.values())
    ours, other = (lengths(found[name].images - images, 2).median() for name in ("cw-l2", "deepfool-l2"))
    assert ours < 1.01 * other
    assert (found["cw-l2"].images > images)[black].float().mean() > 0.3


def test_negative_logits_stop_torchattacks_and_not_ours():
    """Its best other logit is a maximum over a product with a mask, so 0 where all are negative: it thinks it is done.

    Where logits are spread about 0 it works, with its fixed c = 1 in one round, and goes no less far.
    """
    torchattacks = pytest.importorskip("torchattacks")
    for shift in (0.0, -1000.0):
        classifier = toy_classifier(3, shift=shift).frozen(fold=False)
        images = toy_images(8, classifier)
        labels = classifier(images).argmax(1)
        # Pure black and white lie at infinity for it.
        theirs = torchattacks.CW(classifier, c=10, steps=60, lr=0.01)(images.clamp(0.001, 0.999), labels)
        victim = Victim(classifier, dtype=torch.float32, fold=False)
        attack = Attack(objective=CarliniWagner(), ball=WHOLE, rule=CarliniL2(), steps=9 * 30)
        found = rounded(walk(attack, victim, images, labels))
        assert (classifier(found).argmax(1) != labels).all()
        through = classifier(theirs).argmax(1) != labels
        if shift:
            assert not through.any()
        else:
            assert through.float().mean() > 0.5
            assert (lengths(found - images, 2) <= lengths(theirs - images, 2))[through].float().mean() > 0.8


def rounded(images):
    return (images * 255).round() / 255


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_agrees_with_foolbox(norm):
    """Equal distances, but for the 1e-4 that foolbox adds to each step and our least step of an eighth of a level."""
    foolbox = pytest.importorskip("foolbox")
    classifier = toy_classifier(4).frozen(fold=False)
    images = toy_images(12, classifier)
    labels = classifier(images).argmax(1)
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    kind = foolbox.attacks.L2DeepFoolAttack if norm == "l2" else foolbox.attacks.LinfDeepFoolAttack
    theirs = kind(steps=30, overshoot=0.02, loss="logits", candidates=4)
    expected = theirs.run(model, images, foolbox.criteria.Misclassification(labels))
    victim = Victim(classifier, dtype=torch.float32, fold=False, gradient="skip")
    ball = WHOLE if norm == "l2" else Linf()
    attack = Attack(objective=NearestBoundary(ball), ball=ball, rule=Boundary(), steps=30)
    found = walk(attack, victim, images, labels)
    assert (classifier(found).argmax(1) != labels).all()
    order = 2 if norm == "l2" else torch.inf
    ours, others = lengths(found - images, order), lengths(expected - images, order)
    torch.testing.assert_close(ours, others, rtol=0.01, atol=6e-4)


def test_deepfool_gets_through_8_bit_pixels():
    """Where the boundary is nearer than a grey level, too."""
    victim = toy_victim(4)
    images = toy_images(30, victim.exact)
    labels = toy_labels(victim, images)
    for name in ("deepfool", "deepfool-l2"):
        assert find_attack(name).attack.run(victim, images, labels, eps=1.0).fooled.all()


def test_deepfool_takes_a_backward_for_each_other_class():
    for classes, targeted, expected in ((2, False, 1), (3, False, 2), (3, True, 1)):
        victim = separate_victim()
        if classes == 2:
            victim = toy_victim(2)
            victim.fast = toy_classifier(2).frozen()
        images = toy_images(5, victim.exact)
        labels = toy_labels(victim, images)
        targets = (labels + 1) % classes if targeted else None
        # On the fast copy, beside which the verdict's own pass does not count.
        attack = find_attack("deepfool").attack.with_options(steps=4, exact=False)
        with Passes(victim) as passes:
            found = attack.run(victim, images, labels, eps=0.1, targets=targets, batch_size=3)
        assert passes.forward == found.forwards
        assert 5 < found.forwards <= 20
        assert passes.backward == found.backwards == expected * found.forwards


@pytest.mark.parametrize("name", ["deepfool", "deepfool-l2"])
def test_nothing_is_asked_once_all_images_rest(name):
    """On a plane DeepFool is there in one step, and sees it in a second look."""
    victim = plane(3, gradient="skip")
    images = grey(victim, 6)
    labels = victim.exact(images).argmax(1)
    attack, eps = find_attack(name).attack, torch.ones(6, 1, 1, 1)
    found, steps = attack.descend(victim, images, Goal(labels), eps, images)
    assert (victim.exact(found).argmax(1) != labels).all()
    assert steps == 2


def test_jsma_stops_where_all_are_adversarial():
    victim = toy_victim(2)
    images = toy_images(6, victim.exact)
    labels = toy_labels(victim, images)
    attack = find_attack("jsma").attack
    found = attack.run(victim, images, labels, eps=1.0, batch_size=6)
    assert found.fooled.all()
    assert found.backwards == found.forwards < 6 * attack.steps


@pytest.mark.parametrize("name", ["cw-l2", "deepfool", "deepfool-l2"])
def test_eps_has_the_last_word(name):
    """Where the smallest change is longer than eps nothing fools; where it is shorter all do, by a smaller change."""
    victim = toy_victim(2)
    images = toy_images(16, victim.exact)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack
    if name == "cw-l2":
        attack = attack.with_options(steps=180)
    free = attack.run(victim, images, labels, eps=1.0)
    assert free.fooled.all()
    radius = victim_lengths(attack, free.images - images)
    if isinstance(attack.ball, L2):
        assert attack.run(victim, images, labels, eps=radius * 1.001).fooled.all()
    tight = attack.run(victim, images, labels, eps=radius / 2)
    assert (victim_lengths(attack, tight.images - images) <= radius / 2 + 0.51 / 255).all()
    assert not tight.fooled.all()


def victim_lengths(attack, change):
    if isinstance(attack.ball, L2):
        return change.square().mean((1, 2, 3)).sqrt()
    return change.abs().amax((1, 2, 3))


def test_minimal_attacks_need_less_than_pgd():
    """Root mean square change of what fools: DeepFool well below PGD's at the same eps, CW-L2 not above DeepFool's."""
    victim = toy_victim(2)
    images = toy_images(16, victim.exact)
    labels = toy_labels(victim, images)
    sizes = {}
    for name, steps in (("pgd-l2", 20), ("deepfool-l2", 50), ("cw-l2", 270)):
        found = find_attack(name).attack.with_options(steps=steps).run(victim, images, labels, eps=64 / 256)
        assert found.fooled.all(), name
        sizes[name] = (found.images - images).square().mean((1, 2, 3)).sqrt().mean()
    assert sizes["deepfool-l2"] < 0.7 * sizes["pgd-l2"]
    assert sizes["cw-l2"] < 1.02 * sizes["deepfool-l2"]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_saliency_map_is_papernots(targeted, classes):
    """By the full Jacobian of outputs that sum to nothing, one value at a time: the product of target and others."""
    victim = toy_victim(classes)
    images = toy_images(3, victim.exact)
    labels = toy_labels(victim, images)
    targets = (labels + 1) % classes if targeted else None
    objective = Saliency()
    z = images.clone().requires_grad_(True)
    losses, found = objective.pull(victim.look(z, Goal(labels, targets), objective), z)
    torch.testing.assert_close(losses, margin(victim.exact(images), Goal(labels, targets)))

    def outputs(x):
        logits = victim.exact(x[None])[0]
        return logits - logits.mean()

    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(outputs, images[i]).flatten(1)
        named = int((targets if targeted else labels)[i])
        up, rest = jacobian[named], jacobian.sum(0) - jacobian[named]
        assert (up * rest <= 1e-9).all(), "what raises the one lowers the others together"
        product, mine = (up * rest).abs(), found[i].flatten()
        torch.testing.assert_close(mine.square(), product, rtol=1e-2, atol=1e-7)
        helps = -up if targeted else up  # to be walked against
        assert (mine.sign() == helps.sign())[product > 1e-6].all()


def test_with_two_classes_the_map_is_that_of_the_probabilities():
    """Papernot's own outputs: their slopes differ from those of the logits by one factor for the whole image."""
    victim = toy_victim(2)
    images = toy_images(3, victim.exact)
    goal = Goal(toy_labels(victim, images))
    z = images.clone().requires_grad_(True)
    _, found = Saliency().pull(victim.look(z, goal, Saliency()), z)
    for i, label in enumerate(goal.labels.tolist()):
        alpha, beta = torch.autograd.functional.jacobian(lambda x: victim.exact(x[None])[0].softmax(0), images[i])
        alpha, beta = (alpha, beta) if label == 0 else (beta, alpha)
        order, mine = (alpha * beta.abs()).flatten(), found[i].flatten()
        assert torch.equal(order.abs().topk(20).indices.sort().values, mine.abs().topk(20).indices.sort().values)


def test_jsma_keeps_its_budget_of_values():
    """At most gamma of the values change, each by eps unless the range ends; and most of what it does is right."""
    victim = toy_victim(3)
    images = toy_images(24, victim.exact)
    labels = toy_labels(victim, images)
    eps = 64 / 255
    attack = find_attack("jsma").attack.with_options(steps=30)
    found = attack.run(victim, images, labels, eps=eps, targets=(labels + 1) % 3)
    change = ((found.images - images) * 255).round().flatten(1)
    counts = (change != 0).sum(1)
    assert (counts <= int(0.145 * PIXELS)).all()
    assert (counts[found.fooled] < int(0.145 * PIXELS)).any(), "it rests once it is through"
    at_end = (found.images == 0) | (found.images == 1)
    assert ((change.abs() == 64) | (change == 0) | at_end.flatten(1)).all()
    # As many values, chosen blindly and moved by as much, fool hardly any.
    generator = torch.Generator().manual_seed(2)
    places = torch.rand(24, PIXELS, generator=generator).argsort(1).argsort(1) < int(0.145 * PIXELS)
    signs = torch.where(torch.rand(24, PIXELS, generator=generator) < 0.5, -1, 1)
    noisy = (images + (places * signs * eps).view_as(images)).clamp(0, 1)
    by_noise = (victim.judge(noisy).predicted == (labels + 1) % 3).float().mean()
    assert found.fooled.float().mean() > by_noise + 0.3


def test_jsma_changes_no_more_values_than_torchattacks():
    """torchattacks takes pairs and only raises values; ours may lower them too: fewer changes, both at whole range."""
    torchattacks = pytest.importorskip("torchattacks")
    classifier = toy_classifier(2).frozen(fold=False)
    images = toy_images(6, classifier)
    labels = classifier(images).argmax(1)
    theirs = torchattacks.JSMA(classifier, theta=1.0, gamma=0.2)
    theirs.set_mode_targeted_by_label(quiet=True)
    expected = theirs(images, 1 - labels)
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    attack = Attack(objective=Saliency(), rule=Sparse(0.2), steps=50, step_size=1.0)
    found = attack.run(victim, images, labels, eps=1.0, targets=1 - labels)
    through = classifier(expected).argmax(1) != labels
    assert through.any()
    assert (found.fooled | ~through).all()
    ours, others = (((x - images).abs() > 1e-6).flatten(1).sum(1).float() for x in (found.images, expected))
    assert ours[through].mean() <= others[through].mean()


def test_settings_that_make_no_sense_are_refused():
    for make in (lambda: CarliniL2(search=0), lambda: CarliniL2(rate=0.0), lambda: CarliniL2(kappa=-1.0)):
        with pytest.raises(ConfigError, match="CW-L2"):
            make()
    with pytest.raises(ConfigError, match="share"):
        Sparse(share=0.0)
