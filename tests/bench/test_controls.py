"""Controls must fail where they should: for victims and attacks that deserve it."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tests.bench.small import fitted

from medaegis.attacks.catalogue import CATALOGUE
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.campaign import ON_GUARD, Campaign, Effort
from medaegis.bench.checks import controls
from medaegis.bench.checks.controls import run_controls
from medaegis.bench.plan import Planned
from medaegis.bench.sample import Sample
from medaegis.bench.store import Store
from medaegis.progress import silent

N = 40


def piece(fooled, accepted=0.0, *, bare=None):
    """Stored outcome in which a share of N images fools, and a share of those is accepted."""
    made = torch.arange(N) < round(fooled * N)
    found = {"fooled": made, "accepted": torch.arange(N) < round(accepted * fooled * N)}
    return found if bare is None else {**found, "fooled_bare": torch.arange(N) < round(bare * N)}


def planned(attack, levels, **options):
    return Planned(attack, levels / 256, f"{levels}/256", **options)


def by_name(found):
    return {control.name.split(":")[0].split(",")[0]: control for control in found}


# ---- from outcomes alone


class Far:
    """A campaign whose attacks get given shares through, by eps, and fool given shares with and without Cushion."""

    def __len__(self):
        return N

    effort = ON_GUARD

    def __init__(self, shares=None, *, bare=1.0, cushioned=1.0):
        self.shares, self.bare, self.cushioned, self.asked = shares or {}, bare, cushioned, []

    def few(self, n):
        return torch.arange(min(n, N))

    def only(self, places):
        return self

    def attack(self, cell, progress):
        self.asked.append(cell)
        return piece(self.cushioned, self.shares.get(cell.eps_text, 0.0), bare=self.bare)


@pytest.mark.parametrize(
    ("bare", "cushioned", "expected"),
    [(1.0, 1.0, (True, True)), (0.975, 1.0, (True, True)), (0.9, 1.0, (False, True)), (1.0, 0.9, (True, False))],
)
@pytest.mark.parametrize(("largest", "far"), [(1, 64), (16, 64), (96, 96)])
def test_attacks_must_work_where_nothing_protects(bare, cushioned, expected, largest, far):
    """Whatever the plan's eps: that a small one does not fool all says nothing of the attack."""
    campaign = Far(bare=bare, cushioned=cushioned)
    outcomes = [
        (planned("pgd", largest, steps=7), piece(0.1, bare=0.1)),
        (planned("bim", 1), piece(0.1, bare=0.1)),
        (planned("fgsm", 16), piece(0.1, bare=0.1)),  # one step proves nothing
        (planned("pgd-l2", 64), piece(0.1, bare=0.1)),
        (planned("wb", 64), piece(0.1)),
        (planned("one-pixel", 16), piece(0.1, bare=0.1)),  # answers alone may not be enough
        (planned("deepfool", 16), piece(0.1, bare=0.1)),  # these look for the smallest change
        (planned("jsma", 16), piece(0.1, bare=0.1)),
        (planned("feature-match", 16), piece(0.1, bare=0.1)),
        (planned("uap", 16), piece(0.1, bare=0.1)),
        (planned("generator", 16), piece(0.1, bare=0.1)),
        (planned("bias-field", 16), piece(0.1, bare=0.1)),  # smooth light alone may not be enough
        (planned("mim", 16, transferred=True), piece(0.1, bare=0.1)),
    ]
    alone, through = controls._undefended(campaign, outcomes, silent)
    assert (alone.passed, through.passed) == expected
    assert [(cell.attack, cell.eps, cell.value.steps) for cell in campaign.asked] == [
        ("pgd", far / 256, 7),
        ("bim", far / 256, 10),
    ]
    assert alone.name == f"Attacks on the classifier alone, {far}/256"
    assert alone.measured == f"pgd {bare:.1%}, bim {bare:.1%}"


def test_no_iterated_linf_attack_no_such_control():
    assert controls._undefended(Far(), [(planned("pgd-l2", 8), piece(1.0, bare=1.0))], silent) == []
    assert controls._undefended(Far(), [(planned("wb", 8), piece(1.0))], silent) == []


@pytest.mark.parametrize(("skipped", "passed"), [(0.1, True), (0.3, False)])
def test_a_shield_that_hides_behind_the_cushion_is_noticed(skipped, passed):
    outcomes = [
        (planned("wb", 4, steps=100), piece(1.0, 0.0)),
        (planned("wb", 16, steps=100), piece(1.0, 0.1)),
        (planned("wb", 16, steps=100, gradient="twin"), piece(1.0, 0.0)),
        (planned("wb", 16, steps=100, gradient="skip"), piece(1.0, skipped)),
        (planned("wb-momentum", 16, steps=100), piece(1.0, 0.9)),
    ]
    (control,) = controls._ways_through(outcomes)
    assert control.passed is passed
    assert control.measured == f"BPDA 10.0%, twin 0.0%, without it {skipped:.1%}"


