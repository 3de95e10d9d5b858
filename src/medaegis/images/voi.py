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


Ends = tuple[float, float]


def _words(item: "Dataset", keyword: str, *, big_endian: bool) -> tuple[npt.NDArray[np.uint16], str | None]:
    """A table's element as the 16-bit words that the file holds, and the VR if the file names one.

    As bits, for pydicom would take the sign of an element without VR from Pixel Representation.
    """
    element = item.get_item(keyword)
    if element is None:
        raise KeyError(keyword)
    order = ">" if big_endian else "<"
    value = element.value
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) & ~1], dtype=f"{order}u2").astype("<u2"), element.VR
    return (np.atleast_1d(np.asarray(value)).astype(np.int64) & 0xFFFF).astype("<u2"), element.VR


def read_table(item: "Dataset", descriptor: str, data: str, *, big_endian: bool, ends: Ends) -> Table:
    """The lookup table of an item; 8-bit tables may be packed two to a word (PS3.3 C.7.6.3.1.5 and 6).

    Args:
        ends: smallest and largest value that can be looked up. They decide the sign of the first value mapped where
            the file has no VR (PS3.3 C.11.1.1.1, C.11.2.1.1), and a table that begins beyond them is refused.
    """
    try:
        (size, first, bits), vr = _words(item, descriptor, big_endian=big_endian)
        entries, _ = _words(item, data, big_endian=big_endian)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UnreadableError(f"its lookup table ({data}) cannot be read", BAD_TAG) from None
    size, first, bits = int(size) or 1 << 16, int(first), int(bits)
    if vr == "SS" or (vr != "US" and ends[0] < 0):
        first -= (first & 0x8000) << 1
    if bits <= 8 and size > 1 and 2 * len(entries) in (size, size + 1):
        entries = entries.view(np.uint8).astype(np.uint16)
    if len(entries) < size or not 1 <= bits <= 16:
        raise UnreadableError(f"its lookup table ({data}) has {len(entries)} of {size} entries of {bits} bits", BAD_TAG)
    table = Table(entries[:size], first, bits)
    if table.entries.max() >= 1 << bits:
        raise UnreadableError(f"its lookup table ({data}) declares {bits} bits and holds larger entries", BAD_TAG)
    if first > ends[1] or first + size - 1 < ends[0]:
        problem = f"its lookup table ({data}) is for values from {first} to {first + size - 1}"
        raise UnreadableError(f"{problem}, its pixels can be from {ends[0]:g} to {ends[1]:g}", BAD_TAG)
    return table


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


@dataclass(frozen=True)
class ModalityLut:
    """Stored values to the modality's own (Hounsfield units, optical density): a table, or slope and intercept."""

    table: Table | None
    slope: float
    intercept: float

    @property
    def changes(self) -> bool:
        return self.table is not None or (self.slope, self.intercept) != (1.0, 0.0)

    def __call__(self, values: Values) -> Values:
        return values * self.slope + self.intercept if self.table is None else self.table(values)

    def told(self) -> str:
        if self.table is not None:
            return f"modality LUT applied ({len(self.table.entries)} entries of {self.table.bits} bits)"
        return f"rescaled: value x {self.slope:g} {'-' if self.intercept < 0 else '+'} {abs(self.intercept):g}"


def read_modality(item: "Dataset", stored: "Stored") -> ModalityLut:
    """The modality LUT or the rescale of an item; the identity where it holds neither (PS3.3 C.11.1)."""
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    table = None
    if item.get("ModalityLUTSequence"):
        first = item.ModalityLUTSequence[0]
        table = read_table(first, "LUTDescriptor", "LUTData", big_endian=stored.big_endian, ends=stored.ends)
        if (slope, intercept) != (1.0, 0.0):
            raise UnreadableError("it has a modality LUT and a rescale, of which only one may be", BAD_TAG)
    if slope == 0:
        raise UnreadableError("its RescaleSlope is 0, which makes every pixel the same", BAD_TAG)
    return ModalityLut(table, slope, intercept)


def voi(values: Values, item: "Dataset", *, ends: Ends, big_endian: bool, steps: list[str]) -> Values | None:
    """Grey by the file's own VOI LUT, or else its first window; None when it holds neither.

    Args:
        ends: smallest and largest value that the modality LUT or rescale can give.
    """
    if item.get("VOILUTSequence"):
        first = item.VOILUTSequence[0]
        table = read_table(first, "LUTDescriptor", "LUTData", big_endian=big_endian, ends=ends)
        needed = int(table.entries.max()).bit_length()
        if 8 < table.bits > needed:
            raise UnreadableError(
                f"its VOI LUT declares {table.bits} bits, its largest entry has {needed}: by the letter the picture is "
                "nearly black, other viewers stretch it",
                BAD_TAG,
            )
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
    """What the header says about the stored values of a grey frame.

    Attributes:
        inverted: why low values are light, in words; empty where high values are.
        modality_shown: whether the modality LUT or rescale is a step of display; not in an angiogram.
    """

    bits: int
    signed: bool
    inverted: str
    padding: tuple[int, int] | None
    big_endian: bool
    modality_shown: bool = True

    @property
    def ends(self) -> Ends:
        """Smallest and largest value that can be stored."""
        low = -(1 << self.bits - 1) if self.signed else 0
        return low, low + (1 << self.bits) - 1


def grey(
    frame: npt.NDArray[Any], stored: Stored, *, transform: "Dataset", view: "Dataset", steps: list[str]
) -> npt.NDArray[np.float32]:
    """Grey in [0, 1], high = light, of a frame of 8- or 16-bit stored values.

    Args:
        frame: integers `(rows, columns)`.
        stored: bits, sign, padding, inverted or not.
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

    modality = read_modality(transform, stored)
    if modality.changes and not stored.modality_shown:
        steps.append("modality LUT or rescale left out: of an angiogram it is not for display")
        modality = ModalityLut(None, 1.0, 0.0)
    values = modality(levels)
    storable = modality(np.clip(levels, *stored.ends))
    ends = float(storable.min()), float(storable.max())
    if modality.changes:
        steps.append(modality.told())
    shades = voi(values, view, ends=ends, big_endian=stored.big_endian, steps=steps)
    if shades is None:
        whole = stored.bits <= 8 and modality.table is None
        shades = _full_range(values, used, np.array(ends) if whole else None, steps)
    if stored.inverted:
        shades = 1.0 - shades
        steps.append(f"{stored.inverted}: inverted, so that high values are light")
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
