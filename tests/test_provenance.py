"""What is recorded with results."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import features

import medaegis
from medaegis.provenance import environment, versions


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
    for name in ("__init__.py", "version.py", "provenance.py", "errors.py"):
        shutil.copy(Path(medaegis.__file__).parent / name, copy)
    show = "import medaegis.provenance as e; print(e.__file__); print(e.commit())"

    def commit() -> str:
        file, found = _run_copy(tmp_path / "lib", show).splitlines()
        assert Path(file) == copy / "provenance.py"
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


def test_importing_the_package_is_light():
    heavy = ["torch", "monai", "matplotlib", "sklearn", "pydicom", "torchvision", "PIL", "numpy"]
    show = f"import sys, medaegis.provenance; print([name for name in {heavy!r} if name in sys.modules])"
    assert _run_copy(Path(medaegis.__file__).parents[1], show) == "[]"
