"""Child process that decodes compressed DICOM frames, so that a decoder's crash or hunger costs one picture, no more.

Run as a script by `codec.py`; it imports nothing of the package. On its pipes: a 12-byte head (length of the JSON
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


def main() -> None:
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    if sys.platform != "win32":
        import resource

        # Not every system lets a process lower these; the time limit of the parent remains.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    while (request := receive(sys.stdin.buffer)) is not None:
        options, frame = request
        syntax, plugin = str(options.pop("transfer_syntax")), str(options.pop("plugin"))
        try:
            # The very decoder is named: pixels must not depend on which other decoders happen to be installed.
            values, properties = get_decoder(syntax).as_array(
                encapsulate([frame]), index=0, decoding_plugin=plugin, **options
            )
        except Exception as error:
            # Only the kind: a decoder's text may quote the file.
            send(sys.stdout.buffer, {"error": type(error).__name__})
            continue
        values = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        answer = {
            "dtype": values.dtype.str,
            "shape": values.shape,
            "photometric": str(properties["photometric_interpretation"]),
        }
        send(sys.stdout.buffer, answer, values.tobytes())


if __name__ == "__main__":
    main()
