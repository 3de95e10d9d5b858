"""Each change by itself, against SciPy, Pillow and closed forms."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from tests.cushions.drawings import drawn

from medaegis.corruptions import artefacts, blur, noise, position, resolution, tone
from medaegis.draws import Draws


def draws(image=0, seed=0):
    return Draws(seed, torch.tensor([image]), "test")


def one(shape, seed=0):
    return drawn((1, *shape), seed=seed).double()[0].mul(255).round() / 255


def flat(value, side=64, channels=1):
    return torch.full((channels, side, side), value, dtype=torch.float64)


# Noise


def test_gaussian_and_speckle_noise_have_their_deviations():
    for value in (0.2, 0.6):
        added = noise.gaussian(flat(value, 200), 0.05, draws()) - value
        times = noise.speckle(flat(value, 200), 0.05, draws()) / value - 1
        for found in (added, times):
            assert float(found.mean()) == pytest.approx(0, abs=4 * 0.05 / 200)
            assert float(found.std()) == pytest.approx(0.05, rel=0.02)
            assert stats.kstest(found.flatten() / 0.05, "norm").pvalue > 0.001


@pytest.mark.parametrize("photons", [40, 1250])
def test_shot_noise_is_the_quantile_of_the_poisson_distribution(photons):
    image = one((3, 30, 40))
    image[:, 0] = torch.tensor([0.0, 1 / 255, 1.0])[:, None]
    uniform = draws().uniform(3, 30, 40)[0].double().numpy()
    expected = stats.poisson.ppf(np.maximum(uniform, 1e-300), image.numpy() * photons)
    expected[image.numpy() == 0] = 0
    counts = noise.shot(image, photons, draws()).numpy() * photons
    assert np.allclose(counts, expected, rtol=0, atol=1e-6)  # whole numbers, up to the division


# Blur


@pytest.mark.parametrize(
    "psf", [blur.disc(0.3), blur.disc(2.6), blur.line(7.5, 0.4), blur.line(3, 2.9), blur.bell(1.3)[None]]
)
def test_a_point_spread_function_sums_to_one_and_spreads_as_scipy_does(psf):
    assert float(psf.sum()) == pytest.approx(1)
    assert bool((psf >= 0).all())
    assert torch.allclose(psf, psf.flip(0, 1))  # no image is moved by it
    image = one((2, 20, 27))
    expected = [ndimage.correlate(channel, psf.numpy(), mode="nearest") for channel in image.numpy()]
    assert np.allclose(blur.spread(image, psf), expected, atol=1e-12)


def test_a_disc_and_a_line_are_as_large_as_they_say():
    assert 1 / float(blur.disc(6).max()) == pytest.approx(math.pi * 36, rel=0.01)
    assert torch.equal(blur.disc(0.5), torch.ones(1, 1, dtype=torch.float64))
    places = torch.arange(-7, 8, dtype=torch.float64)
    for angle in (0.0, 0.7, 2.5):
        shares = blur.line(11, angle)
        y, x = (float((shares * grid.square()).sum()) for grid in torch.meshgrid(places, places, indexing="ij"))
        assert y + x == pytest.approx(11**2 / 12, abs=0.5)  # of an even line; by straight lines a little more
        assert math.atan2(math.sqrt(y), math.sqrt(x)) == pytest.approx(
            math.atan2(math.sin(angle), abs(math.cos(angle))), abs=0.1
        )


def test_gaussian_blur_is_scipys():
    image = one((1, 224, 240))
    expected = ndimage.gaussian_filter(image[0].numpy(), 2.6, mode="nearest", radius=math.ceil(4 * 2.6))
    assert np.allclose(blur.gaussian(image, 2.6, draws())[0], expected, atol=1e-12)


# Tone


def test_tone_by_closed_forms():
    image = one((3, 30, 40))
    assert float(tone.brightness(image, -0.2, draws()).mean()) == pytest.approx(float(image.mean()) - 0.2)
    less = tone.contrast(image, 0.5, draws())
    assert float(less.mean()) == pytest.approx(float(image.mean()))
    assert float(less.std()) == pytest.approx(float(image.std()) / 2)
    assert torch.equal(tone.gamma(image, 1.0, draws()), image)
    assert torch.allclose(tone.gamma(tone.gamma(image, 2.0, draws()), 0.5, draws()), image)


# Resolution


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    image = one((channels, 48, 40))
    pixels = (image * 255).byte().permute(1, 2, 0).numpy().squeeze()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=45)
    expected = np.asarray(Image.open(file)).reshape(48, 40, channels).transpose(2, 0, 1)
    assert np.array_equal((resolution.jpeg(image, 45, draws()) * 255).round().numpy(), expected)


def test_coarse_pixels_are_means_of_blocks():
    image = one((3, 24, 32))
    blocks = image.numpy().reshape(3, 12, 2, 16, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    assert np.allclose(resolution.pixelated(image, 0.5, draws()), blocks)


def test_resampling_keeps_what_is_smooth_and_takes_what_is_fine():
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 64, 64)
    assert torch.allclose(resolution.resampled(ramp, 0.5, draws())[..., 4:-4], ramp[..., 4:-4], atol=1e-6)
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).double()[None]
    assert float(resolution.resampled(board, 0.5, draws()).std()) < 0.05
    image = one((1, 30, 40))
    for change in (resolution.resampled, resolution.pixelated):
        assert torch.allclose(change(image, 1.0, draws()), image)


# Position


def test_a_rotation_is_scipys_and_by_nothing_is_none():
    image = one((2, 31, 44))
    assert torch.equal(position.rotated(image, 0.0, draws()), image)
    turned = position.rotated(image, 9.0, draws())
    both = [
        ndimage.rotate(image.numpy(), angle, axes=(2, 1), reshape=False, order=1, mode="nearest", prefilter=False)
        for angle in (9.0, -9.0)
    ]
    assert any(np.allclose(turned, expected, atol=1e-9) for expected in both)


def test_a_shift_is_scipys():
    image = one((2, 31, 44))
    found = position.shifted(image, 0.1, draws())
    angle = 2 * math.pi * float(draws().uniform(1)[0])
    by = (0, -3.1 * math.sin(angle), -3.1 * math.cos(angle))
    assert np.allclose(found, ndimage.shift(image.numpy(), by, order=1, mode="nearest"), atol=1e-9)


# Artefacts


def test_blades_darken_a_border_and_nothing_else():
    image = flat(0.7, 100)
    shown = artefacts.collimated(image, 0.2, draws())[0]
    assert torch.equal(shown[22:-22, 22:-22], image[0, 22:-22, 22:-22])
    assert all(float(line.max()) < 0.05 for line in (shown[:9], shown[-9:], shown[:, :9], shown[:, -9:]))


def test_a_marker_is_a_bright_letter_on_its_own_side():
    seen = set()
    for image in range(12):
        shown = artefacts.marker(flat(0.1, 200), 0.1, draws(image))[0] > 0.5
        rows, columns = shown.nonzero().unbind(1)
        assert 17 <= int(rows.max() - rows.min()) + 1 <= 20
        assert int(rows.max()) < 60
        left = int(columns.max()) < 60
        assert left or int(columns.min()) > 140
        seen.add(left)
        # An L has its ink at the bottom, an R at the top.
        middle = int(rows.min() + rows.max()) // 2
        assert (int(shown[:middle].sum()) > int(shown[middle + 1 :].sum())) == left
    assert len(seen) == 2


def test_grid_lines_are_one_frequency_and_take_light():
    shown = artefacts.grid_lines(flat(0.8, 180), 0.2, draws())[0]
    assert float(shown.max()) == pytest.approx(0.8, abs=0.01)
    assert float(shown.min()) == pytest.approx(0.64, abs=0.01)
    flatter = shown.mean(0) if float(shown.std(0).mean()) < float(shown.std(1).mean()) else shown.mean(1)
    spectrum = torch.fft.rfft(flatter - flatter.mean()).abs()
    assert 35 <= int(spectrum.argmax()) <= 55


def test_light_falls_off_as_it_says():
    rim = artefacts.vignetted(flat(0.8, 101), 0.5, draws())[0]
    assert float(rim[50, 50]) == pytest.approx(0.8)
    assert float(rim[50, 0]) == pytest.approx(0.4, abs=0.01)
    assert torch.allclose(rim, rim.flip(0))
    assert torch.allclose(rim, rim.T)
    across = artefacts.lit_unevenly(flat(0.8, 101), 0.5, draws())[0]
    assert (float(across.max()), float(across.min())) == pytest.approx((0.8, 0.4))
    assert torch.allclose(across.diff(dim=0), across.diff(dim=0)[0, 0].expand(100, 101))  # a plane


def test_a_spot_only_brightens_and_dust_only_darkens():
    image = one((3, 90, 120))
    assert bool((artefacts.bright_spot(image, 0.5, draws()) >= image).all())
    few, many = (artefacts.dust(image, count, draws()) for count in (3, 9))
    assert bool((many <= few).all() and (few <= image).all())
    assert torch.equal(artefacts.dust(image, 0, draws()), image)


def test_hairs_are_thin_dark_and_in_part_of_the_picture():
    image = flat(0.8, 224, 3)
    covered = [float((artefacts.hairs(image, count, draws()) != image).any(0).double().mean()) for count in (0, 1, 10)]
    assert covered[0] == 0 < covered[1] < 0.02 < covered[2] < 0.15
    shown = artefacts.hairs(image, 10, draws())
    assert torch.allclose(shown.amin((1, 2)), 0.1 * 0.8 + 0.9 * torch.tensor(artefacts.HAIR, dtype=torch.float64))


def test_bubbles_change_three_discs_and_corners_a_frame():
    image = flat(0.6, 200, 3)
    discs, count = ndimage.label((artefacts.bubbles(image, 0.05, draws()) != image).any(0).numpy())
    assert 1 <= count <= 3
    assert (discs > 0).sum() == pytest.approx(math.pi * 100 * (1 + 0.36 + 0.16), rel=0.25)
    shown = artefacts.black_corners(image, 0.8, draws())
    black = (shown == 0).all(0)
    rows, columns = torch.meshgrid(torch.arange(200) - 99.5, torch.arange(200) - 99.5, indexing="ij")
    far = (rows**2 + columns**2).sqrt() / math.hypot(100, 100)
    assert torch.equal(black[(far - 0.8).abs() > 0.02], (far > 0.8)[(far - 0.8).abs() > 0.02])