@pytest.mark.parametrize(
    ("curve", "far", "passed"),
    [
        ({4: 0.0, 16: 0.5}, {"32/256": 0.9, "64/256": 1.0}, True),
        ({4: 0.0, 16: 0.5}, {"32/256": 0.5, "64/256": 0.5}, False),  # stuck
        ({4: 0.8, 16: 0.2}, {"32/256": 0.9, "64/256": 1.0}, False),  # falls
        ({4: 0.0, 64: 1.0}, {}, True),
    ],
)
def test_more_eps_must_end_in_full_success(curve, far, passed):
    campaign = Far(far)
    outcomes = [(planned("wb", levels, steps=7), piece(1.0, share)) for levels, share in curve.items()]
    outcomes.append((planned("wb", max(curve), steps=2), piece(1.0, 0.0)))
    outcomes.append((planned("wb", max(curve), steps=7, gradient="skip"), piece(1.0, 0.0)))
    control = controls._full_success(campaign, outcomes, silent)
    assert control.passed is passed
    assert [cell.eps_text for cell in campaign.asked] == list(far)
    assert all(cell.steps == 7 for cell in campaign.asked), "the far end is walked as long as the rest"


# ---- with a real guard


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def scene(work, tmp_path):
    guard, dataset, split = fitted(work)
    test = dataset.subset(split.adv_test)
    rows = torch.arange(len(test))
    clean = guard.judge(test.pixels())
    sample = Sample(test, clean, rows, rows[clean.predicted == test.labels], 0)
    store = Store(tmp_path / "pieces")
    campaign = Campaign(guard.victim(), sample, store, {}, "towards the drawn class", alone=Victim(guard.classifier))
    return guard, dataset, split, campaign


@pytest.mark.parametrize(
    ("n", "lost", "passed"),
    [
        (10, 0, None),  # too few to tell anything, which is no pass
        (10, 1, None),
        (10, 6, False),
        (40, 2, True),
        (40, 10, False),
        (200, 10, True),
        (200, 28, False),  # 14 points
        (200, -28, False),  # and accepted far more often than clean ones
        (1000, 60, True),
        (1000, 100, False),
    ],
)
def test_harmless_changes_are_judged_at_the_n_there_is(n, lost, passed):
    """Of n images a tenth is rejected when clean; `lost` more, or fewer, when changed."""
    rejected = n // 10 + max(0, -lost)
    clean = SimpleNamespace(accepted=torch.arange(n) >= rejected)
    after = SimpleNamespace(accepted=torch.arange(n) >= rejected + lost)
    test = SimpleNamespace(ids=torch.arange(n), labels=torch.zeros(n))
    sample = SimpleNamespace(clean=clean, chosen=torch.arange(n), test=test)
    campaign = SimpleNamespace(sample=sample, seed=0, effort=Effort(harmless=1))
    guard = SimpleNamespace(judge=lambda images, **_: after)
    control = controls._as_clean(guard, campaign, torch.zeros(n, 1, 2, 2), "Random noise")
    assert control.passed is passed
    assert (control.judged.n, control.judged.level, control.judged.comparisons) == (n, 0.05, 2)
    assert (control.judged.p <= 0.05) is (passed is False)


def test_harmless_changes_are_measured_on_real_noise(scene):
    guard, _, _, campaign = scene
    seen = []
    judge = guard.judge

    def watching(images, **options):
        seen.append(images)
        return judge(images, **options)

    guard.judge = watching
    for control, images in zip(
        (controls._noise(guard, campaign), controls._extra_jpeg(guard, campaign)), seen, strict=True
    ):
        share = float(judge(images).accepted.float().mean())
        clean = float(campaign.sample.clean.accepted.float().mean())
        assert control.passed in ((True, None) if abs(share - clean) <= 0.05 else (True, False, None))
        assert f"{share:.1%} accepted" in control.measured
    noisy, pressed = ((images - campaign.sample.test.pixels()) * 255 for images in seen)
    assert noisy.round().abs().max() == 16
    assert noisy.mean().abs() < 1
    assert 0 < pressed.abs().mean() < 16


