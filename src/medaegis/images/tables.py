"""Tables of labels as people keep them: CSV by comma, semicolon or tab, headings in any spelling, cells stripped.

What could be read in two ways (two columns for one thing, a row longer than the heading, an open quotation mark) is
refused.
"""

import csv
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from medaegis.errors import DataError
from medaegis.images import spelling
from medaegis.images.sources import Spec

DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Heading:
    """How a column may be headed: by one of `names`, whatever its case, spaces and signs ("Patient ID" is patient_id).

    chosen: the user named this column, so that the very same spelling goes before any other.
    """

    names: tuple[str, ...]
    chosen: bool = False
    required: bool = True
    may_be_empty: bool = False

    def places(self, header: list[str]) -> list[int]:
        """Where in `header` it stands; several places are an ambiguity."""
        same = [i for i, given in enumerate(header) if given in self.names]
        if self.chosen and same:
            return same
        plain = {_plain(name) for name in self.names} - {""}
        return [i for i, given in enumerate(header) if _plain(given) in plain]


PATIENT = Heading(
    (
        *("patient", "patient id", "patient number", "patient no", "patient nr", "patient code", "patient key"),
        *("subject", "subject id", "subject number", "subject no", "person", "person id", "pat id", "pid", "ptid"),
    ),
    required=False,
    may_be_empty=True,
)


def headed(*names: str) -> dict[str, Heading]:
    """Columns that a published table has, under their own names."""
    return {name: Heading((name,)) for name in names}


class Row(dict[str, str]):
    """The cells of a row by the keys of what was wanted; `where` is its table and line, for errors."""

    def __init__(self, cells: Mapping[str, str], where: str) -> None:
        super().__init__(cells)
        self.where = where


def rows(spec: Spec, file: Path, wanted: Mapping[str, Heading]) -> Iterator[Row]:
    """The rows of a table by the keys of `wanted`. An absent column has no key; rows without any text are left out.

    Raises `DataError` if it is no such table, a row does not fit it, or a cell is empty that must not be.
    """
    try:
        with file.open("rb") as raw:
            encoding = "utf-16" if raw.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with file.open(encoding=encoding, newline="") as handle:
            delimiter, places = _layout(spec, file, handle, wanted)
            table = _lines(handle, delimiter)
            _, header = next(table)
            for line, cells in table:
                where = f"{file.name}, line {line}"
                if any(cells[len(header) :]):
                    problem = f"{where} has {len(cells)} cells, the heading {len(header)}"
                    raise spec.error(problem, 'put cells that hold a delimiter into quotation marks, as "a, b"')
                row = {key: cells[place] if place < len(cells) else "" for key, place in places.items()}
                empty = [key for key, cell in row.items() if not cell and not wanted[key].may_be_empty]
                if empty:
                    raise spec.error(f"{where}: {header[places[empty[0]]]} is empty", "fill it in or remove the line")
                yield Row(row, where)
    except (OSError, UnicodeError, csv.Error) as error:
        raise spec.error(f"{file} cannot be read as a table ({error})", "save it as CSV in UTF-8") from error


def whole_number(spec: Spec, row: Row, key: str, largest: int, what: str) -> int:
    """A cell that is a whole number from 0 on, however a program wrote it (2, 2.0, 02).

    Raises `DataError` if it is none, or above `largest`.
    """
    if (plain := spelling.key(row[key])) not in {str(number) for number in range(largest + 1)}:
        raise spec.error(f"{row.where}: {row[key]!r} is no {what}", f"expected 0 to {largest}: correct the table")
    return int(plain)


def one_of(spec: Spec, row: Row, key: str, known: Sequence[str], what: str) -> int:
    """The place in `known` of a cell's word, in whatever case.

    Raises `DataError` if it is none of them.
    """
    found = spelling.match(row[key], known)
    if not found:
        problem = f"{row.where}: {row[key]!r} is no {what}"
        raise spec.error(problem, f"expected {', '.join(known)}: correct the table")
    return known.index(found[0])


def _layout(spec: Spec, file: Path, handle: TextIO, wanted: Mapping[str, Heading]) -> tuple[str, dict[str, int]]:
    """The delimiter under which the heading has what is wanted, and where each column then stands."""
    refusals: list[tuple[int, DataError | csv.Error]] = []
    for delimiter in DELIMITERS:
        header: list[str] = []
        try:
            _, header = next(_lines(handle, delimiter), (0, header))
            return delimiter, _places(spec, file, header, wanted)
        except (DataError, csv.Error) as error:
            refusals.append((len(header), error))
    raise max(refusals, key=lambda refusal: refusal[0])[1]


def _places(spec: Spec, file: Path, header: list[str], wanted: Mapping[str, Heading]) -> dict[str, int]:
    places: dict[str, int] = {}
    for key, heading in wanted.items():
        found = heading.places(header)
        if len(found) > 1:
            told = ", ".join(repr(header[i]) for i in found)
            choice = f", or say which, as ?{key}={header[found[0]]}" if spec.scheme == "csv" else ""
            raise spec.error(f"{file.name} has {len(found)} columns that could be {key}: {told}", f"keep one{choice}")
        if found:
            places[key] = found[0]
        elif heading.required or heading.chosen:
            needed = ", ".join(h.names[0] for h in wanted.values() if h.required or h.chosen)
            choice = f", or name another, as ?{key}=HEADING" if spec.scheme == "csv" and not heading.chosen else ""
            problem = f"{file.name} has no column {heading.names[0]!r}, only: {', '.join(header)}"
            raise spec.error(problem, f"give it the columns {needed}{choice}")
    return places


def _lines(handle: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every row that holds any text, from the start, with its line's number. No path may hold a NUL character."""
    handle.seek(0)
    table = csv.reader(handle, delimiter=delimiter, strict=True, skipinitialspace=True)
    for cells in table:
        if any("\0" in cell for cell in cells):
            raise csv.Error(f"line {table.line_num} holds a NUL character, which text has not")
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield table.line_num, stripped


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())
