"""The engine: what every attack must keep, whatever its objective, ball and step rule."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attacks.toys import Passes, separate_victim, toy_bank, toy_classifier, toy_images, toy_labels, toy_victim

from medaegis.attacks.balls import L2, Linf, parse_eps
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.choices import pick_guides, pick_targets
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy
from medaegis.attacks.losses.shield import ShieldLogit
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.objective import Goal, View, without
from medaegis.attacks.steps import Descent
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.cushions.filters import Unrounded
from medaegis.draws import Draws
from medaegis.errors import ConfigError

EPS = 16 / 256
N = 11


@pytest.fixture(scope="module")
def victim():
    return toy_victim(4, shields=True, cushion="bits:3")


@pytest.fixture(scope="module")
def images(victim):
    return toy_images(N, victim.exact)


@pytest.fixture(scope="module")
def labels(victim, images):
    return toy_labels(victim, images)


def few(name, steps=5, **options):
    attack = find_attack(name).attack
    return attack.with_options(steps=min(steps, attack.steps), **options)


def same(one, other):
    for name in ("images", "fooled", "broken"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.verdict.predicted, other.verdict.predicted)
    assert torch.equal(one.verdict.accepted, other.verdict.accepted)
    torch.testing.assert_close(one.verdict.score, other.verdict.score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_of_the_catalogue(name, targeted, victim, images, labels):
    """Inside the ball to the last bit, on the grid, judged as the victim judges, alike for any batch size and order."""
    targets = pick_targets(labels, 4) if targeted else None
    eps = torch.linspace(0, EPS, N)
    ids = torch.arange(N) * 7 + 3
    attack = few(name)
    guides = images.flip(0) if attack.objective.needs_guides else None
    normal = None
    if attack.objective.needs_normal:
        pool = toy_images(200, victim.exact, seed=8)
        normal = fit_mixtures(victim.pooled(pool, ("relu", "last")), toy_labels(victim, pool))
    run = {"eps": eps, "targets": targets, "ids": ids, "seed": 5, "guides": guides, "normal": normal}
    if attack.learns:
        pool = toy_images(40, victim.exact, seed=8)
        run = {"eps": eps, "targets": targets, "ids": ids, "seed": 5, "known": (pool, toy_labels(victim, pool))}
    found = attack.run(victim, images, labels, **run, batch_size=5)
    levels = ((found.images - images) * 255).double()
    assert torch.equal((found.images * 255).round() / 255, found.images)
    whole = levels.round()
    if isinstance(attack.ball, L2):
        assert (whole.square().mean((1, 2, 3)).sqrt() <= 255 * eps * (1 + 1e-6)).all()
    else:
        assert (whole.abs().amax((1, 2, 3)) <= (255 * eps).round()).all()
    assert torch.equal(found.images[0], images[0]), "eps 0 leaves the image alone"
    verdict = victim.judge(found.images)
    assert torch.equal(found.fooled, (verdict.predicted != labels) if targets is None else verdict.predicted == targets)
    assert torch.equal(found.broken, found.fooled & verdict.accepted)
    same(attack.run(victim, images, labels, **run, batch_size=16), found)
    told = attack.run(victim, images, labels, **run, wrong=found.wrong)
    same(told, found)
    assert torch.equal(told.wrong, found.wrong)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    of_each = {
        what: values[order] for what in ("eps", "targets", "ids", "guides") if (values := run.get(what)) is not None
    }
    turned = attack.run(victim, images[order], labels[order], **{**run, **of_each})
    back = order.argsort()
    assert torch.equal(turned.images[back], found.images)
    if attack.random_start:
        assert not torch.equal(attack.run(victim, images, labels, **{**run, "seed": 6}).images, found.images)


def test_attacks_beat_noise_of_the_same_size():
    victim = toy_victim(3)
    images = toy_images(40, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    eps = 8 / 256
    radius = torch.full((40, 1, 1, 1), eps)
    noise = Linf().random(images, radius, Draws(0, torch.arange(40), "noise"))
    noisy = Linf().to_8bit(noise, images, radius)
    by_noise = (victim.judge(noisy).predicted != labels).float().mean()
    shares = {
        name: few(name, 200 if name == "square" else 20).run(victim, images, labels, eps=eps).fooled.float().mean()
        for name in ("fgsm", "bim", "pgd", "mim", "cw-linf", "pgd-l2", "dim", "tim", "apgd-ce", "apgd-cw", "square")
    }
    # The smoothing kernel of TIM is as wide as these images: it costs more than half of the success.
    assert all(share > by_noise + 0.2 for share in shares.values()), (shares, by_noise)
    assert shares["fgsm"] <= min(shares["bim"], shares["pgd"])


def test_an_attack_on_the_shield_raises_its_logit():
    """More than one that does not know it, and more than noise."""
    victim = toy_victim(2, shields=True)
    images = toy_images(24, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    run = {"eps": EPS, "targets": 1 - labels}
    goal = Goal(labels, 1 - labels)
    logits = {
        name: -ShieldLogit()(victim.look(few(name, 20).run(victim, images, labels, **run).images, goal, ShieldLogit()))
        for name in ("pgd", "wb", "shield-only")
    }
    clean = -ShieldLogit()(victim.look(images, goal, ShieldLogit()))
    assert (logits["shield-only"] > clean).all()
    assert logits["shield-only"].mean() > logits["pgd"].mean() + clean.std()
    assert logits["wb"].mean() > logits["pgd"].mean()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mim", "wb", "wb-adaptive", "shield-only"])
def test_one_forward_and_one_backward_per_step(name):
    victim = separate_victim()
    images = toy_images(7, victim.exact)
    labels = toy_labels(victim, images)
    attack = few(name, 4)
    with Passes(victim) as passes:
        found = attack.run(victim, images, labels, eps=EPS, batch_size=3)
    assert passes.forward == passes.backward == found.forwards == found.backwards == 7 * attack.steps


def test_a_search_takes_forwards_alone():
    victim = separate_victim()
    images = toy_images(7, victim.exact)
    labels = toy_labels(victim, images)
    looked, look = [], victim.look
    victim.look = lambda z, goal, objective: looked.append((len(z), z.requires_grad)) or look(z, goal, objective)
    with Passes(victim) as passes:
        found = few("square-guard", 9).run(victim, images, labels, eps=EPS, batch_size=3)
    assert sum(n for n, _ in looked) == found.forwards == 7 * 9
    assert not any(wants for _, wants in looked)
    assert passes.backward == found.backwards == 0


def test_guides_are_looked_at_once_and_come_nearer():
    """Inside, by the deepest tap, and in the answers; a guide of the wanted class at eps 1 is imitated to the end."""
    victim = toy_victim(3)
    pool = toy_images(60, victim.exact, seed=4)
    known = toy_labels(victim, pool)
    images, labels = pool[:8], known[:8]
    targets = (labels + 1) % 3
    guides = pool[pick_guides(known, targets, ids=torch.arange(8))]
    assert torch.equal(victim.judge(guides).predicted, targets)
    deepest = victim.exact.taps[-1]
    looked, look = [], victim.look
    victim.look = lambda z, goal, objective: looked.append(len(z)) or look(z, goal, objective)
    for name, answer in (
        ("feature-match", lambda x: victim.exact.activations(x, taps=(deepest,)).features[deepest]),
        ("logit-match", lambda x: victim.exact.activations(x).logits),
    ):
        looked.clear()
        found = few(name, 30).run(victim, images, labels, eps=EPS, targets=targets, guides=guides)
        assert len(looked) == 31
        with torch.no_grad():
            far, near = (answer(x) - answer(guides) for x in (images, found.images))
        assert near.square().flatten(1).sum(1).lt(far.square().flatten(1).sum(1)).all()
    with pytest.raises(ConfigError, match="guides"):
        few("logit-match").run(victim, images, labels, eps=EPS, targets=targets)
    with pytest.raises(ConfigError, match="one each"):
        few("logit-match").run(victim, images, labels, eps=EPS, targets=targets, guides=guides[1:])
    with pytest.raises(ConfigError, match="no image of class"):
        pick_guides(labels[labels != 0], torch.tensor([0]), ids=torch.tensor([0]))


def test_orthogonal_steps_cost_a_second_backward():
    victim = separate_victim()
    images = toy_images(5, victim.exact)
    found = few("orthogonal", 3).run(victim, images, toy_labels(victim, images), eps=EPS)
    assert (found.forwards, found.backwards) == (15, 30)


def test_restarts_go_on_only_with_unbroken_images():
    victim = separate_victim()
    images = toy_images(20, victim.exact)
    labels = toy_labels(victim, images)
    attack = few("wb", 2)
    alone = attack.run(victim, images, labels, eps=EPS)
    with Passes(victim) as passes:
        found = attack.with_options(restarts=3).run(victim, images, labels, eps=EPS, batch_size=20)
    assert 0 < alone.broken.sum() < 20, "nothing to tell"
    assert (found.broken | ~alone.broken).all(), "a restart lost an image that was broken"
    assert torch.equal(found.images[alone.broken], alone.images[alone.broken])
    left = 20 - int(alone.broken.sum())
    assert 2 * (20 + left) <= passes.forward == found.forwards <= 2 * (20 + 2 * left)
    same(attack.with_options(restarts=3).run(victim, images, labels, eps=EPS, batch_size=6), found)


def test_the_pass_stops_at_the_deepest_tap_when_logits_are_not_needed():
    victim = toy_victim(3)
    classifier = toy_classifier(3)
    victim = Victim(classifier, shields=toy_bank(classifier, taps=("relu",)), dtype=torch.float32)
    images = toy_images(4, victim.exact)
    goal = Goal(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64))
    with Passes(victim) as passes:
        seen = victim.look(images, goal, ShieldLogit())
        assert seen.logits is None
        assert not passes.deepest
        victim.look(images, dataclasses.replace(goal, targets=None), ShieldLogit())
        assert passes.deepest


def test_nothing_of_the_caller_is_changed():
    """Training mode, weights, gradients, the images, and the global random state."""
    classifier = toy_classifier(2)
    classifier.network.bn1.eval()
    classifier.train()
    classifier.network.bn1.eval()
    modes = [module.training for module in classifier.modules()]
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    images = toy_images(6, classifier)
    before, state = images.clone(), torch.random.get_rng_state()
    victim = Victim(classifier, cushion=parse_cushion("bits:3"))
    found = few("pgd", restarts=2).run(victim, images, torch.zeros(6, dtype=torch.int64), eps=EPS)
    assert [module.training for module in classifier.modules()] == modes
    assert True in modes
    assert False in modes
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())
    assert not any(p.requires_grad for p in victim.fast.parameters())
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not found.images.requires_grad


def test_targets_are_another_class_and_repeat():
    labels = torch.arange(300) % 3
    targets = pick_targets(labels, 3, seed=4)
    assert (targets != labels).all()
    assert torch.equal(targets, pick_targets(labels, 3, seed=4))
    assert torch.equal(targets[50:60], pick_targets(labels[50:60], 3, ids=torch.arange(50, 60), seed=4))
    assert {(a, b) for a, b in zip(labels.tolist(), targets.tolist(), strict=True)} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }
    assert pick_targets(torch.tensor([0, 1]), 2).tolist() == [1, 0]


def test_class_0_is_a_target_like_any_other():
    victim = toy_victim(2)
    images = toy_images(30, victim.exact)
    labels = toy_labels(victim, images)
    ones = labels == 1
    found = few("pgd", 20).run(
        victim, images[ones], labels[ones], eps=EPS, targets=torch.zeros(int(ones.sum()), dtype=torch.int64)
    )
    assert found.fooled.float().mean() > 0.5
    assert torch.equal(found.fooled, found.verdict.predicted == 0)


def test_shifted_logits_change_nothing():
    """Carlini-Wagner on logits that are all far below 0."""
    found = []
    for shift in (0.0, -1000.0):
        victim = Victim(toy_classifier(3, shift=shift), dtype=torch.float32)
        images = toy_images(12, victim.exact)
        found.append(few("cw-linf", 10).run(victim, images, toy_labels(victim, images), eps=EPS).fooled)
    assert torch.equal(*found)
    assert found[0].any()


@pytest.mark.parametrize("cushion", ["none", "jpeg:80", "bits:3"])
@pytest.mark.parametrize("gradient", ["bpda", "twin", "skip"])
def test_gradient_passes_every_cushion(cushion, gradient):
    victim = toy_victim(2, cushion=cushion, gradient=gradient)
    images = toy_images(6, victim.exact)
    labels = toy_labels(victim, images)
    z = images.clone().requires_grad_(True)
    losses = CrossEntropy()(victim.look(z, Goal(labels), CrossEntropy()))
    (grad,) = torch.autograd.grad(losses.sum(), z)
    assert grad.abs().amax((1, 2, 3)).gt(0).all()
    # The forward value is the real cushion's, unless the attack is made as if there were none.
    seen = images if gradient == "skip" else victim.cushion(images)
    expected = -torch.nn.functional.cross_entropy(victim.exact(seen), labels, reduction="none")
    torch.testing.assert_close(losses.detach(), expected)


def test_bfloat16_gradients_float32_verdicts():
    victim = toy_victim(2, shields=True, dtype=torch.bfloat16)
    assert victim.fast.dtype == torch.bfloat16
    images = toy_images(8, victim.exact)
    labels = toy_labels(victim, images)
    found = few("wb", 10).run(victim, images, labels, eps=EPS)
    exact = toy_victim(2, shields=True)
    verdict = exact.judge(found.images)
    assert torch.equal(verdict.predicted, found.verdict.predicted)
    torch.testing.assert_close(verdict.score, found.verdict.score)
    assert found.fooled.any()


def test_an_exact_attack_follows_the_copy_that_judges(images, labels):
    victim, misled = toy_victim(4), toy_victim(4)
    misled.fast = toy_classifier(4, seed=9).frozen()
    attack = Attack(objective=CrossEntropy(), exact=True)
    found = attack.run(misled, images, labels, eps=0.1)
    plain = attack.with_options(exact=False)
    assert torch.equal(found.images, plain.run(victim.in_float32(), images, labels, eps=0.1).images)
    assert not torch.equal(found.images, plain.run(misled, images, labels, eps=0.1).images)
    assert misled.fast is not misled.exact, "the caller's victim changed"


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.minimal])
def test_what_looks_for_the_smallest_change_is_exact(name):
    attack = find_attack(name).attack
    assert attack.exact or not attack.rule.needs_gradient


@pytest.mark.parametrize("name", ["pgd", "mim", "pgd-l2", "wb-adaptive"])
def test_a_network_without_a_number_is_no_success_and_stops_nothing(name):
    victim = toy_victim(2, shields=True)
    images = toy_images(6, victim.exact)
    labels = toy_labels(victim, images)
    expected = few(name).run(victim, images[1:], labels[1:], eps=EPS, ids=torch.arange(1, 6))
    images[0] = 1.0
    victim.exact.network.register_forward_hook(
        lambda module, args, out: out + torch.where(args[0].amin((1, 2, 3)) > 1.3, torch.nan, 0.0).view(-1, 1)
    )
    found = few(name).run(victim, images, labels, eps=EPS)
    assert not found.verdict.logits[0].isfinite().all()
    assert not found.verdict.accepted[0]
    assert not found.fooled[0]
    assert not found.broken[0]
    assert found.images.isfinite().all()
    assert torch.equal(found.images[1:], expected.images)


def test_an_infinite_shield_is_not_trusted():
    victim = toy_victim(2, shields=True)
    for shield in victim.shields.shields:
        shield.join[2].bias.fill_(torch.inf)
    verdict = victim.judge(toy_images(4, victim.exact))
    assert not verdict.accepted.any()


def test_suspicion_is_that_of_the_named_class():
    """For the predicted class it is the verdict's own score, for another one that class's Shield."""
    victim = toy_victim(2, shields=True, cushion="bits:3")
    images = toy_images(6, victim.exact)
    verdict = victim.judge(images)
    torch.testing.assert_close(victim.suspicion(images, verdict.predicted), verdict.score)
    other = 1 - verdict.predicted
    assert not torch.allclose(victim.suspicion(images, other), verdict.score)
    with pytest.raises(ConfigError, match="no Shields"):
        toy_victim(2).suspicion(images, other)


def test_without_shields_nothing_is_rejected():
    victim = toy_victim(2)
    verdict = victim.judge(toy_images(4, victim.exact))
    assert verdict.accepted.all()
    assert verdict.score.eq(0).all()


GOOD = {"eps": EPS, "targets": None, "ids": None}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"images": torch.rand(2, 1, 16, 16)}, "8-bit grid"),
        ({"images": torch.full((2, 1, 16, 16), 2.0)}, "outside"),
        ({"images": torch.full((2, 1, 16, 16), torch.nan)}, "outside"),
        ({"images": torch.zeros(1, 16, 16)}, "N, C, H, W"),
        ({"images": torch.zeros(0, 1, 16, 16), "labels": torch.zeros(0, dtype=torch.int64)}, "at least one"),
        ({"images": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}, "float32"),
        ({"labels": torch.tensor([0])}, "one per image"),
        ({"labels": torch.tensor([0, 2])}, "classes from 0 to 1"),
        ({"labels": torch.tensor([0.0, 1.0])}, "int64"),
        ({"targets": torch.tensor([0, 0])}, "true class"),
        ({"targets": torch.tensor([1, -1])}, "classes from 0 to 1"),
        ({"ids": torch.tensor([1])}, "one per image"),
        ({"wrong": torch.tensor([True])}, "one per image"),
        ({"wrong": torch.zeros(2, dtype=torch.int64)}, "give bool"),
        ({"eps": -0.1}, "not in"),
        ({"eps": 2.0}, "not in"),
        ({"eps": torch.tensor([0.1, torch.nan])}, "not in"),
        ({"eps": torch.tensor([0.1, 0.1, 0.1])}, "one per image"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_input_is_named(wrong, words):
    victim = toy_victim(2)
    given = {"images": torch.zeros(2, 1, 16, 16), "labels": torch.tensor([0, 1]), **GOOD, **wrong}
    with pytest.raises(ConfigError, match=words):
        few("pgd").run(victim, given.pop("images"), given.pop("labels"), **given)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        Attack(objective=CarliniWagner(), steps=0)
    with pytest.raises(ConfigError, match="random_start"):
        Attack(objective=CarliniWagner(), restarts=2)
    with pytest.raises(ConfigError, match=r"did you mean 'fgsm'\? choose from fgsm"):
        find_attack("FGSM ")
    with pytest.raises(ConfigError, match=r"catalogue.*choose from fgsm"):
        find_attack("zzzzzz")
    with pytest.raises(ConfigError, match="Shield"):
        few("wb").run(toy_victim(2), torch.zeros(1, 1, 16, 16), torch.tensor([0]), eps=EPS)


@given(st.integers(1, 256), st.sampled_from([255, 256]))
@settings(max_examples=30)
def test_eps_is_read_exactly(levels, of):
    if levels <= of:
        assert parse_eps(f"{levels}/{of}") == levels / of


@pytest.mark.parametrize("text", ["", "0", "0/256", "16", "1/0", "a/b", "-1/256", "1/2/3", "nan", "inf"])
def test_eps_that_is_none(text):
    with pytest.raises(ConfigError, match="16/256"):
        parse_eps(text)


@pytest.mark.parametrize("text", ["0.001", "0.0035", "0.9/256", "1/300", "0.0039", "1/256", "1/255", "1.5/256", "0.01"])
def test_an_eps_is_refused_if_no_8_bit_image_is_within_it(text):
    left, _, right = text.partition("/")
    value = float(left) / float(right or 1)
    clean = torch.full((1, 1, 2, 2), 100 / 255)
    if torch.equal(Linf().to_8bit(clean + 1, clean, torch.full((1, 1, 1, 1), value)), clean):
        with pytest.raises(ConfigError, match="less than a grey level; give 1/256 or more"):
            parse_eps(text)
    else:
        assert parse_eps(text) == value


@pytest.mark.parametrize("name", ["selective", "orthogonal"])
def test_what_hops_over_the_boundary_hands_over_a_point_beyond_it(name):
    """Where an image stands last is chance: half of those that got through on the way came back."""
    victim = toy_victim(2, shields=True)
    images = toy_images(30, victim.exact)
    labels = toy_labels(victim, images)
    goal, radius = Goal(labels, 1 - labels), torch.full((len(images), 1, 1, 1), EPS / 2)
    seen, step = [], Descent.begin
    attack = find_attack(name).attack.with_options(steps=40)

    def watched(rule, problem):
        walker = step(rule, problem)
        walk = walker.step
        walker.step = lambda z, *rest: seen.append(z.clone()) or walk(z, *rest)
        return walker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Descent, "begin", watched)
        found = attack.run(victim, images, labels, eps=EPS / 2, targets=goal.targets)
    assert len(seen) == attack.steps

    def through(z):
        verdict = victim.judge(Linf().to_8bit(z, images, radius))
        return goal.reached(verdict.predicted) & verdict.accepted

    ever, last = torch.stack([through(z) for z in seen]).any(0), through(seen[-1])
    assert (found.broken & ever).sum() >= 0.9 * ever.sum()
    assert last.sum() < found.broken.sum()


@pytest.mark.parametrize(("name", "classes", "shields"), [("apgd-dlr", 4, False), ("wb-adaptive", 2, True)])
def test_what_got_through_on_the_way_is_handed_over(name, classes, shields, monkeypatch):
    """The loss alone can be lower elsewhere: targeted DLR where the target comes second, WB where it does not fool."""
    victim = toy_victim(classes, shields=shields)
    images = toy_images(40, victim.exact, seed=5)
    labels = toy_labels(victim, images)
    goal = Goal(labels, (labels + 1) % classes)
    ever, usual = torch.zeros(40, dtype=torch.bool), View.through

    def spy(view, *, shield):
        found = usual(view, shield=shield)
        sure = view.logits.gather(1, goal.targets[:, None]) - without(view.logits, goal.targets).amax(1, keepdim=True)
        assert torch.equal(found, (sure.flatten() >= 0.05) & (victim.judge(view.pixels).accepted if shields else True))
        ever.logical_or_(found)
        return found

    monkeypatch.setattr(View, "through", spy)
    attack = find_attack(name).attack.with_options(steps=40)
    eps = torch.full((40, 1, 1, 1), 16 / 256)
    found, steps = attack.descend(victim, images, goal, eps, images.clone())
    verdict = victim.judge(found)
    assert steps == 40
    assert 5 < int(ever.sum()) < 40
    assert torch.equal(goal.reached(verdict.predicted) & verdict.accepted, ever)


@pytest.mark.parametrize("name", ["pgd", "wb", "auto-guard"])
def test_where_any_wrong_class_will_do_the_target_only_leads(name):
    """Driven to one class, an image that another wrong one got through with is broken, and a restart keeps it."""
    victim = toy_victim(4, shields=True)
    images = toy_images(60, victim.exact)
    labels = toy_labels(victim, images)
    run = {"eps": EPS, "targets": pick_targets(labels, 4), "only_target": False}
    once = few(name, 2).run(victim, images, labels, **run)
    again = few(name, 2, restarts=4).run(victim, images, labels, **run)
    for found in (once, again):
        verdict = victim.judge(found.images)
        assert torch.equal(found.fooled, verdict.predicted != labels)
        assert torch.equal(found.broken, found.fooled & verdict.accepted)
        assert (found.broken & (verdict.predicted != run["targets"])).any()
    assert (again.broken | ~once.broken).all()
    assert again.broken.sum() > once.broken.sum()


def test_a_victim_that_does_not_round_is_given_the_images_as_they_were_found(images, labels):
    """One step of BIM by hand: a hundredth of a grey level, which rounding would take back."""
    victim = Victim(toy_classifier(4), cushion=Unrounded(), dtype=torch.float32)
    eps, one = 1 / 256, find_attack("bim").attack.with_options(steps=1, step_size=0.01)
    found = one.run(victim, images, labels, eps=eps)
    x = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(victim.exact.activations(x).logits, labels, reduction="sum")
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found.images, (images + 0.01 * eps * grad.sign()).clamp(0, 1), rtol=0, atol=1e-7)
    torch.testing.assert_close(found.verdict.logits, victim.exact.activations(found.images).logits)
    long = find_attack("pgd").attack.with_options(steps=200).run(victim, images, labels, eps=eps)
    change = (long.images - images).abs()
    assert change.max() <= eps + 1e-7
    assert ((long.images * 255).round() - long.images * 255).abs().max() > 0.1
    kept = victim.behind(parse_cushion("none"))
    assert torch.equal(one.run(kept, images, labels, eps=eps).images, images)