def test_a_guard_that_cries_wolf_fails(scene):
    """It rejects whatever is not bit for bit an image it knows."""
    _guard, _, _, campaign = scene
    known = {bytes(image.numpy()) for image in campaign.sample.test.images}

    def judge(images, **_):
        found = torch.tensor([bytes((image * 255).round().to(torch.uint8).numpy()) in known for image in images])
        return Verdict(torch.zeros(len(images), 2), torch.zeros(len(images)).long(), torch.zeros(len(images)), found)

    paranoid = SimpleNamespace(judge=judge)
    told = dataclasses.replace(campaign.sample, clean=judge(campaign.sample.test.pixels()))
    campaign = dataclasses.replace(campaign, sample=told)
    assert controls._noise(paranoid, campaign).passed is False
    assert controls._extra_jpeg(paranoid, campaign).passed is False
    calm = SimpleNamespace(
        judge=lambda images, **_: dataclasses.replace(judge(images), accepted=torch.ones(len(images)) > 0)
    )
    assert controls._noise(calm, campaign).passed is True


def test_harmless_changes_are_tried_on_many_images_where_few_are_attacked(scene):
    """Of two attacked images one alone would be half."""
    guard, _, _, campaign = scene
    sample = dataclasses.replace(campaign.sample, chosen=torch.tensor([0, 1]))
    campaign = dataclasses.replace(campaign, sample=sample, effort=Effort(harmless=30))
    control = controls._noise(guard, campaign)
    assert control.detail.startswith("30 images")
    rows = controls._harmless(campaign)
    share = float(campaign.sample.clean.accepted[rows].float().mean())
    assert len(rows) == 30
    assert f"clean {share:.1%}" in control.measured
    assert len(set(campaign.sample.test.labels[rows].tolist())) == 2
    campaign = dataclasses.replace(campaign, sample=dataclasses.replace(campaign.sample, chosen=torch.arange(35)))
    assert torch.equal(controls._harmless(campaign), torch.arange(35))


def test_the_planted_weakness_is_broken_and_blunt_attacks_are_found_out(scene, monkeypatch):
    """With an attack that stands still the control fails: it is not passed by construction."""
    guard, dataset, split, campaign = scene
    campaign = dataclasses.replace(campaign, effort=Effort(planted=6, far=16))
    entry = CATALOGUE["wb"]
    shorter = dataclasses.replace(entry, attack=entry.attack.with_options(steps=15))
    monkeypatch.setitem(CATALOGUE, "wb", shorter)
    sharp = controls._planted_weakness(guard, dataset, split, campaign, silent, like=planned("wb", 16))
    blunt_entry = dataclasses.replace(
        entry, attack=entry.attack.with_options(steps=1, step_size=1e-9, random_start=False)
    )
    monkeypatch.setitem(CATALOGUE, "wb", blunt_entry)
    blunt = controls._planted_weakness(guard, dataset, split, campaign, silent, like=planned("wb", 16))
    share = [float(control.measured.split("%")[0]) for control in (sharp, blunt)]
    assert share[0] > share[1] == 0
    assert blunt.passed is False
    assert sharp.passed is (round(share[0] * 16 / 100) > 11), "12 of 16 and more: binom.cdf(11, 16, 0.9) is 0.017"
    other = Effort(planted=1, far=16)  # another recipe does not trip over the Shields of this one
    campaign = dataclasses.replace(campaign, effort=other)
    assert controls._planted_weakness(guard, dataset, split, campaign, silent, like=planned("wb", 16)).passed is False


def test_run_controls_takes_what_applies(scene, monkeypatch):
    guard, dataset, split, campaign = scene
    monkeypatch.setattr(controls, "_planted_weakness", lambda *_: pytest.fail("asked for"))
    campaign = dataclasses.replace(campaign, effort=Effort(far=4))
    few = [(planned("pgd", 8), piece(1.0, bare=1.0))]
    names = by_name(run_controls(guard, dataset, split, campaign, few, planted=True, progress=silent))
    missing = ["Ways through the Cushion", "More eps ends in full success (WB)", "Planted weakness"]
    assert list(names) == [
        "Random noise of 16/256",
        "One more JPEG pass at quality 90",
        "Attacks on the classifier alone",
        "Attacks through the Cushion",
        *missing,
    ]
    assert {(names[name].measured, names[name].passed) for name in missing} == {("not measured: no wb", None)}
    names = by_name(run_controls(guard, dataset, split, campaign, few, planted=False, progress=silent))
    assert "Planted weakness" not in names, "nobody asked for it"
    more = [*few, (planned("fgsm", 8), piece(0.5, bare=0.5)), (planned("wb", 8, steps=2), piece(0.5))]
    names = by_name(run_controls(guard, dataset, split, campaign, more, planted=False, progress=silent))
    assert names["More eps ends in full success (WB)"].measured.startswith("8/256: ")
    assert names["More eps ends in full success (WB)"].passed is None, "four images are too few to tell"
