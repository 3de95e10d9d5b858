"""Who signed a guard, and when: told by `verify`, and asked for by every command that takes a key."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from tests.attacks.toys import toy_bank, toy_classifier
from tests.cli.shop import call

from medaegis.artefact import generate_keypair
from medaegis.cushions import parse_cushion
from medaegis.guard.guard import Guard

FACTORY = ("--factory", "tests.models.tiny_networks:tiny")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard signed by me, the same one unsigned, signed by another, and an older one of mine."""
    root = tmp_path_factory.mktemp("signed")
    classifier = toy_classifier()
    guard = Guard(classifier, parse_cushion("none"), toy_bank(classifier), tnr=0.9)
    secret, _ = generate_keypair(root / "mine")
    guard.save(root / "signed", signing_key=secret)
    guard.save(root / "resigned", signing_key=generate_keypair(root / "theirs")[0])
    guard.save(root / "unsigned")
    Image.new("L", (16, 16)).save(root / "image.png")
    return root


def plain(text: str) -> str:
    """A table's words without its frame and line breaks."""
    return " ".join(re.sub(r"[^\w:,;.()-]+", " ", text).split())


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("signed", "by nobody you named, but by"),
        ("resigned", "by nobody you named, but by"),
        ("unsigned", "by nobody: anybody can have made or exchanged it"),
    ],
)
def test_verify_without_a_key_says_that_nobody_you_named_signed(place: Path, guard: str, said: str):
    assert said in plain(call("verify", place / guard, *FACTORY).stdout)
    told = json.loads(call("verify", place / guard, *FACTORY, "--json").stdout)
    assert not told["signature_checked"]


def test_with_a_key_only_its_guard_is_taken(place: Path):
    key = ("--public-key", place / "mine" / "public-key.pem")
    found = call("verify", place / "signed", *FACTORY, *key)
    assert (found.exit_code, "by the key you named" in plain(found.stdout)) == (0, True)
    for guard in ("resigned", "unsigned"):
        for words in (("verify", place / guard), ("screen", place / guard, place / "image.png")):
            refused = call(*words, *FACTORY, *key)
            assert (refused.exit_code, "sign" in refused.stderr) == (1, True)


def test_an_older_guard_is_refused_where_a_version_is_asked_for(place: Path):
    key = ("--public-key", place / "mine" / "public-key.pem")
    version = json.loads(call("verify", place / "signed", *FACTORY, "--json").stdout)["version"]
    for words in (("verify", place / "signed"), ("screen", place / "signed", place / "image.png")):
        assert "at least" not in call(*words, *FACTORY, *key, "--min-version", version).output
        older = call(*words, *FACTORY, *key, "--min-version", version + 1)
        assert (older.exit_code, f"at least {version + 1}" in older.stderr) == (1, True)
        unproven = call(*words, *FACTORY, "--min-version", version)
        assert (unproven.exit_code, "public key" in unproven.stderr) == (2, True)
