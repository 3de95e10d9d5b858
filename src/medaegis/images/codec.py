"""Compressed DICOM frames to arrays, each by one named decoder, in a child process with a time and a memory limit.

Which decoder, is fixed per transfer syntax: the pixels must not depend on what else is installed. What its colours are,
is decided here and nowhere else: by the codestream's own markers and the header together, before it is unpacked.
Source: DICOM PS3.5 8.2.1 to 8.2.4 and annex A.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medaegis.images.codestream import (
    JP2_START,
    JPEG_LS,
    LOSSLESS,
    PROGRESSIVE,
    RGB_IDS,
    StreamHeader,
    glued,
    read_stream_header,
)
from medaegis.images.isolated import ask
from medaegis.images.jpeg import Codestream, decode_jpeg
from medaegis.images.limits import UnreadableError

BAND_PIXELS = 1 << 20  # converted at once
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
LOSSY_JPEG = (0xC0, 0xC1, PROGRESSIVE)
DAMAGED = "export the picture again from the archive; this copy is damaged"
CONVERT = "convert it to Explicit VR Little Endian or JPEG 2000"
CONTRADICTION = "have the file corrected where it was made; a guess would change its colours"

Colours = Literal["grey", "RGB", "YBR_FULL"]


@dataclass(frozen=True)
class Syntax:
    """A compressed transfer syntax: its name, decoder, JPEG processes, and the photometric interpretations it may have.

    The decoder is one of pydicom's plugins; "pillow" is asked without pydicom, so that it can be told the colours.
    """

    name: str
    decoder: str
    processes: tuple[int, ...]
    photometric: tuple[str, ...]

    @property
    def wide(self) -> bool:
        """Whether the decoder holds each value in 32 bits."""
        return self.decoder == "pylibjpeg"


WIDE_COPIES = 2  # of a colour picture's memory, compared with the other decoders
_JPEG = (*GREY, "RGB", "YBR_FULL", "YBR_FULL_422")
_LOSSLESS = (*GREY, PALETTE, "RGB", "YBR_FULL", "YBR_FULL_422")
_LS = (*GREY, PALETTE, "RGB", "YBR_FULL")
_2000 = (*GREY, PALETTE, "RGB", "YBR_FULL", "YBR_RCT")

COMPRESSED = {
    "1.2.840.10008.1.2.4.50": Syntax("JPEG Baseline", "pillow", LOSSY_JPEG, _JPEG),
    "1.2.840.10008.1.2.4.51": Syntax("JPEG Extended", "pillow", LOSSY_JPEG, _JPEG),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG Lossless", "gdcm", (LOSSLESS,), _LOSSLESS),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG Lossless SV1", "gdcm", (LOSSLESS,), _LOSSLESS),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS Lossless", "gdcm", (JPEG_LS,), _LS),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS Near-lossless", "gdcm", (JPEG_LS,), (*GREY, "RGB", "YBR_FULL")),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 Lossless", "pylibjpeg", (0,), _2000),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", "pylibjpeg", (0,), (*_2000, "YBR_ICT")),
    "1.2.840.10008.1.2.4.201": Syntax("HTJ2K Lossless", "pylibjpeg", (0,), _2000),
    "1.2.840.10008.1.2.4.202": Syntax("HTJ2K Lossless RPCL", "pylibjpeg", (0,), _2000),
    "1.2.840.10008.1.2.4.203": Syntax("HTJ2K", "pylibjpeg", (0,), (*_2000, "YBR_ICT")),
    "1.2.840.10008.1.2.5": Syntax("RLE Lossless", "pydicom", (), _LS),
}


def decode_frame(
    frame: bytes, *, transfer_syntax: str, options: dict[str, Any], steps: list[str]
) -> npt.NDArray[np.integer[Any]]:
    """Decode one compressed frame.

    Args:
        frame: the codestream, all fragments joined.
        transfer_syntax: a key of `COMPRESSED`.
        options: pydicom's decoding options (`rows`, `columns`, `bits_stored`, ...) of this one frame.
        steps: what was done is added here, in words.

    Returns:
        Stored values `(rows, columns)`, or `(rows, columns, 3)` in RGB.

    Raises:
        UnreadableError: codestream and header contradict each other; the decoder refused, died, or took more than a
            minute.
    """
    syntax = COMPRESSED[transfer_syntax]
    declared = str(options["photometric_interpretation"])
    if declared not in syntax.photometric:
        raise UnreadableError(f"{syntax.name} cannot hold {declared}", CONTRADICTION)
    stream = None
    if syntax.processes:
        stream = read_stream_header(frame)
        if stream is None:
            raise UnreadableError(f"its {syntax.name} frame has no header that can be read", DAMAGED)
        _check(stream, syntax, options, steps)
        if glued(frame):
            raise UnreadableError("its compressed frame holds more than one picture", DAMAGED)
    colours = components(stream, declared, jp2=frame.startswith(JP2_START), steps=steps)
    if colours != "grey" and declared != "RGB":
        steps.append(f"{declared} to RGB")
    if syntax.decoder == "pillow":
        # Whatever markers said what the colours are, now Adobe's alone does.
        values = decode_jpeg(Codestream(BytesIO(frame)), colours)
        return values[..., 0] if colours == "grey" else values
    told = options if colours == "grey" else {**options, "photometric_interpretation": colours}
    about = {"transfer_syntax": transfer_syntax, "plugin": syntax.decoder, "options": told}
    answer = ask({"task": "dicom", **about}, frame)
    if answer is None:
        problem = f"its {syntax.name} data cannot be decoded: damaged, or not of the kind it declares"
        raise UnreadableError(problem, DAMAGED)
    head, binary = answer
    values = np.frombuffer(binary, dtype=head["dtype"]).reshape(head["shape"])
    return ybr_to_rgb(values) if head["photometric"] == "YBR_FULL" else values


def ybr_to_rgb(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The RGB of YBR_FULL `(rows, columns, 3)`, as pydicom converts it; band by band, for it does so in float."""
    from pydicom.pixels.processing import convert_color_space

    made = np.empty_like(values)
    rows = max(1, BAND_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        made[top : top + rows] = convert_color_space(values[top : top + rows], "YBR_FULL", "RGB")
    return made


def _check(stream: StreamHeader, syntax: Syntax, options: dict[str, Any], steps: list[str]) -> None:
    """Compare what the codestream declares with what the DICOM header declares, before anything is unpacked."""
    if stream.process not in syntax.processes:
        found = stream.coding if stream.coding != "JPEG" else f"JPEG of start-of-frame type {stream.process:X}"
        raise UnreadableError(f"its transfer syntax says {syntax.name}, its frame is {found}", DAMAGED)
    declared = stream.rows, stream.columns, stream.samples
    expected = options["rows"], options["columns"], options["samples_per_pixel"]
    if declared != expected:
        problem = "its compressed frame is {} rows x {} columns x {} samples, its header says {} x {} x {}"
        raise UnreadableError(problem.format(*declared, *expected), DAMAGED)
    stored, allocated = options["bits_stored"], options["bits_allocated"]
    if stream.process in LOSSY_JPEG and stream.bits == stored == 12:
        raise UnreadableError("it is JPEG with 12 bits, which is valid, but there is no decoder for it", CONVERT)
    if stream.process in LOSSY_JPEG and options["pixel_representation"]:
        raise UnreadableError("its pixels are JPEG with loss, which has no sign, and its header says signed", DAMAGED)
    if stream.bits > allocated or (stream.process in LOSSY_JPEG and stream.bits != stored):
        problem = f"its compressed frame has {stream.bits} bits per sample, its header says {stored} of {allocated}"
        raise UnreadableError(problem, DAMAGED)
    if stream.bits < stored:
        steps.append(f"the compressed frame has {stream.bits} bits per sample, the header says {stored}")
    if stream.coding == "JPEG 2000" and stream.signed != bool(options["pixel_representation"]):
        sign = "signed" if stream.signed else "unsigned"
        steps.append(f"the compressed frame says {sign}, the header does not: the header is followed")


def components(stream: StreamHeader | None, declared: str, *, jp2: bool, steps: list[str]) -> Colours:
    """What the decoder's components are: by the header, as long as the codestream's markers say nothing else.

    Markers that contradict each other or the header are refused. One exception is told instead: where the chroma is
    subsampled, the components are YCbCr beyond doubt, whatever the header says.

    Args:
        stream: None where the coding has no markers (RLE).
        declared: the header's photometric interpretation.
        jp2: the codestream is wrapped in a JP2 file, whose own colour specification nobody should have to follow.
        steps: a contradiction that was settled is added here.
    """
    if declared in (*GREY, PALETTE):
        return "grey"
    named: Colours = "RGB" if declared == "RGB" else "YBR_FULL"
    if stream is None:
        return named
    if stream.coding != "JPEG":
        return _components_2000(stream, declared, jp2=jp2, steps=steps)
    if stream.adobe not in (None, 0, 1):
        raise UnreadableError("its JPEG has an Adobe marker that names no transform of three colours", CONTRADICTION)
    marks = (
        (stream.adobe is not None, "RGB" if stream.adobe == 0 else "YBR_FULL", "Adobe's marker"),
        (stream.jfif, "YBR_FULL", "the JFIF marker"),
        (stream.ids == RGB_IDS, "RGB", "the component ids"),
        (stream.subsampled, "YBR_FULL", "subsampled chroma"),
    )
    told = {colours for there, colours, _ in marks if there}
    words = ", ".join(f"{'YCbCr' if colours == 'YBR_FULL' else 'RGB'} by {by}" for there, colours, by in marks if there)
    if len(told) > 1:
        raise UnreadableError(f"its JPEG contradicts itself: it is {words}", CONTRADICTION)
    if not told or named in told:
        return named
    if not stream.subsampled:
        raise UnreadableError(f"its header says {declared}, its JPEG is {words}", CONTRADICTION)
    steps.append(f"the header says {declared}, the JPEG is {words}: the JPEG is followed")
    return "YBR_FULL"


def _components_2000(stream: StreamHeader, declared: str, *, jp2: bool, steps: list[str]) -> Colours:
    """The same for JPEG 2000 and JPEG-LS, whose decoders undo a transform that the codestream names (PS3.5 8.2.4)."""
    inside = declared in ("YBR_RCT", "YBR_ICT")
    if stream.subsampled:
        raise UnreadableError(f"its {stream.coding} components differ in size or depth", CONVERT)
    if jp2:
        raise UnreadableError("its frame is a JP2 file in colour, where DICOM wants a bare codestream", CONVERT)
    if inside != stream.transformed and (inside or declared != "RGB" or stream.coding == "JPEG-LS"):
        done = "has" if stream.transformed else "lacks"
        raise UnreadableError(f"its header says {declared}, its {stream.coding} {done} a transform", CONTRADICTION)
    if stream.transformed and not inside:
        steps.append("the header says RGB, the JPEG 2000 has a colour transform: undone")
    return "RGB" if inside or declared == "RGB" else "YBR_FULL"
