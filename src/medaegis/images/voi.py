"""From the values stored in a DICOM file to grey in [0, 1]: modality LUT, VOI LUT or window, padding, inversion.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT, window), C.7.5.1.1.2 (padding), C.7.6.3.1.5 (palette).
Everything is worked out once for each of the 2^bits possible values and then looked up per pixel.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medaegis.images.limits import UnreadableError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Values = npt.NDArray[np.float64]
BAD_TAG = "have the file corrected where it was made; a guess would change the picture"


def number(item: "Dataset", keyword: str) -> float | None:
    """First value of a numeric element; None when it is missing or empty."""
    value = item.get(keyword)
    if value is not None and not isinstance(value, str | bytes) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise UnreadableError(f"its {keyword} is not a number", BAD_TAG)
    return result


@dataclass(frozen=True)
class Table:
    """A lookup table: value `first + i` becomes `entries[i]`, values outside take the nearest end."""

    entries: npt.NDArray[np.uint16]
    first: int
    bits: int

    def __call__(self, values: Values) -> Values:
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        found: Values = self.entries[index].astype(np.float64)
        return found


def read_table(item: "Dataset", descriptor: str, data: str, *, big_endian: bool) -> Table:
    """The lookup table of an item; 8-bit tables may be packed two to a word (PS3.3 C.7.6.3.1.5 and 6)."""
    try:
        size, first, bits = (int(part) for part in item[descriptor].value)
        raw = item[data].value
        order = ">" if big_endian else "<"
        words = raw if isinstance(raw, bytes) else np.atleast_1d(np.asarray(raw, dtype=f"{order}u2")).tobytes()
        size = size & 0xFFFF or 1 << 16
        narrow = len(words) in (size, size + size % 2) and size > 1
        entries = np.frombuffer(words[: len(words) & ~1], dtype=f"{order}u2").astype("<u2")
        entries = entries.view(np.uint8).astype(np.uint16) if narrow else entries
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UnreadableError(f"its lookup table ({data}) cannot be read", BAD_TAG) from None
    if len(entries) < size or not 1 <= bits <= 16:
        raise UnreadableError(f"its lookup table ({data}) has {len(entries)} of {size} entries of {bits} bits", BAD_TAG)
    return Table(entries[:size], first, min(bits, 8) if narrow else bits)


def _unit(values: Values) -> Values:
    clipped: Values = np.clip(values, 0.0, 1.0)
    return clipped


def window(values: Values, *, centre: float, width: float, function: str) -> Values:
    """Grey in [0, 1] of a window (PS3.3 C.11.2.1.2 for LINEAR, C.11.2.1.3.1 and .2 for the other two)."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return _unit((values - centre) / width + 0.5)
    if width == 1:
        return np.where(values <= centre - 0.5, 0.0, 1.0)
    return _unit((values - (centre - 0.5)) / (width - 1.0) + 0.5)


def modality(values: Values, item: "Dataset", *, big_endian: bool, steps: list[str]) -> tuple[Values, int | None]:
    """Stored values to the modality's own (Hounsfield units, optical density); and the bits of a table's output."""
    if item.get("ModalityLUTSequence"):
        table = read_table(item.ModalityLUTSequence[0], "LUTDescriptor", "LUTData", big_endian=big_endian)
        steps.append(f"modality LUT applied ({len(table.entries)} entries of {table.bits} bits)")
        return table(values), table.bits
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    if slope is None and intercept is None:
        return values, None
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise UnreadableError("its RescaleSlope is 0, which makes every pixel the same", BAD_TAG)
    if (slope, intercept) != (1.0, 0.0):
        steps.append(f"rescaled: value x {slope:g} {'-' if intercept < 0 else '+'} {abs(intercept):g}")
    return values * slope + intercept, None


