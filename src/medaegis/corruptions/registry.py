"""The corruptions there are, by name; docs/corruptions.md shows them."""

from __future__ import annotations

from medaegis.corruptions import artefacts, blur, noise, position, resolution, tone
from medaegis.corruptions.base import REFERENCE_SIDE, Corruption, Kind
from medaegis.errors import ConfigError

_PIXELS = f"in pixels of a picture with a shorter side of {REFERENCE_SIDE}"
_SHARE = "share of the shorter side"

CORRUPTIONS: dict[str, Corruption] = {
    one.name: one
    for one in (
        Corruption("gaussian-noise", "Gaussian noise", "noise", "any",
            "deviation, of the range of values", (0.01, 0.02, 0.04, 0.07, 0.11), noise.gaussian),
        Corruption("shot-noise", "Shot noise", "noise", "any",
            "photons that white has", (5000, 1250, 310, 100, 40), noise.shot),
        Corruption("speckle-noise", "Speckle noise", "noise", "any",
            "deviation, of the value itself", (0.02, 0.04, 0.08, 0.14, 0.22), noise.speckle),
        Corruption("defocus-blur", "Defocus", "blur", "any",
            f"radius of the disc, {_PIXELS}", (1.2, 2.0, 3.0, 4.5, 6.5), blur.defocus),
        Corruption("motion-blur", "Motion", "blur", "any",
            f"length of the path, {_PIXELS}", (3, 5, 8, 12, 18), blur.motion),
        Corruption("gaussian-blur", "Gaussian blur", "blur", "any",
            f"deviation, {_PIXELS}", (0.7, 1.1, 1.7, 2.6, 4.0), blur.gaussian),
        Corruption("contrast-down", "Less contrast", "tone", "any",
            "factor about the mean", (0.9, 0.78, 0.64, 0.5, 0.35), tone.contrast),
        Corruption("contrast-up", "More contrast", "tone", "any",
            "factor about the mean", (1.1, 1.25, 1.5, 1.8, 2.2), tone.contrast),
        Corruption("brightness-down", "Darker", "tone", "any",
            "added, of the range of values", (-0.03, -0.07, -0.13, -0.2, -0.3), tone.brightness),
        Corruption("brightness-up", "Brighter", "tone", "any",
            "added, of the range of values", (0.03, 0.07, 0.13, 0.2, 0.3), tone.brightness),
        Corruption("gamma-up", "Gamma above 1", "tone", "any",
            "exponent", (1.1, 1.25, 1.5, 1.8, 2.2), tone.gamma),
        Corruption("gamma-down", "Gamma below 1", "tone", "any",
            "exponent", (0.91, 0.8, 0.67, 0.56, 0.45), tone.gamma),
        Corruption("jpeg", "JPEG", "resolution", "any",
            "quality, of libjpeg's scale to 100", (90, 70, 45, 25, 12), resolution.jpeg),
        Corruption("resampling", "Resampling", "resolution", "any",
            "share of the sides that is left", (0.85, 0.65, 0.45, 0.3, 0.2), resolution.resampled),
        Corruption("pixelation", "Pixelation", "resolution", "any",
            "share of the sides that is left", (0.5, 0.36, 0.27, 0.19, 0.13), resolution.pixelated),
        Corruption("rotation", "Rotation", "position", "any",
            "degrees, either way", (1, 2, 4, 7, 11), position.rotated),
        Corruption("shift", "Shift", "position", "any",
            f"{_SHARE}, any way", (0.01, 0.02, 0.035, 0.055, 0.08), position.shifted),
        Corruption("collimation", "Collimator blades", "artefact", "x-ray",
            f"widest border, {_SHARE}", (0.015, 0.04, 0.08, 0.13, 0.2), artefacts.collimated),
        Corruption("marker", "Burnt-in marker", "artefact", "x-ray",
            f"height of the letter, {_SHARE}", (0.03, 0.06, 0.09, 0.13, 0.18), artefacts.marker),
        Corruption("grid-lines", "Grid lines", "artefact", "x-ray",
            "light that a line takes", (0.02, 0.05, 0.1, 0.17, 0.26), artefacts.grid_lines),
        Corruption("vignetting", "Vignetting", "artefact", "fundus",
            "light lost at the rim", (0.1, 0.25, 0.42, 0.6, 0.8), artefacts.vignetted),
        Corruption("uneven-light", "Uneven light", "artefact", "fundus",
            "light lost from one side to the other", (0.1, 0.25, 0.42, 0.6, 0.8), artefacts.lit_unevenly),
        Corruption("bright-spot", "Bright spot", "artefact", "fundus",
            "strength, towards white", (0.06, 0.15, 0.3, 0.5, 0.75), artefacts.bright_spot),
        Corruption("dust", "Dust", "artefact", "fundus",
            "specks", (2, 6, 14, 28, 50), artefacts.dust),
        Corruption("hairs", "Hairs", "artefact", "skin",
            "hairs", (1, 4, 9, 18, 32), artefacts.hairs),
        Corruption("bubbles", "Air bubbles", "artefact", "skin",
            f"radius of the largest, {_SHARE}", (0.02, 0.045, 0.08, 0.12, 0.17), artefacts.bubbles),
        Corruption("black-corners", "Black corners", "artefact", "skin",
            "radius of the field, share of the half diagonal", (0.96, 0.91, 0.85, 0.78, 0.71), artefacts.black_corners),
    )
}  # fmt: skip


def find_corruption(name: str) -> Corruption:
    """The corruption of this name.

    Raises:
        ConfigError: there is none; the message names those there are.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"corruption {name!r}", "there is none of that name", f"use one of: {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def corruptions_for(kind: Kind) -> list[Corruption]:
    """Those that pictures of this kind have; of "any", what every picture may have."""
    return [one for one in CORRUPTIONS.values() if one.kind in ("any", kind)]
