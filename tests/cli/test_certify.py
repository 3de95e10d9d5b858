"""`medaegis certify`: table, JSON, exit codes, and what it refuses before any work."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.shop import call
from typer.testing import Result

from medaegis.bench.checks import within
from medaegis.bench.records.archive import read_record
from medaegis.bench.records.certificate import RECORD, AttackCheck, Certificate
from medaegis.cli import datasets

HERE = Path(__file__).parents[1] / "golden"
GUARD, SPEC, OWN = HERE / "guard", "phantom-xray?n=240", ("--factory", "tests.models.tiny_networks:tiny")
SMALL = ("--sigma", 0.1, "--radii", "0.2,0.05,4", "--samples", 200, "--limit", 4)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result]]:
    """Where a run has written, and what it said; another one there finds all its pieces."""
    out = tmp_path_factory.mktemp("certify") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(within, "ASKED", 200)
        patch.setitem(within.HOW, "asked", 200)
        yield out, certify(out, "--attack-check", 1)


def certify(out: Path, *options: object) -> Result:
    return call("certify", GUARD, SPEC, *OWN, *SMALL, "--out", out, *options)


def test_a_table_a_page_and_a_record(done: tuple[Path, Result]):
    out, result = done
    assert result.exit_code == 0, result.output
    found = read_record(out / RECORD, Certificate, "certify")
    assert [row.radius for row in found.shares] == [0.0, 0.05, 0.2, 4.0]
    lines = [line.split() for line in result.stdout.splitlines()]
    (line,) = (line for line in lines if line[:1] == ["0.05"])
    assert f"{100 * found.shares[1].no_harm.share:.1f}" in line
    assert any(line[:1] == ["4"] and "–" in line for line in lines)
    assert "within the certified radius" in result.stdout
    said = " ".join(result.stderr.split())
    assert f"can certify no radius above {found.reach:.3g}" in said
    assert "the classifier takes" in said
    assert found.command.startswith("medaegis certify guard phantom-xray?n=240 --sigma 0.1 --radii 0.2,0.05,4")
    again = certify(out, "--attack-check", 1, "--json")
    told = json.loads(again.stdout)
    assert told["shares"] == [row.model_dump(mode="json") for row in found.shares]
    assert "images" not in told
    assert told["thresholds"]


def test_a_broken_certificate_ends_with_1(done: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AttackCheck, "broken", property(lambda self: 1))
    assert certify(done[0], "--attack-check", 1).exit_code == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sigma", 0), "sigma 0.0: expected a number above 0"),
        (("--radii", "-0.1,0.2"), "radii -0.1, 0.2: expected numbers above 0"),
        (("--radii", "0.1,far"), "--radii 0.1,far: not numbers"),
        (("--radii", ","), "--radii: is empty"),
        (("--radii", "5,6"), "radius 5: at most"),
        (("--samples", 6), "can be certified by 6 samples"),
        (("--alpha", 0.7), "alpha 0.7"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_decoded(
    options: tuple[object, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("decoded"))
    result = certify(tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_classifier_and_other_data_are_refused(tmp_path: Path):
    result = call("certify", HERE / "classifier", SPEC, *OWN, *SMALL, "--out", tmp_path / "out")
    assert result.exit_code in (1, 2)
    assert "guard" in result.stderr
    other = call("certify", GUARD, "phantom-skin?n=60", *OWN, *SMALL, "--out", tmp_path / "out")
    assert other.exit_code == 2, other.output
    assert not (tmp_path / "out").exists()
