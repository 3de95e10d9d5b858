"""The check-up of an installation, against real broken installations."""

import shutil
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import simplejpeg

from medaegis.cli import doctor as check_up
from medaegis.cli.doctor import doctor
from medaegis.cushions.jpeg import codec_is_exact


def test_doctor_finds_this_installation_able(tmp_path):
    checks = {check.name: check for check in doctor(cache_dir=tmp_path)}
    assert set(checks) == {
        "Python",
        "PyTorch",
        "torchvision",
        "DICOM decoders",
        "JPEG codec",
        "bfloat16",
        "Cache",
        "Memory",
    }
    for name in ("Python", "PyTorch", "DICOM decoders", "JPEG codec"):
        assert checks[name].status == "ok", checks[name]
    for check in checks.values():
        assert check.detail
        assert check.remedy if check.status != "ok" else not check.remedy


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "warn", "nms does not exist"),
        ("import torchvision.absent", "warn", "No module named 'torchvision.absent'"),
        ("import os; os.abort()", "warn", "exit status"),
        ("__version__ = '9.9'", "warn", "no attribute 'ops'"),
        ("__version__ = '9.9'\nclass ops:\n    nms = staticmethod(lambda *a: 0)", "ok", "9.9, fits"),
    ],
)
def test_torchvision_is_tried_in_a_process_of_its_own(tmp_path, monkeypatch, source, status, words):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(source)
    (tmp_path / "torch.py").write_text("zeros = lambda *shape: None")  # PyTorch itself is slow to import
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_up.check_torchvision()
    assert (check.status, bool(check.remedy)) == (status, status != "ok")
    assert words in check.detail


def test_absent_torchvision_is_as_intended(tmp_path):
    # -S and -I: an interpreter without any installed library.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    check = check_up.check_torchvision(str(bare))
    assert (check.status, check.detail) == ("ok", "absent, not needed")


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    check = check_up.check_cache(tmp_path / "file" / "cache")
    assert check.status == "fail"
    assert "MEDAEGIS_CACHE" in check.remedy


def test_missing_decoder_is_named(monkeypatch):
    from medaegis.images import codec

    uid = "1.2.840.10008.1.2.4.90"
    monkeypatch.setitem(codec.COMPRESSED, uid, replace(codec.COMPRESSED[uid], decoder="absent"))
    check = check_up.check_decoders()
    assert check.status == "warn"
    assert check.detail.endswith("none for JPEG 2000 Lossless")


def test_a_codec_with_other_pixels_is_warned_of(monkeypatch):
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *data, **how: decode(*data, **how | {"fastdct": True}))
    codec_is_exact.cache_clear()
    try:
        check = check_up.check_codec()
    finally:
        codec_is_exact.cache_clear()
    assert check.status == "warn"
    assert version("simplejpeg") in check.detail


def test_little_memory_and_disk_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(check_up, "_free_memory", lambda: 1 << 30)
    assert check_up.check_memory().status == "warn"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert check_up.check_cache(tmp_path).status == "warn"
