"""What an attack does inside: each computation against a peer library, a closed form or a direct transcription."""

import numpy as np
import pytest
import torch
from tests.attacks.toys import SIZE, TAPS, seeded, toy_classifier, toy_images, toy_labels, toy_victim
from tests.models.tiny_networks import Tiny, lived_in
from torch import Tensor, nn

from medaegis.attacks.catalogue import find_attack
from medaegis.bench.analyse import maps, shifts
from medaegis.bench.analyse.landscape import directions, landscape
from medaegis.bench.analyse.spectra import passed, radial_spectrum
from medaegis.errors import ConfigError
from medaegis.models.backbones import create_backbone
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

# ---- maps


def test_grad_cam_is_monais():
    from monai.visualize import GradCAM

    classifier = toy_classifier(3).frozen(fold=False)
    images = toy_images(5, classifier)
    classes = torch.tensor([0, 1, 2, 1, 0])
    for layer in ("conv1", "relu", "conv2"):
        ours = maps.attention(classifier, images, classes, layer).cam
        network = lived_in(Tiny(3))
        network.load_state_dict(classifier.network.state_dict())
        network.relu.inplace = network.last.inplace = False  # MONAI's hooks cannot stand what follows in place
        theirs = GradCAM(network, layer)
        normalised = (images - classifier.mean) / classifier.std
        for i, k in enumerate(classes.tolist()):
            expected = theirs.compute_map(normalised[i : i + 1], class_idx=k)[0, 0]
            torch.testing.assert_close(ours[i], expected.detach(), rtol=1e-4, atol=1e-7)


def test_grad_cam_before_the_mean_is_cam_and_survives_operations_in_place():
    classifier = toy_classifier(3).frozen(fold=False)
    images, classes = toy_images(4, classifier), torch.tensor([2, 0, 1, 2])
    seen = classifier.activations(images, logits=False, taps=("last", "bn2", "relu")).features
    weights = classifier.network.fc.weight[classes] / seen["last"][0, 0].numel()
    expected = torch.einsum("nc,nchw->nhw", weights, seen["last"]).relu()
    torch.testing.assert_close(maps.attention(classifier, images, classes, "last").cam, expected)
    # `y += x` and a ReLU in place write over bn2's output; its gradient is that of the sum where the ReLU is open.
    is_open = (seen["bn2"] + seen["relu"] > 0).float().mean((2, 3))
    expected = torch.einsum("nc,nchw->nhw", weights * is_open, seen["bn2"]).relu()
    torch.testing.assert_close(maps.attention(classifier, images, classes, "bn2").cam, expected)


@pytest.mark.parametrize("channels", ["gray", "rgb"])
def test_saliency_is_the_finite_difference(channels: str):
    classifier = toy_classifier(2, channels=channels).frozen(fold=False)
    images = toy_images(3, classifier)
    classes = torch.tensor([1, 0, 1])
    found = maps.attention(classifier, images, classes, "last").saliency
    assert found.shape == (3, SIZE, SIZE)
    h, checked = 2e-3, 0
    for y, x in [(5, 5), (8, 3), (10, 12), (7, 7)]:
        for i, k in enumerate(classes.tolist()):
            slopes = []
            for channel in range(classifier.in_channels):
                nudge = torch.zeros_like(images[:1])
                nudge[0, channel, y, x] = h
                with torch.no_grad():
                    up, down, here = (classifier(images[i : i + 1] + s * nudge)[0, k] for s in (1, -1, 0))
                slopes.append(((up - down).abs() / (2 * h), (up - here).abs() / h, (here - down).abs() / h))
            best = max(slopes, key=lambda slope: float(slope[0]))
            if float((best[1] - best[2]).abs()) < 0.02 * float(best[0]):  # no kink in between
                assert float(found[i, y, x]) == pytest.approx(float(best[0]), rel=0.02)
                checked += 1
    assert checked >= 6


