"""The fingerprint of the code: the same wherever the code is the same, another one after any change that can matter."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from tests.attacks.toys import toy_classifier

import medaegis
from medaegis.bench import campaign
from medaegis.bench.campaign import classifier_key
from medaegis.bench.store import code_alone, code_fingerprint
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
    code = code_alone(source.read_text())
    source.write_text(code.replace("1", "2", 1))
    assert "1" in code
    assert code_fingerprint(copied) != code_fingerprint()


def test_a_sentence_mended_in_a_comment_or_a_docstring_is_none(copied):
    source = copied / "attacks" / "losses" / "hfc.py"
    text = source.read_text()
    mended = re.sub(r'^( *)"""([A-Z])', r'\1"""Again. \2', text, flags=re.MULTILINE)
    source.write_text("# A remark.\n" + mended.replace("\n\n\n", "  # another\n\n\n", 1))
    assert mended != text
    assert code_fingerprint(copied) == code_fingerprint()


def test_code_alone_is_the_same_program_without_its_words():
    """Oracle: the syntax tree, which has no comments; docstrings are emptied in it here."""
    for file in ROOT.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
                body[0].value.value = ""
        assert ast.dump(ast.parse(code_alone(file.read_text(encoding="utf-8")))) == ast.dump(tree), file


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize(
    "source",
    [
        'x = "# no comment"\n',
        'y = """\n# none\n\n"""\n',
        'def f():\n    return f"""\n# {1}\n"""\n',
        'class A: "on its line"\n',
        '"""what it is"""; x = "and what it does"\n',
        'def g():\n    x = 1\n    """no docstring"""\n',
    ],
)
def test_text_that_only_looks_like_a_comment_or_a_docstring_is_kept(source):
    assert code_alone(source) == source


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
