"""The leaderboard: ranks checked by hand, entries that do not fit told, nothing from them taken for more than text."""

import os
from pathlib import Path

import pytest
from tests.bench.sample import ATTACKS
from tests.experiments.invented import EVIL, analysis, assessment, evaluation
from tests.experiments.test_site import Document

from medaegis.bench.records.assessment import Assessment, read_assessment
from medaegis.bench.records.evaluation import Evaluation
from medaegis.errors import DataError
from medaegis.experiments.site.board import boards
from medaegis.experiments.site.files import site_environment
from medaegis.experiments.site.submissions import Submission, read_submissions

GAPS = (("dice", 0.0), ("miou", 0.05))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Evaluation:
    return evaluation(tmp_path_factory.mktemp("base") / "guard", n=20, examples=0)


def guard(base: Evaluation, name: str, through: dict[int, float], **changes: object) -> Submission:
    """eps in 256ths -> undetected success."""
    row = base.worst_case[0]
    rows = [
        row.model_copy(update={"eps": k / 256, "eps_text": f"{k}/256", "undetected": value, "unguarded": 0.9})
        for k, value in through.items()
    ]
    return Submission(name, (f"{name}.html",), base.model_copy(update={"worst_case": rows, **changes}))


def ranks(lines):
    return [(line.rank, line.name) for line in lines]


def test_guards_stand_by_what_gets_past_them(base):
    given = [
        guard(base, "c", {4: 0.0, 8: 0.3}),
        guard(base, "a", {4: 0.2, 8: 0.1, 16: 0.9}),
        guard(base, "d", {8: 0.3}),
        guard(base, "b", {8: 0.25}),
        guard(base, "e", {8: 1.0}),
    ]
    (board,) = boards(given)
    assert (board.kind, board.eps_text, board.all_have_it) == ("guards", "8/256", True)
    assert ranks(board.lines) == [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (5, "e")]
    assert [line.rated.share for line in board.ranked] == [0.1, 0.25, 0.3, 0.3, 1.0]
    first = board.lines[0]
    assert (first.rated.n, first.rated.before) == (20, 0.9)
    assert first.accepted == base.clean.tnr_reached
    assert (first.controls, first.attacks) == ("3 passed, 1 not judged", "fgsm, wb")


@pytest.mark.parametrize(
    ("measured", "eps"),
    [
        ([{4: 0.1, 16: 0.2}, {4: 0.1, 16: 0.2}], "4/256"),
        ([{1: 0.1, 16: 0.2}, {16: 0.1, 8: 0.2}], "16/256"),
        ([{6: 0.1, 10: 0.2}, {6: 0.1, 10: 0.2}], "10/256"),
        ([{8: 0.1, 4: 0.2}, {4: 0.3}, {4: 0.1}], "4/256"),
    ],
)
def test_the_eps_is_the_one_nearest_to_8_256_that_all_have(base, measured, eps):
    (board,) = boards([guard(base, str(k), through) for k, through in enumerate(measured)])
    assert (board.eps_text, board.all_have_it) == (eps, True)
    assert len(board.ranked) == len(measured)


def test_who_was_not_measured_there_has_no_rank(base):
    (board,) = boards([guard(base, "a", {8: 0.1}), guard(base, "b", {8: 0.2}), guard(base, "c", {2: 0.0})])
    assert (board.eps_text, board.all_have_it) == ("8/256", False)
    assert ranks(board.lines) == [(1, "a"), (2, "b"), (None, "c")]
    assert board.below[0].why == "Not measured at this eps."


def test_who_fails_a_control_stands_below_without_a_rank(base):
    failed = [base.controls[0].model_copy(update={"passed": False}), *base.controls[1:]]
    untried = [cell for cell in base.cells if not cell.adaptive]
    given = [
        guard(base, "failed", {8: 0.0}, controls=failed),
        guard(base, "untested", {8: 0.0}, controls=[]),
        guard(base, "unattacked", {8: 0.0}, cells=untried),
        guard(base, "sound", {8: 0.5}),
    ]
    (board,) = boards(given)
    assert ranks(board.lines) == [(1, "sound"), (None, "failed"), (None, "unattacked"), (None, "untested")]
    assert "one control of this evaluation failed" in board.below[0].why
    assert "no attack knew the guard" in board.below[1].why
    assert "no control or alarm" in board.below[2].why
    assert board.below[0].controls == "2 passed, 1 failed, 1 not judged"


