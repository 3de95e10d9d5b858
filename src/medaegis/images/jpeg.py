"""A JPEG's codestream, without what is not picture, and the damage in it that libjpeg decodes over with a warning.

Pillow keeps libjpeg's warnings to itself: data cut short and ended properly, or with a code that does not exist, come
out as a picture. GDCM has a libjpeg too, which tells them. Source: ITU-T T.81, annex B.
"""

import re
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medaegis.images.isolated import ask
from medaegis.images.limits import Limits, UnreadableError, check_size

# A progressive JPEG has some ten scans; each further one costs a pass over the whole picture.
MAX_SCANS = 100
# A scan ends at a marker that is neither a stuffed zero nor a restart.
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
EOI, SOS, COMMENT = 0xD9, 0xDA, 0xFE
_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
ADOBE = {"RGB": _ADOBE + b"\0", "YBR_FULL": _ADOBE + b"\1"}  # the segment that tells the colours
BLOCK = 1 << 20
REMEDY = "copy or export it again"
MAX_SEGMENTS = 10_000
MAX_BYTES_PER_PIXEL = 4  # noise at the highest quality takes 3.5


def damaged() -> UnreadableError:
    return UnreadableError("its JPEG data are damaged or cut short", REMEDY)


class Codestream:
    """The segments and scans of a JPEG up to its end mark; application segments and comments are left out.

    Args:
        file: at the start of the JPEG.
        limits: bounds on its size, for a JPEG that is a picture of its own.

    Attributes:
        data: the codestream.
        rows, columns, samples, precision: as its frame header declares.
        frame: the marker of that header, C0 (baseline), C1 (extended), C2 (progressive) or one that is not read here.

    Raises:
        UnreadableError: it has no frame header or no end mark, or more scans than a picture needs.
    """

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self._file = file
        self.frame = self.precision = self.rows = self.columns = self.samples = 0
        self.data = bytearray(self._take(2))
        scans, most = 0, BLOCK
        if self.data != b"\xff\xd8":
            raise damaged()
        for _ in range(MAX_SEGMENTS):
            marker = self._marker()
            if marker == EOI:
                break
            length = self._take(2)
            body = self._take(int.from_bytes(length, "big") - 2)
            if not (0xE0 <= marker <= 0xEF or marker == COMMENT):
                self.data += b"\xff" + bytes([marker]) + length + body
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                if self.frame or len(body) < 6:
                    raise damaged()
                self.frame, self.precision, self.samples = marker, body[0], body[5]
                self.rows, self.columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
                if limits:
                    check_size(self.columns, self.rows, limits)
                    self.check_kind()
                    most += MAX_BYTES_PER_PIXEL * self.rows * self.columns
            elif marker == SOS:
                scans += 1
                if scans > MAX_SCANS:
                    raise UnreadableError(f"it has more than {MAX_SCANS} scans", "save it again as an ordinary JPEG")
                self._scan(most)
            if limits and len(self.data) > most:
                raise UnreadableError("it holds more data than a picture of its size needs", REMEDY)
        else:
            raise UnreadableError(f"it has more than {MAX_SEGMENTS} segments", "save it again as an ordinary JPEG")
        if not self.frame or not scans:
            raise damaged()
        self.data += b"\xff\xd9"

    def _take(self, count: int) -> bytes:
        found = self._file.read(max(0, count))
        if len(found) < count:
            raise damaged()
        return found

    def _marker(self) -> int:
        if self._take(1) != b"\xff":
            raise damaged()
        while (code := self._take(1)[0]) == 0xFF:
            pass
        return code

    def _scan(self, most: int) -> None:
        """Entropy-coded bytes up to the next marker."""
        while len(self.data) <= most:
            block = self._file.read(BLOCK)
            end = AFTER_SCAN.search(block)
            if end:
                self.data += block[: end.start()]
                self._file.seek(end.start() - len(block), 1)
                return
            if len(block) < 2:
                raise damaged()
            keep = len(block) - 1 if block.endswith(b"\xff") else len(block)
            self.data += block[:keep]
            self._file.seek(keep - len(block), 1)

    def check_kind(self) -> None:
        """Refuse kinds of JPEG that the decoders here do not know, so that they are not called damaged."""
        name = {0xC0: "", 0xC1: "", 0xC2: "", 0xC3: "lossless"}.get(self.frame, "arithmetic-coded or hierarchical")
        if name or self.precision != 8:
            what = f"{name or f'{self.precision}-bit'} JPEG, which is not read here"
            raise UnreadableError(f"it is {what}", "save it as PNG, TIFF or ordinary JPEG")
        if self.samples not in (1, 3, 4):
            raise UnreadableError(f"it has {self.samples} samples per pixel", "save it as RGB or grey")

    def check_data(self) -> None:
        """Decode it once in a child process, by the libjpeg that tells what it finds wrong.

        Raises:
            UnreadableError: it does, or refuses.
        """
        about = {"rows": self.rows, "columns": self.columns, "samples": self.samples}
        if ask({"task": "jpeg-check", **about}, self.data) is None:
            raise damaged()


def decode_jpeg(code: Codestream, colours: str) -> npt.NDArray[Any]:
    """Values uint8 (rows, columns, samples) of a codestream, in a child process, grey or RGB.

    Args:
        colours: what its components are, "grey", "RGB" or "YBR_FULL".
    """
    code.check_data()
    adobe = ADOBE.get(colours, b"")
    answer = ask({"task": "raster", "format": "JPEG"}, code.data[:2], adobe, memoryview(code.data)[2:])
    if answer is None:
        raise damaged()
    return np.frombuffer(answer[1], np.uint8).reshape(code.rows, code.columns, code.samples)
