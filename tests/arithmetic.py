"""Gradients in float32 on every machine: with bfloat16 attacks and trainings walk another way, and oracles do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def in_float32() -> Iterator[None]:
    with (
        mock.patch("medaegis.attacks.victim.has_fast_bfloat16", return_value=False),
        mock.patch("medaegis.models.hardware.has_fast_bfloat16", return_value=False),
    ):
        yield