def voi(values: Values, item: "Dataset", *, big_endian: bool, steps: list[str]) -> Values | None:
    """Grey by the file's own VOI LUT, or else its first window; None when it holds neither."""
    if item.get("VOILUTSequence"):
        table = read_table(item.VOILUTSequence[0], "LUTDescriptor", "LUTData", big_endian=big_endian)
        steps.append(f"VOI LUT applied ({len(table.entries)} entries of {table.bits} bits)")
        return _unit(table(values) / (2**table.bits - 1))
    centre, width = number(item, "WindowCenter"), number(item, "WindowWidth")
    if centre is None or width is None:
        return None
    function = str(item.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UnreadableError("its VOILUTFunction is none of LINEAR, LINEAR_EXACT, SIGMOID", BAD_TAG)
    if width < 1 if function == "LINEAR" else width <= 0:
        steps.append(f"window of width {width:g} is not allowed by the standard: not used")
        return None
    steps.append(f"window: centre {centre:g}, width {width:g} ({function})")
    return window(values, centre=centre, width=width, function=function)


@dataclass(frozen=True)
class Stored:
    """What the header says about the stored values of a grey frame."""

    bits: int
    signed: bool
    inverted: bool
    padding: tuple[int, int] | None
    big_endian: bool


def grey(
    frame: npt.NDArray[Any], stored: Stored, *, transform: "Dataset", view: "Dataset", steps: list[str]
) -> npt.NDArray[np.float32]:
    """Grey in [0, 1], high = light, of a frame of 8- or 16-bit stored values.

    Args:
        frame: integers `(rows, columns)`.
        stored: bits, sign, padding, MONOCHROME1 or not.
        transform: the item with the modality LUT or rescale (the data set, or the frame's functional group).
        view: the item with the VOI LUT or window.
        steps: what was done is added here, in words.

    Returns:
        float32 `(rows, columns)`.
    """
    unsigned = np.dtype(f"u{frame.dtype.itemsize}")
    index = frame.view(unsigned)
    levels = np.arange(1 << 8 * frame.dtype.itemsize, dtype=unsigned).view(frame.dtype).astype(np.float64)
    counts = np.bincount(index.reshape(-1), minlength=len(levels))
    padded = np.zeros(len(levels), dtype=bool)
    if stored.padding is not None:
        padded = (levels >= min(stored.padding)) & (levels <= max(stored.padding))
    used = (counts > 0) & ~padded

    values, table_bits = modality(levels, transform, big_endian=stored.big_endian, steps=steps)
    shades = voi(values, view, big_endian=stored.big_endian, steps=steps)
    if shades is None:
        low = -(1 << stored.bits - 1) if stored.signed else 0
        ends = values[(levels == low) | (levels == low + (1 << stored.bits) - 1)]
        shades = _full_range(values, used, ends if stored.bits <= 8 and table_bits is None else None, steps)
    if stored.inverted:
        shades = 1.0 - shades
        steps.append("MONOCHROME1: inverted, so that high values are light")
    if padding_pixels := int(counts[padded].sum()):
        shades[padded] = 0.0
        steps.append(f"padding value: {padding_pixels} pixels set to black")
    spread = shades[used]
    if spread.size == 0 or spread.min() == spread.max():
        steps.append("constant: all pixels have one shade")
    picture: npt.NDArray[np.float32] = shades.astype(np.float32)[index]
    return picture


def _full_range(values: Values, used: npt.NDArray[np.bool_], ends: Values | None, steps: list[str]) -> Values:
    """Grey without VOI: up to 8 bits, all that can be stored; above, the frame's own smallest to largest value."""
    what = "no VOI LUT or window: {} shown as black to white"
    if ends is not None:
        steps.append(what.format("all values that can be stored"))
    else:
        ends = values[used]
        steps.append(what.format("smallest to largest value of the frame"))
    if ends.size == 0 or ends.min() == ends.max():
        return np.zeros_like(values)
    return _unit((values - ends.min()) / (ends.max() - ends.min()))
