"""Child process that decodes what can crash, hang or devour memory, so that damage costs one picture and no more.

Run as a script by `isolated.py`; it imports nothing of the package. On its pipes: a 12-byte head (length of the JSON
part, length of the binary part), the JSON part, the binary part; one answer per request, until the input ends.
"""

import contextlib
import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

HEAD = struct.Struct(">IQ")
MEMORY_BYTES = 8 << 30
Buffer = bytes | bytearray | memoryview


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """One message, or None at the end of the stream."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    json_length, binary_length = HEAD.unpack(head)
    text, binary = stream.read(json_length), stream.read(binary_length)
    if len(binary) < binary_length:
        return None
    message: dict[str, Any] = json.loads(text)
    return message, binary


def send(stream: BinaryIO, message: dict[str, Any], *binary: Buffer) -> None:
    text = json.dumps(message).encode()
    stream.write(HEAD.pack(len(text), sum(map(len, binary))))
    stream.write(text)
    for part in binary:
        stream.write(part)
    stream.flush()


def decode_dicom(request: dict[str, Any], frame: bytes) -> tuple[dict[str, Any], bytes]:
    """One compressed frame to stored values by the decoder that is named, and what its colours then are."""
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    encapsulated = encapsulate([frame])
    del frame
    values, made = get_decoder(request["transfer_syntax"]).as_array(
        encapsulated, index=0, raw=True, decoding_plugin=request["plugin"], **request["options"]
    )
    values = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    told = {"dtype": values.dtype.str, "shape": values.shape, "photometric": made["photometric_interpretation"]}
    return told, values.tobytes()


def decode_raster(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """A file of one named kind to Pillow's mode, size and bytes; its size was checked before."""
    from io import BytesIO

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with Image.open(BytesIO(data), formats=[request["format"]]) as image:
        del data
        image.load()
        return {"mode": image.mode, "size": image.size}, image.tobytes()


def check_jpeg(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode a JPEG for what libjpeg has to say of it; GDCM's writes its warnings to stderr (see `main`)."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    del data
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    samples = request["samples"]
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((request["columns"], request["rows"], 1))
    image.SetDataElement(element)
    colours = gdcm.PhotometricInterpretation.RGB if samples == 3 else gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(colours))
    if samples > 1:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGBaselineProcess1))
    image.SetPixelFormat(gdcm.PixelFormat(samples, 8, 8, 7, 0))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    change.SetInput(image)
    image.thisown = False  # GDCM counts its references, and would free it a second time
    if not change.Change():
        raise ValueError("not decoded")
    return {}, b""


class Heard:
    """What is written to this process's stderr, by C libraries too, since it was last asked."""

    def __init__(self) -> None:
        self.pipe, write = os.pipe()
        for end in (self.pipe, write):
            os.set_blocking(end, False)  # a library that writes more than the pipe holds loses it, and goes on
        os.dup2(write, 2)

    def anything(self) -> bool:
        found = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self.pipe, 1 << 16):
                found = True
        return found


def main() -> None:
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        # Not every system lets a process lower these; the time limit of the parent remains.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))
    heard = Heard()
    tasks = {"dicom": decode_dicom, "raster": decode_raster, "jpeg-check": check_jpeg}
    while (message := receive(sys.stdin.buffer)) is not None:
        request, held = message[0], [message[1]]
        del message  # so that a task can let go of its data
        try:
            answer, binary = tasks[request["task"]](request, held.pop())
        except Exception as error:
            # Only the kind: a decoder's text may quote the file.
            answer, binary = {"error": type(error).__name__}, b""
        if heard.anything():  # decoders write there what they find wrong and decode over
            answer, binary = {"error": "Warned"}, b""
        send(sys.stdout.buffer, answer, binary)


if __name__ == "__main__":
    main()
