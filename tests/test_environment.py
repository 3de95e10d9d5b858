"""What is recorded with results, and the check-up of an installation, against real broken installations."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import simplejpeg
import torch
from PIL import features

import medaegis
from medaegis import environment as env
from medaegis.cushions.jpeg import codec_is_exact
from medaegis.environment import doctor, environment, versions


def test_environment_is_plain_data_that_repeats():
    first = environment()
    assert json.loads(json.dumps(first)) == first == environment()
    assert set(first) == {"versions", "machine", "commit"}
    assert first["machine"]["cores"] >= 1
    assert first["machine"]["memory_gib"] > 0
    assert isinstance(first["machine"]["bf16"], bool)
    assert first["machine"]["cpu"]


def test_versions_are_the_installed_ones():
    found = versions()
    assert found["medaegis"] == medaegis.__version__ == version("medaegis")
    assert found["torch"] == torch.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found[name] == version(name) for name in ("numpy", "pydicom", "pillow", "simplejpeg"))
    assert version("simplejpeg") in found["codec"]
    assert (features.version_feature("libjpeg_turbo") or "plain libjpeg") in found["codec"]


def _run_copy(folder: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_is_that_of_the_package_and_of_nothing_around_it(tmp_path):
    """A copy of the package: outside a repository, untracked in one, committed, changed."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    copy = tmp_path / "lib" / "medaegis"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "environment.py", "errors.py"):
        shutil.copy(Path(medaegis.__file__).parent / name, copy)
    show = "import medaegis.environment as e; print(e.__file__); print(e.commit())"

    def commit() -> str:
        file, found = _run_copy(tmp_path / "lib", show).splitlines()
        assert Path(file) == copy / "environment.py"
        return found

    assert commit() == "None"
    (tmp_path / "other").write_text("x")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "other"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "other"], check=True)
    assert commit() == "None"
    subprocess.run([*git, "add", "lib"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "lib"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit() == head
    (tmp_path / "other").write_text("y")
    assert commit() == head + "-dirty"


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
    check = env.check_torchvision()
    assert (check.status, bool(check.remedy)) == (status, status != "ok")
    assert words in check.detail


def test_absent_torchvision_is_as_intended(tmp_path):
    # -S and -I: an interpreter without any installed library.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    check = env.check_torchvision(str(bare))
    assert (check.status, check.detail) == ("ok", "absent, not needed")


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    check = env.check_cache(tmp_path / "file" / "cache")
    assert check.status == "fail"
    assert "MEDAEGIS_CACHE" in check.remedy


def test_missing_decoder_is_named(monkeypatch):
    from medaegis.images import codec

    uid = "1.2.840.10008.1.2.4.90"
    monkeypatch.setitem(codec.COMPRESSED, uid, replace(codec.COMPRESSED[uid], decoder="absent"))
    check = env.check_decoders()
    assert check.status == "warn"
    assert check.detail.endswith("none for JPEG 2000 Lossless")


def test_a_codec_with_other_pixels_is_warned_of(monkeypatch):
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *data, **how: decode(*data, **how | {"fastdct": True}))
    codec_is_exact.cache_clear()
    try:
        check = env.check_codec()
    finally:
        codec_is_exact.cache_clear()
    assert check.status == "warn"
    assert version("simplejpeg") in check.detail


def test_little_memory_and_disk_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "_free_memory", lambda: 1 << 30)
    assert env.check_memory().status == "warn"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert env.check_cache(tmp_path).status == "warn"


def test_importing_the_package_is_light():
    heavy = ["torch", "monai", "matplotlib", "sklearn", "pydicom", "torchvision", "PIL", "numpy"]
    show = f"import sys, medaegis.environment; print([name for name in {heavy!r} if name in sys.modules])"
    assert _run_copy(Path(medaegis.__file__).parents[1], show) == "[]"