def test_only_entries_on_the_same_images_stand_in_one_table(base):
    data = base.data.model_copy(update={"counts": {"NORMAL": 9, "PNEUMONIA": 11}})
    given = [guard(base, "a", {8: 0.2}), guard(base, "b", {8: 0.1}, data=data), guard(base, "c", {8: 0.1})]
    given.append(Submission("net", ("net.html",), assessment(None, {8: 3})))
    found = boards(given)
    assert [(board.kind, ranks(board.lines)) for board in found] == [
        ("guards", [(1, "c"), (2, "a")]),
        ("guards", [(1, "b")]),
        ("classifiers", [(1, "net")]),
    ]
    assert "10 NORMAL, 10 PNEUMONIA" in found[0].data
    assert "9 NORMAL, 11 PNEUMONIA" in found[1].data


def test_classifiers_stand_by_robust_accuracy():
    failed = {"name": "noise", "expectation": "", "measured": "", "passed": False}
    given = {
        "a": assessment(None, {4: 18, 8: 7}),
        "b": assessment(None, {4: 10, 8: 9}),
        "c": assessment(None, {8: 7}),
        "d": assessment(None, {8: 19}, controls=[failed]),
        "e": assessment(None, {8: 18}, controls=[]),
    }
    (board,) = boards([Submission(name, (f"{name}.html",), record) for name, record in given.items()])
    assert ranks(board.lines) == [(1, "b"), (2, "a"), (2, "c"), (None, "d"), (None, "e")]
    assert (board.lines[0].rated.share, board.lines[0].rated.n, board.lines[0].rated.before) == (0.45, 20, 0.95)
    assert "Failed: noise." in board.below[0].why
    assert "No control or alarm" in board.below[1].why


def masks(folder: Path | None, dice: float) -> Assessment:
    """An entry of a network for masks."""

    def quality(value: float) -> dict[str, object]:
        return {name: {"n": 20, "value": value - gap, "interval": [value - gap - 0.05, value]} for name, gap in GAPS}

    found = assessment(None, {8: 7})
    told = found.model_dump(mode="json")
    told |= {"task": "dense", "classes": ["background", "lung"]}
    recall = {name: {"n": 0, "share": None, "interval": None} for name in told["classes"]}
    told["clean"] |= {"quality": quality(0.95), "recall": recall}
    told["worst_case"] = [row | {"quality": quality(dice), "recall": recall} for row in told["worst_case"]]
    told["attacks"] = [row | {"quality": quality(dice), "noise_quality": quality(0.94)} for row in told["attacks"]]
    made = Assessment.model_validate(told)
    if folder is not None:
        folder.mkdir(parents=True)
        (folder / "assessment.json").write_text(made.model_dump_json(), encoding="utf-8")
    return made


def test_networks_for_masks_stand_by_dice_and_their_page_shows_it(tmp_path):
    given = {"a": masks(None, 0.31), "b": masks(tmp_path / "in" / "b", 0.82)}
    given["one class"] = assessment(None, {8: 19})
    found = boards([Submission(name, (f"{name}.html",), record) for name, record in given.items()])
    assert [(board.task, ranks(board.lines)) for board in found] == [
        ("dense", [(1, "b"), (2, "a")]),
        ("single", [(1, "one class")]),
    ]
    first = found[0].lines[0].rated
    assert (first.share, first.before, first.n) == (0.82, 0.95, 20)
    _, refused, pages = read_submissions(tmp_path / "in")
    assert refused == []
    (tmp_path / "page.html").write_bytes(pages["entries/b/assessment.html"])
    page = Document(tmp_path / "page.html")
    row = next(row for row in page.rows if row[:1] == ["8/256"])
    assert row[2:4] == ["0.820 (0.770–0.820)", "0.770 (0.720–0.820)"]
    assert "A mask is right from a Dice of 0.7 on" in page.text
    text = site_environment().get_template("leaderboard.html.j2").render(boards=found, refused=[], root="")
    (tmp_path / "board.html").write_text(text, encoding="utf-8")
    board = Document(tmp_path / "board.html")
    assert "Mean Dice" in board.text
    assert next(row for row in board.rows if row[:1] == ["1"])[2:5] == ["0.8200.770–0.820", "20", "0.950"]