def test_maps_do_not_depend_on_the_batch_and_bad_layers_are_refused(monkeypatch: pytest.MonkeyPatch):
    classifier = toy_classifier(2).frozen()
    images, classes = toy_images(7, classifier), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    whole = maps.attention(classifier, images, classes, "last")
    monkeypatch.setattr(maps, "BATCH", 2)
    parts = maps.attention(classifier, images, classes, "last")
    torch.testing.assert_close(whole.cam, parts.cam)
    torch.testing.assert_close(whole.saliency, parts.saliency)
    for layer in ("input", "drop", "nowhere"):
        with pytest.raises(ConfigError, match=layer):
            maps.attention(classifier, images, classes, layer)


def test_activation_maps_and_correlation():
    classifier = toy_classifier(2).frozen(fold=False)
    images = toy_images(4, classifier)
    network, x = classifier.network, (images - classifier.mean) / classifier.std
    expected = torch.relu(network.bn1(network.conv1(x))).detach().numpy().mean(1)
    found = maps.activation_maps(classifier, images, ("relu", "drop"))
    assert list(found) == ["relu"]  # a vector has no places
    np.testing.assert_allclose(found["relu"], expected, rtol=1e-5, atol=1e-6)
    a, b = torch.rand(3, 5, 6), torch.rand(3, 5, 6)
    b[2] = 0.5
    told = maps.correlation(a, b)
    for i in range(2):
        assert float(told[i]) == pytest.approx(np.corrcoef(a[i].flatten(), b[i].flatten())[0, 1])
    assert float(told[2]) == 0


# ---- shifts


