"""A universal perturbation from answers alone: each wave that is kept lowers the loss, and every query is counted."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from tests.attacks.test_minimal import grey, plane
from tests.attacks.test_universal import known_to
from tests.attacks.toys import toy_victim, trained

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal, margin
from medaegis.attacks.universal import SearchedUniversal
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError

EPS = 16 / 255


def watched(victim):
    """What is asked of a victim: images in each look, and whether it was told to keep a gradient."""
    looks, look = [], victim.look

    def seen(z, goal, objective):
        looks.append((z.clone(), torch.is_grad_enabled()))
        return look(z, goal, objective)

    victim.look = seen
    return looks


def test_each_wave_that_is_kept_lowers_the_loss_of_the_known_images():
    """By the images that were asked about: a change at a time, plus or minus one low wave, and never uphill."""
    victim = toy_victim(3)
    images, labels = known_to(victim, 20)
    images = images * 0.5 + 0.25
    images = (images * 255).round() / 255
    labels = victim.judge(images).predicted
    looks = watched(victim)
    attack = SearchedUniversal(steps=12, step_size=0.3, share=0.25, learning_batch=20)
    lesson = attack.learn(victim, images, labels, eps=EPS)
    assert not any(grad for _, grad in looks)
    assert lesson.forwards == 20 * len(looks)
    assert lesson.backwards == 0
    changes = [(z - images)[0] for z, _ in looks]
    losses = [float(margin(victim.judge(z).logits, Goal(labels)).clamp_min(-9).mean()) for z, _ in looks]
    best, lowest, kept = changes[0], losses[0], 0
    assert not best.any()
    k = 1
    while k < len(looks):
        for sign in (1, -1):
            step = (changes[k] - best) * sign / (0.3 * EPS)
            inside = changes[k].abs() < EPS - 1e-6  # where the ball cut nothing
            if inside.all():
                weights = dctn(step[0].double().numpy(), norm="ortho")
                assert (np.abs(weights) > 1e-4).sum() == 1
                assert max(np.unravel_index(np.abs(weights).argmax(), (16, 16))) < 4
                assert step.abs().max() == pytest.approx(1, abs=1e-4)
            k += 1
            if losses[k - 1] < lowest:
                best, lowest, kept = changes[k - 1], losses[k - 1], kept + 1
                break
    assert kept >= 3
    torch.testing.assert_close(lesson.learned["change"], (best * 255).round() / 255, rtol=0, atol=1e-6)


def test_on_a_plane_it_comes_near_to_the_best_low_change():
    """No change of low waves gains more than the sum of |slope| of the low part of the weights; noise gains nothing."""
    victim = plane(2)
    images = grey(victim, 30)
    labels = victim.judge(images).predicted
    attack = SearchedUniversal(objective=CarliniWagner(), steps=64, share=0.25, step_size=0.5)
    lesson = attack.learn(victim, images, labels, eps=EPS, target=1)
    slope = (victim.exact.network.fc.weight[1] - victim.exact.network.fc.weight[0]).detach()
    gain = float((lesson.learned["change"].flatten() * slope).sum())
    low = torch.from_numpy(dctn(slope.view(16, 16).double().numpy(), norm="ortho"))[:4, :4]
    most = EPS * 16 * float(low.norm())  # a change within eps is at most so long
    assert gain > 0.3 * most, gain / most
    assert lesson.learned["change"].abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("targeted", [False, True])
def test_it_carries_over_to_other_images_and_beats_noise(targeted):
    """On a network that has learned something; low waves alone turn fewer than a change by gradients does."""
    guard, images, labels = trained()
    victim, known = Victim(guard.classifier), (images[:60], labels[:60])
    others, theirs = images[160:], labels[160:]
    attack = find_attack("uap-black-box").attack.with_options(steps=40)
    targets = 1 - theirs if targeted else None
    found = attack.run(victim, others, theirs, eps=EPS, targets=targets, known=known)
    assert found.backwards == 0
    assert 0 < found.forwards <= (1 + 2 * 40) * (60 if targets is None else 120)
    change = ((found.images - others) * 255).round()
    turned = change.flatten(1)[:, torch.randperm(change[0].numel(), generator=torch.Generator().manual_seed(0))]
    noisy = ((others + turned.view_as(change) / 255).clamp(0, 1) * 255).round() / 255
    by_noise = (victim.judge(noisy).predicted != theirs).float().mean()
    assert found.fooled.float().mean() > by_noise + 0.15, (found.fooled.float().mean(), by_noise)


def test_it_repeats_with_the_seed():
    victim = toy_victim(2)
    known = known_to(victim, 20)
    attack = SearchedUniversal(steps=6, share=0.25)
    one, again, other = (attack.learn(victim, *known, eps=EPS, seed=s).learned["change"] for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_waves_are_drawn_without_repetition_until_all_were():
    shape = torch.Size([2, 16, 16])
    waves = SearchedUniversal(share=1 / 8)._waves(shape, 0)
    first = [next(waves) for _ in range(2 * 2 * 2)]
    assert torch.linalg.matrix_rank(torch.stack([wave.flatten() for wave in first])) == 8
    again = next(waves)
    assert any(torch.equal(again, wave) for wave in first)


@pytest.mark.parametrize("wrong", [{"step_size": 0.0}, {"share": 0.0}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="universal perturbation"):
        SearchedUniversal(**wrong)
