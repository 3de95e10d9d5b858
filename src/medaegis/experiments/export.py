"""Figures of an experiment as CSV, and as Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medaegis.bench.records.archive import replace_file
from medaegis.errors import ConfigError


def export(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write a flat record per figure; what is written, the file's ending says.

    Raises:
        ConfigError: an ending other than .csv and .parquet, no records, or no pyarrow.
    """
    if not records:
        raise ConfigError("export", "there are no figures", "run the experiment first")
    if out.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        replace_file(out, text.getvalue().encode())
    elif out.suffix == ".parquet":
        replace_file(out, _parquet(records))
    else:
        raise ConfigError(f"--out {out}", "has neither ending", "end it with .csv or .parquet")


def _parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError:
        raise ConfigError("Parquet", "needs pyarrow", "pip install medaegis[parquet], or take .csv") from None
    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([dict(one) for one in records]), sink)
    return sink.getvalue()
