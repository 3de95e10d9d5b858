"""JSON for files that must not surprise: one encoding per value, and a reader that refuses what JSON leaves open.

Refused: duplicate keys, NaN and infinities, text that is no Unicode, deep nesting (RFC 8259, sections 4, 6, 8 and 9).
"""

import json
import math
from typing import Any

MAX_DEPTH = 32


def encode_json(value: Any) -> bytes:
    """The one encoding of a value: sorted keys, two spaces, ASCII, a final newline.

    Raises:
        ValueError: the value is not plain JSON (text keys, finite numbers, at most `MAX_DEPTH` levels).
    """
    _check(value, depth=0)
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def decode_json(data: bytes) -> Any:
    """The value in UTF-8 encoded JSON.

    Raises:
        ValueError: not UTF-8, not JSON, or JSON with one of the refused properties.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check(value, depth=0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _check(value: Any, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool() | int():
            return
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is not a finite number")
        case str():
            _check_text(value)
        case dict():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise ValueError(f"{name!r} is a name but not text")
                _check_text(name)
                _check(item, depth=depth + 1)
        case list() | tuple():
            for item in value:
                _check(item, depth=depth + 1)
        case _:
            raise ValueError(f"{type(value).__name__} is not a JSON value")


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{ascii(text)[:40]} is not Unicode text")
