"""Which texts mean one thing though they are written in two ways: 1 and 1.0 and 01, DR and dr."""

import re
import unicodedata
from collections.abc import Iterable

_NUMBER = re.compile(r"([+-]?)0*([0-9]+)(?:\.([0-9]*?)0*)?")


def folded(text: str) -> str:
    """The same for texts that differ in case, spaces or Unicode form only."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key(text: str) -> str:
    """As `folded`, and the same for all spellings of one number."""
    plain = folded(text)
    number = _NUMBER.fullmatch(plain)
    if number is None:
        return plain
    sign, whole, rest = number.groups()
    return f"{sign.replace('+', '')}{whole}{'.' if rest else ''}{rest or ''}"


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(key(text)) is not None


def several(texts: Iterable[str]) -> list[list[str]]:
    """The spellings of each text that is written in more than one way, the shortest first."""
    found: dict[str, set[str]] = {}
    for text in texts:
        found.setdefault(key(text), set()).add(text)
    return [sorted(group, key=lambda text: (len(text), text)) for group in found.values() if len(group) > 1]


def match(text: str, known: Iterable[str]) -> list[str]:
    """The known text that is exactly this one, else all that differ in spelling only."""
    texts = list(known)
    return [text] if text in texts else [other for other in texts if key(other) == key(text)]
