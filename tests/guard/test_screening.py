"""A guard judges files: whatever is wrong with one is told in its record, and wrong use before any work."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tests.attacks.toys import toy_bank, toy_classifier, toy_images

from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError
from medaegis.guard import screening
from medaegis.guard.guard import Guard


def make_guard(cushion="jpeg:80"):
    classifier = toy_classifier()
    return Guard(classifier, parse_cushion(cushion), toy_bank(classifier), tnr=0.9)


@pytest.fixture(scope="module")
def guard():
    return make_guard()


@pytest.fixture
def folder(tmp_path, guard):
    for i, pixels in enumerate(toy_images(6, guard.classifier, seed=4)[:, 0].mul(255).round().byte().numpy()):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def test_findings_are_those_of_inspect(guard, folder):
    found = {one.path.name: one for one in guard.screen(folder)}
    images = toy_images(6, guard.classifier, seed=4)
    for i, image in enumerate(images.split(1)):
        one = found.pop(f"{i}.png")
        assert [one.finding] == guard.inspect(image)
        assert (one.frame, one.frames, one.error) == (0, 1, None)
        assert one.reason == one.finding.detail
        assert one.diagnosis == one.finding.diagnosis
    assert not found


def test_no_picture_raises_whatever_goes_wrong_with_it(guard, folder, monkeypatch):
    right = screening.model_input

    def wrong(picture, **options):
        if picture.source.endswith("3.png"):
            raise ZeroDivisionError("a defect")
        return right(picture, **options)

    monkeypatch.setattr(screening, "model_input", wrong)
    (folder / "empty.png").write_bytes(b"")
    found = list(guard.screen([folder, folder / "none.png", "a\0b.png", folder / "4.png"]))
    assert Counter(one.status == "unreadable" for one in found) == {True: 4, False: 5}
    told = {one.path.name: one.reason for one in found if one.status == "unreadable"}
    assert "ZeroDivisionError" in told["3.png"]
    assert "a defect" not in told["3.png"]
    assert told["none.png"] == "no such file or directory"
    assert told["'a\\x00b.png'"] == "is not a path"
    assert "empty" in told["empty.png"]
    assert all(one.diagnosis is None and one.error.remedy for one in found if one.status == "unreadable")


def test_draws_are_repeated(folder):
    guard = make_guard("random:jpeg:30-65")
    fresh = list(guard.screen(folder))
    assert {one.draw for one in fresh} == {"fresh"}
    for one in fresh:
        (again,) = guard.screen(one.path, draw=one.finding.cushion)
        assert again.finding == one.finding
        assert again.draw == "given"
    lost = list(guard.screen(folder / "none.png"))
    assert [set(one.record()) for one in (*fresh[:1], *lost)] == [set(fresh[0].record())] * 2


def test_wrong_use_is_told_before_any_work(guard, folder, tmp_path_factory):
    for options, says in (
        ({"timeout": -1}, "timeout: got -1"),
        ({"draw": "jpeg:75"}, "is not random"),
        ({"paths": tmp_path_factory.mktemp("nothing")}, "no image in it"),
        ({"quarantine": folder}, "no image in it"),
    ):
        with pytest.raises(ConfigError, match=says):
            guard.screen(**{"paths": folder, **options})
    with pytest.raises(ConfigError, match="never draws it"):
        make_guard("random:jpeg:30-65").screen(folder, draw="jpeg:99")


def test_progress_counts_files_and_records_come_as_they_are_ready(guard, folder):
    told = []
    found = guard.screen(folder, progress=lambda done, total, _: told.append((done, total)))
    assert not told, "nothing is judged before it is asked for"
    next(found)
    assert len(told) <= 1
    assert len(list(found)) == 5
    assert told[-1] == (6, 6)


def test_colour_and_size_are_brought_to_the_classifiers(guard, folder):
    gray = np.asarray(Image.open(folder / "0.png"))
    Image.fromarray(np.stack([gray] * 3, 2)).save(folder / "colour.png")
    found = {one.path.name: one.finding for one in guard.screen(folder)}
    assert found["colour.png"].score == pytest.approx(found["0.png"].score, abs=1e-5)
