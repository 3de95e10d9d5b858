"""The project's own files agree with each other: ranges, exact pins, and nothing that would bring torchvision."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): pin
    for name, pin in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]


def test_every_line_of_the_lock_is_an_exact_pin():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PINS)
    assert PINS["torch"] == "2.13.0"
    assert "torchvision" not in PINS


@pytest.mark.parametrize("requirement", CORE + DEV, ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_within_its_range(requirement):
    assert requirement.specifier, "a public range"
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_nothing_required_needs_torchvision():
    """Follows the installed core's requirements to the end; each is pinned on the way."""
    waiting, seen = list(CORE), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        assert name in PINS or name.startswith(("nvidia-", "cuda-", "triton")), f"{name} has no pin"
        waiting += [Requirement(line) for line in distribution(name).requires or []]
    assert "torch" in seen
    assert not seen & {"torchvision", "torchaudio", "timm"}


def test_peers_are_pinned_and_installed_without_dependencies():
    makefile = (ROOT / "Makefile").read_text()
    peers = re.search(r"^PEERS := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)[1].replace("\\\n", " ").split()
    assert {canonicalize_name(name) for name in peers} <= set(PINS)
    assert re.search(r"pip install .*--no-deps .*\$\(PEERS\)", makefile)
