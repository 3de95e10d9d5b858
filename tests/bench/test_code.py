"""The fingerprint of the code: the same wherever the code is the same, another one after any change that can matter."""

import shutil
from pathlib import Path

import pytest
from tests.attacks.toys import toy_classifier

import medaegis
from medaegis.bench import campaign
from medaegis.bench.campaign import classifier_key
from medaegis.bench.store import code_fingerprint
from medaegis.cushions import parse_cushion
from medaegis.cushions.jpeg import JpegCushion

ROOT = Path(medaegis.__file__).parent


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(ROOT, tmp_path / "medaegis")


def test_the_same_code_has_the_same_one_wherever_it_lies(copied):
    for cached in copied.rglob("__pycache__"):
        shutil.rmtree(cached)
    assert code_fingerprint(copied) == code_fingerprint()


@pytest.mark.parametrize(
    "name",
    [
        *("attacks/losses/hfc.py", "cushions/jpeg.py", "detectors/shield.py", "models/folding.py", "guard/guard.py"),
        *("draws.py", "task.py", "bench/quality.py"),
    ],
)
def test_a_change_in_a_room_that_decides_is_another(copied, name):
    source = copied / name
    source.write_bytes(source.read_bytes().replace(b"1", b"2", 1))
    assert code_fingerprint(copied) != code_fingerprint()


def test_a_source_that_comes_goes_or_moves_is_another(copied):
    shutil.copy(copied / "attacks" / "steps.py", copied / "attacks" / "more.py")
    more = code_fingerprint(copied)
    code_fingerprint.cache_clear()
    (copied / "attacks" / "more.py").rename(copied / "attacks" / "other.py")
    moved = code_fingerprint(copied)
    code_fingerprint.cache_clear()
    (copied / "attacks" / "other.py").rename(copied / "guard" / "other.py")
    assert len({code_fingerprint(), more, moved, code_fingerprint(copied)}) == 4


def test_what_only_shows_results_does_not_count(copied):
    (copied / "cli" / "app.py").write_text("")
    assert code_fingerprint(copied) == code_fingerprint()


def test_what_was_found_of_a_classifier_belongs_to_the_code_and_to_the_pixels_of_the_cushion(monkeypatch):
    classifier = toy_classifier()

    def key():
        return classifier_key(classifier, parse_cushion("jpeg:80"), 0)

    before = key()
    assert key() == before
    with monkeypatch.context() as patch:
        patch.setattr(JpegCushion, "_cushion", lambda self, pixels: pixels)
        assert key() != before, "another codec"
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "code_fingerprint", lambda: "other")
        assert key() != before
