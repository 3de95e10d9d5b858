"""Child process that decodes what can crash, hang or devour memory, so that damage costs one picture and no more.

Run as a script by `isolated.py`; it imports nothing of the package. On its pipes: a 12-byte head (length of the JSON
part, length of the binary part), the JSON part, the binary part; one answer per request, until the input ends.
"""

import contextlib
import json
import struct
import sys
from typing import Any, BinaryIO

HEAD = struct.Struct(">IQ")
MEMORY_BYTES = 8 << 30


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


def send(stream: BinaryIO, message: dict[str, Any], binary: bytes = b"") -> None:
    text = json.dumps(message).encode()
    stream.write(HEAD.pack(len(text), len(binary)))
    stream.write(text)
    stream.write(binary)
    stream.flush()


def decode_dicom(request: dict[str, Any], frame: bytes) -> tuple[dict[str, Any], bytes]:
    """One compressed frame to stored values by the decoder that is named; what the options call YBR becomes RGB."""
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    values, _ = get_decoder(request["transfer_syntax"]).as_array(
        encapsulate([frame]), index=0, decoding_plugin=request["plugin"], **request["options"]
    )
    values = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return {"dtype": values.dtype.str, "shape": values.shape}, values.tobytes()


def decode_jpeg(request: dict[str, Any], frame: bytes) -> tuple[dict[str, Any], bytes]:
    """A JPEG of 8 bits to grey or RGB; what its colours are, its markers say."""
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(frame), formats=["JPEG"]) as image:
        image.load()
        depth = (3,) if image.mode == "RGB" else ()
        return {"dtype": "|u1", "shape": (image.height, image.width, *depth)}, image.tobytes()


def decode_tiff(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """One page of a TIFF, turned upright, to Pillow's mode, size and bytes; a palette is looked up."""
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(data), formats=["TIFF"]) as image:
        image.seek(request["page"])
        image.load()
        page = image.convert("RGBA" if image.mode == "PA" else "RGB") if image.mode in ("P", "PA") else image
        return {"mode": page.mode, "size": page.size}, page.tobytes()


def main() -> None:
    if sys.platform != "win32":
        import resource

        # Not every system lets a process lower these; the time limit of the parent remains.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    tasks = {"dicom": decode_dicom, "jpeg": decode_jpeg, "tiff": decode_tiff}
    while (message := receive(sys.stdin.buffer)) is not None:
        request, data = message
        try:
            answer, binary = tasks[request["task"]](request, data)
        except Exception as error:
            # Only the kind: a decoder's text may quote the file.
            answer, binary = {"error": type(error).__name__}, b""
        send(sys.stdout.buffer, answer, binary)


if __name__ == "__main__":
    main()