def test_an_entry_has_the_pages_that_the_commands_make(tmp_path):
    made = evaluation(tmp_path / "in" / "guard")
    assessment(tmp_path / "in" / "net", {8: 7})
    found, refused, pages = read_submissions(tmp_path / "in")
    assert refused == []
    assert [(one.name, one.pages) for one in found] == [
        ("guard", ("entries/guard/report.html", "entries/guard/verdict.html")),
        ("net", ("entries/net/assessment.html",)),
    ]
    assert found[0].record == made
    assert not list((tmp_path / "in" / "guard").glob("*.html"))
    (tmp_path / "page.html").write_bytes(pages["entries/net/assessment.html"])
    page = Document(tmp_path / "page.html")
    assert next(row for row in page.rows if row[:1] == ["8/256"])[:3] == ["8/256", "20", "35.0 %25.0–45.0"]
    assert f"{EVIL} net" in page.text
    assert f"{EVIL} control" in page.text


def test_an_analysis_is_shown_by_a_page_made_anew(tmp_path):
    analysis(tmp_path / "in" / "inside")
    analysis(tmp_path / "in" / "bare")
    for file in (tmp_path / "in" / "bare").glob("*.png"):
        file.unlink()
    found, refused, pages = read_submissions(tmp_path / "in")
    assert refused == []
    assert found[1].record.attack_line == "bim, ε = 8/256, 5 steps"
    for one, pictures in zip(found, (0, 2), strict=True):
        (tmp_path / "page.html").write_bytes(pages[one.pages[0]])
        page = Document(tmp_path / "page.html")
        assert "theirs" not in page.text
        assert len(page.all("img")) == pictures
        assert f"75.0 % of the images apart at {EVIL} layer" in page.text
        assert "Grad-CAM before and after correlate by 0.38" in page.text  # (0.5 + 0.25) / 2
        assert "63.6 % passes the Cushion jpeg:80" in page.text  # (1 x 3 x 1 + 0.5 x 5 x 0.2) / (1 x 3 + 0.5 x 5)


BROKEN = {
    "no JSON": lambda folder: (folder / "evaluation.json").write_text("{"),
    "another version": lambda folder: (folder / "evaluation.json").write_text('{"version": 9}'),
    "no scores": lambda folder: (folder / "scores.safetensors").unlink(),
    "cut scores": lambda folder: (folder / "scores.safetensors").write_bytes(b"\x08"),
    "a link": lambda folder: (
        (folder / "scores.safetensors").rename(folder.parents[1] / "kept"),
        (folder / "scores.safetensors").symlink_to(folder.parents[1] / "kept"),
    ),
    "a pipe": lambda folder: ((folder / "scores.safetensors").unlink(), os.mkfifo(folder / "scores.safetensors")),
    "a folder in place of the record": lambda folder: (
        (folder / "evaluation.json").unlink(),
        (folder / "evaluation.json").mkdir(),
    ),
    "two records": lambda folder: (folder / "analysis.json").write_text("{}"),
    "unfinished": lambda folder: (folder / "unfinished.json").write_text("{}"),
    "foreign": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_entry_is_told_and_left_out(tmp_path, how):
    entries = tmp_path / "in"
    evaluation(entries / "bad")
    evaluation(entries / "good", attacks=(ATTACKS[6],))
    BROKEN[how](entries / "bad")
    (entries / ".git").mkdir()
    (entries / "README").write_text("not an entry")
    found, refused, pages = read_submissions(entries)
    assert [one.name for one in found] == ["good"]
    assert [one.name for one in refused] == ["bad"]
    assert refused[0].problem
    assert str(tmp_path) not in refused[0].problem
    assert {name.split("/")[1] for name in pages} == {"good"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tsne": {}}, "tsne"),
        ({"n": 0}, "n:"),
        ({"attention": {"grad_cam_correlation": []}}, "grad_cam_correlation"),
        ({"spectra": {"cushion": "x", "attack": {"power": [1.0], "count": []}, "noise": {}}}, "count"),
    ],
)
def test_an_analysis_that_does_not_fit_is_told(tmp_path, changes, problem):
    analysis(tmp_path / "in" / "bad", **changes)
    found, (refused,), _ = read_submissions(tmp_path / "in")
    assert found == []
    assert problem in refused.problem


def test_what_is_no_picture_is_refused(tmp_path):
    analysis(tmp_path / "in" / "bad")
    (tmp_path / "in" / "bad" / "tsne.png").write_text("<svg onload=alert(1)>")
    _, (refused,), _ = read_submissions(tmp_path / "in")
    assert refused.problem == "tsne.png: is no PNG"


def test_an_assessment_must_tell_the_recall_of_its_classes(tmp_path):
    assessment(tmp_path / "net", {8: 7}, classes=["a", "b"])
    with pytest.raises(DataError, match="recall of"):
        read_assessment(tmp_path / "net")
