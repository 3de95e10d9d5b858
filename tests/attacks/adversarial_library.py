"""Attacks of adv-lib, without what it imports beside them and never needs for them: torchvision and visdom."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

FILES = {
    "ddn": "decoupled_direction_norm",
    "fmn": "fast_minimum_norm",
    "fab": "fast_adaptive_boundary",
    "dag": "segmentation.dense_adversary",
}


def peer(name):
    """Its function of this name; skips where adv-lib is not installed."""
    pytest.importorskip("setuptools")  # brings distutils, which Python has no longer since 3.12
    package = ModuleType("adv_lib.attacks")  # whose own file imports all attacks there are
    package.__path__ = [str(Path(pytest.importorskip("adv_lib").__file__).parent / "attacks")]
    with patch.dict(sys.modules, {"adv_lib.attacks": package, "visdom": ModuleType("visdom")}):
        return getattr(importlib.import_module(f"adv_lib.attacks.{FILES[name]}"), name)