def clouds(n: int = 30, apart: float = 8.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    clean = torch.randn(n, 6, generator=generator)
    return clean, torch.randn(n, 6, generator=generator) + apart


def test_tsne_keeps_clouds_apart_repeats_itself_and_ignores_units():
    from sklearn.metrics import silhouette_score

    every = torch.cat(clouds())
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    points = shifts.embed(every, seed=3)
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002
    assert silhouette_score(points, [0] * 30 + [1] * 30) > 0.6
    assert torch.equal(points, shifts.embed(every, seed=3))
    other = shifts.embed(every * torch.tensor([1.0, 1024, 1, 1, 1, 1]), seed=3)
    torch.testing.assert_close(points, other)


@pytest.mark.parametrize("apart", [0.0, 0.8, 8.0])
def test_told_apart_is_the_direct_count(apart: float):
    clean, attacked = clouds(20, apart)
    every = torch.cat([clean, attacked]).numpy().astype(float) / clean.numpy().astype(float).std(0, ddof=1)
    right = 0
    for i in range(40):
        others = [j for j in range(40) if j not in (i, (i + 20) % 40)]
        nearest = sorted(others, key=lambda j: np.linalg.norm(every[i] - every[j]))[:5]
        right += (sum(j >= 20 for j in nearest) >= 3) == (i >= 20)
    assert shifts.told_apart(clean, attacked) == pytest.approx(right / 40)
    if apart == 8.0:
        assert right == 40


def test_a_twin_is_no_neighbour():
    clean, _ = clouds(40)
    assert 0.2 < shifts.told_apart(clean, clean + 1e-4) < 0.8  # with twins counted it would be near 0


def test_the_head_is_found_by_what_it_computes():
    classifier = toy_classifier(3).frozen()
    images = toy_images(4, classifier)
    head = shifts.find_head(classifier, images)
    assert head is not None
    assert head.tap == "drop"
    assert torch.equal(head.weight, classifier.network.fc.weight)
    network = lived_in(create_backbone("resnet18", classes=2))
    resnet = Classifier(
        network, classes=("a", "b"), size=64, channels="gray", mean=IMAGENET_MEAN, std=IMAGENET_STD, backbone="resnet18"
    ).eval()
    found = shifts.find_head(resnet, torch.rand(2, 1, 64, 64))
    assert found is not None
    assert found.tap == "avgpool"
    assert found.weight.shape == (2, 512)


class NoHead(nn.Module):
    """Logits that no linear layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 2, 1)
        self.decoy = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.out(x).mean((2, 3)) + 0 * self.decoy(x.mean((2, 3)))


def test_a_network_without_a_linear_head_has_none():
    with seeded(0):
        network = NoHead()
    classifier = Classifier(
        network, classes=("a", "b"), size=SIZE, channels="gray", mean=IMAGENET_MEAN, std=IMAGENET_STD, backbone="x:y"
    ).eval()
    assert shifts.find_head(classifier, toy_images(3, classifier)) is None


def test_cosines_are_numpys():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 7, generator=generator)
    moved = [torch.randn(5, 7, generator=generator) for _ in range(3)]
    labels, targets = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 0, 0, 2, 2])

    def cosine(a: Tensor, b: Tensor) -> float:
        u, v = a.numpy().astype(float), b.numpy().astype(float)
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    found = shifts.along_weights(moved[0], weight, labels, targets)
    expected = [cosine(moved[0][i], weight[targets[i]] - weight[labels[i]]) for i in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    table = [[np.mean([cosine(a[i], b[i]) for i in range(5)]) for b in moved] for a in moved]
    np.testing.assert_allclose(shifts.mutual(moved), table, rtol=1e-6)


def test_noise_is_of_the_size_asked_for_and_belongs_to_the_image():
    images, ids = toy_images(6, toy_classifier()), torch.arange(6) + 10
    noisy = shifts.noise(images, 3, ids, seed=2)
    change = ((noisy - images) * 255).round()
    inside = (images * 255 >= 3) & (images * 255 <= 252)
    assert torch.equal(change[inside].abs(), torch.full_like(change[inside], 3))
    assert change.abs().max() == 3
    assert torch.equal(shifts.noise(images[4:], 3, ids[4:], seed=2), noisy[4:])
    assert not torch.equal(shifts.noise(images, 3, ids, seed=3), noisy)


def test_stress_moves_pixels_by_just_eps_and_layers_more_than_noise_does():
    victim = toy_victim()
    images = toy_images(6, victim.exact).clamp(20 / 255, 235 / 255)
    ids, labels = torch.arange(6), toy_labels(victim, images)
    found = shifts.stress_test(victim, images, labels, ids, ("input", *TAPS), (1, 4, 8), seed=0)
    # The mean of the pixels themselves: every one of them goes by eps, no more.
    for kind, sign in (("up", 1), ("down", -1)):
        expected = [found.clean["input"] + sign * k / 255 for k in (1, 4, 8)]
        np.testing.assert_allclose(getattr(found, kind)["input"], expected, atol=1e-6)
    for tap in TAPS:
        up, down, noise = (found.relative(kind, tap) for kind in ("up", "down", "noise"))
        assert up == sorted(up)
        assert down == sorted(down, reverse=True)
        assert all(low < quiet < high for low, quiet, high in zip(down, noise, up, strict=True))
        seen = victim.exact.activations(images, logits=False, taps=(tap,)).features[tap]
        assert found.clean[tap] == pytest.approx(float(seen.mean()), rel=1e-5)
        assert up[2] == pytest.approx(found.up[tap][2] / found.clean[tap] - 1)


# ---- landscapes and spectra


@pytest.mark.parametrize("cushion", ["none", "jpeg:80"])
def test_the_landscape_passes_through_the_image_and_through_fgsm(cushion: str):
    victim = toy_victim(3, cushion=cushion, shields=True)
    images, ids = toy_images(4, victim.exact), torch.arange(4) + 5
    labels = toy_labels(victim, images)
    targets = (labels + 1) % 3
    found = landscape(victim, images, labels, targets, ids, levels=4, seed=0)
    assert found.levels.tolist() == list(range(-4, 5))
    for k in (0, 1, 4):
        attack = find_attack("fgsm").attack
        shown = attack.run(victim, images, labels, eps=k / 255).images
        verdict = victim.judge(shown)
        loss = nn.functional.cross_entropy(verdict.logits, labels, reduction="none")
        torch.testing.assert_close(found.loss[:, 4, 4 + k], loss, rtol=1e-4, atol=1e-5)
        assert found.suspicion is not None
        expected = victim.suspicion(shown, targets)
        torch.testing.assert_close(found.suspicion[:, 4, 4 + k], expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(found.margin[:, 4, 4 + k] < 0, verdict.predicted != labels)
    later = landscape(victim, images[2:], labels[2:], targets[2:], ids[2:], levels=4, seed=0)
    torch.testing.assert_close(later.loss, found.loss[2:], rtol=1e-4, atol=1e-5)


def test_the_two_directions_are_at_right_angles_and_of_one_size():
    victim = toy_victim()
    images = toy_images(5, victim.exact)
    across, down = directions(victim, images, toy_labels(victim, images), torch.arange(5), seed=1)
    assert (across * down).sum((1, 2, 3)).abs().max() == 0
    alive = across != 0
    assert alive.float().mean() > 0.5
    assert torch.equal(down[~alive], torch.zeros_like(down[~alive]))
    assert (alive.sum((1, 2, 3)) - (down != 0).sum((1, 2, 3))).max() <= 1
    wide = landscape(victim, images[:1], torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), levels=20, seed=1)
    assert wide.levels.tolist() == [-18, -15, -12, -9, -6, -3, 0, 3, 6, 9, 12, 15, 18]
    assert wide.suspicion is None


def test_the_spectrum_keeps_the_energy_and_is_numpys():
    images = torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    found = radial_spectrum(images)
    assert found.energy() == pytest.approx(float(images.double().square().mean()), rel=1e-12)
    power = (np.abs(np.fft.fft2(images.double().numpy())) ** 2).mean((0, 1)) / 12**4
    rings: dict[int, list[float]] = {}
    for y in range(12):
        for x in range(12):
            fy, fx = (k - 12 if k >= 6 else k for k in (y, x))
            rings.setdefault(round(np.hypot(fy, fx)), []).append(power[y, x])
    np.testing.assert_allclose(found.power, [np.mean(rings[r]) for r in sorted(rings)], rtol=1e-10)
    assert found.count.tolist() == [len(rings[r]) for r in sorted(rings)]
    assert found.energy(above=0.25) == pytest.approx(sum(sum(rings[r]) for r in rings if r / 12 > 0.25))


def test_a_wave_is_in_its_ring():
    wave = torch.cos(2 * torch.pi * 5 * torch.arange(32) / 32).expand(1, 1, 32, 32)
    found = radial_spectrum(wave)
    assert int(found.power.argmax()) == 5
    assert float(found.frequency[5]) == pytest.approx(5 / 32)
    assert float(found.power[5] * found.count[5]) == pytest.approx(0.5)  # the mean square of a cosine
    assert found.energy(above=0.2) == pytest.approx(0, abs=1e-12)


def test_what_passes_is_the_filters_transfer_function_whatever_is_added():
    generator = torch.Generator().manual_seed(3)
    before = torch.randn(200, 1, 16, 16, generator=generator, dtype=torch.float64)
    blurred = (before.roll(1, 3) + 2 * before + before.roll(-1, 3)) / 4
    added = 0.5 * torch.randn(200, 1, 16, 16, generator=generator, dtype=torch.float64)
    line = np.fft.fftfreq(16)
    transfer = (1 + np.cos(2 * np.pi * line)) / 2  # of (1 2 1) / 4 along a row, the same for every row
    ring = np.rint(np.hypot(line[:, None], line[None, :]) * 16).astype(int)
    plane = np.broadcast_to(transfer, (16, 16))
    expected = [plane[ring == r].mean() for r in range(ring.max() + 1)]
    np.testing.assert_allclose(passed(before, blurred), expected, atol=0.03)
    # Differences that have nothing to do with it change the power, but not what passes.
    np.testing.assert_allclose(passed(before, blurred + added)[1:], expected[1:], atol=0.06)
    np.testing.assert_allclose(passed(before, 0.3 * before), 0.3)
