"""The whole path by its commands: what one writes, the next takes, and their figures agree with each other."""

import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.shop import PATIENTS, SHOTS, SIDE, TRAINING, Shop, call

from medaegis.cli import console, datasets
from medaegis.cli.demo import Sizes, _replace_mixed, run_demo, written_before
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.images import Split, load_dataset
from medaegis.models.store import load_classifier, read_training, save_classifier

README = Path(__file__).parents[2] / "README.md"


def test_inspect_tells_what_train_will_use(shop: Shop):
    told = json.loads(call("data", "inspect", shop.spec, "--size", SIDE, "--channels", "gray", "--json").stdout)
    assert told["images"] == PATIENTS * SHOTS
    assert (told["groups"], told["split_by"]) == (PATIENTS, "patient")
    assert told["channels"] == "gray"
    split = Split.load(shop.classifier / "split.json", load_dataset(shop.spec, size=SIDE, channels="gray"))
    for part, rows in split.parts.items():
        assert sum(told["split"][part]["images"].values()) == len(rows)


def test_unreadable_images_of_a_data_set_are_listed(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{name}{i}.png")
    (tmp_path / "a" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = call("data", "inspect", f"folder:{tmp_path}", "--size", 16, "--json")
    assert result.exit_code == 1
    (entry,) = json.loads(result.stdout)["unreadable"]
    assert entry["file"].endswith("torn.png")
    assert entry["remedy"]


def test_a_finished_training_is_not_done_again(shop: Shop):
    before = (shop.classifier / "manifest.json").read_bytes()
    options = ("--size", SIDE, "--channels", "gray", *TRAINING.split(), "--out", shop.classifier)
    again = call("train", shop.spec, *options, "--json")
    assert again.exit_code == 0
    assert set(json.loads(again.stdout)["metrics"]) == {"val", "adv_test"}
    assert (shop.classifier / "manifest.json").read_bytes() == before
    other = call("train", shop.spec, *options, "--epochs", 5)
    assert other.exit_code == 2
    assert "another classifier" in other.stderr


def test_another_seed_of_the_same_split_gives_other_weights(shop: Shop, tmp_path: Path):
    options = ("--size", SIDE, "--channels", "gray", "--epochs", 1, "--seed", 7)
    for name, more in (("same", ("--split-seed", 0)), ("other", ())):
        assert call("train", shop.spec, *options, *more, "--out", tmp_path / name).exit_code == 0
    dataset = load_dataset(shop.spec, size=SIDE, channels="gray")
    ours, same, other = (
        Split.load(folder / "split.json", dataset)
        for folder in (shop.classifier, tmp_path / "same", tmp_path / "other")
    )
    assert (same.seed, same.parts) == (ours.seed, ours.parts)
    assert other.parts != ours.parts
    twins = [load_classifier(tmp_path / name).network.state_dict() for name in ("same", "other")]
    assert any(bool((twins[0][name] != twins[1][name]).any()) for name in twins[0]), "they saw other images"
    assert read_training(tmp_path / "same")["config"]["seed"] == 7


def test_fit_refuses_images_the_classifier_was_not_made_with(shop: Shop, tmp_path: Path):
    result = call("fit", shop.classifier, shop.spec, "--images", 120, "--updates", 1, "--out", tmp_path / "g")
    assert result.exit_code == 2
    assert "other images" in result.stderr
    wrong = call("fit", shop.guard, shop.spec, "--updates", 1, "--out", tmp_path / "g")  # a guard is no classifier
    assert wrong.exit_code == 1
    assert not (tmp_path / "g").exists()


def test_attacked_files_are_in_the_ball_and_screening_says_of_them_what_the_attack_said(shop: Shop, tmp_path: Path):
    out = tmp_path / "attacked"
    options = ("--attack", "wb", "--eps", "4/256", "--steps", 3, "--limit", 9)
    result = call("attack", shop.guard, shop.spec, *options, "--out", out, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    rows = list(csv.DictReader((out / "attack.csv").open()))
    assert told["images"] == len(rows) == 9
    assert told["undetected"] == sum(row["undetected"] == "True" for row in rows)

    clean = load_dataset(shop.spec, size=SIDE, channels="gray")
    split = Split.load(shop.classifier / "split.json", clean)
    for row in rows:
        place = clean.names.index(row["source"])
        assert place in split.adv_test
        change = np.asarray(Image.open(out / row["file"])).astype(int) - clean.images[place, 0].numpy()
        assert 0 < np.abs(change).max() <= 4

    screened = call("screen", shop.guard, out, "--format", "jsonl")
    found = {Path(one["file"]).name: one for one in map(json.loads, screened.stdout.splitlines())}
    for row in rows:
        one = found[row["file"]]
        assert (one["status"] == "accepted") == (row["accepted"] == "True")
        assert one["suspicion"] == pytest.approx(float(row["suspicion"]), abs=1e-3)
        if one["diagnosis"] is not None:
            assert one["diagnosis"] == row["predicted"]


def test_a_surrogate_is_attacked_in_the_place_of_the_guard(shop: Shop, tmp_path: Path):
    options = (shop.guard, shop.spec, "--eps", "8/256", "--steps", 3, "--limit", 6, "--json")
    told, other = [], another_classifier(shop, tmp_path / "other")
    for number, extra in enumerate(((), ("--surrogate", other), ("--surrogate", other) * 2)):
        result = call("attack", *options, "--attack", "pgd", *extra, "--out", tmp_path / str(number))
        assert result.exit_code == 0, result.stderr
        told.append(json.loads(result.stdout))
    assert [len(one["surrogates"]) for one in told] == [0, 1, 2]
    direct, single, twice = (sorted((tmp_path / str(number)).glob("*.png")) for number in range(3))
    assert [path.read_bytes() for path in single] != [path.read_bytes() for path in direct], "the Cushion was seen"
    assert len(single) == len(twice) == 6
    for attack, surrogate, words in (
        ("wb", other, "own Shields or answers"),
        ("square", other, "own Shields or answers"),
        ("pgd", shop.classifier, "protected classifier itself"),
    ):
        refused = call("attack", *options, "--attack", attack, "--surrogate", surrogate, "--out", tmp_path / "no")
        assert refused.exit_code == 2
        assert words in " ".join(refused.stderr.split())


def another_classifier(shop: Shop, folder: Path) -> Path:
    """One for the same images with other weights."""
    classifier = load_classifier(shop.classifier)
    classifier.network.get_parameter("fc.weight").data.mul_(1.1)
    save_classifier(classifier, folder)
    return folder


def test_attacks_take_add_ons_wherever_they_are_named(shop: Shop, tmp_path: Path):
    sizes = ("--steps", 2, "--limit", 8)
    for name in ("pgd+dim+hfc", "feature-match-closest"):
        options = ("--attack", name, *sizes, "--out", tmp_path / name, "--json")
        assert json.loads(call("attack", shop.guard, shop.spec, *options).stdout)["attack"] == name
        assert len(list((tmp_path / name).glob(f"{name}-8of256-*.png"))) == 8
    names = ("--attacks", "wb+tim,bim+hfc", "--eps", "8/256")
    result = call("evaluate", shop.guard, shop.spec, *names, *sizes, "--no-planted", "--out", tmp_path / "e", "--json")
    assert [cell["attack"] for cell in json.loads(result.stdout)["cells"]] == ["wb+tim", "bim+hfc", "wb+tim"]
    assert call("report", tmp_path / "e", "--out", tmp_path / "e.html").exit_code == 0
    assert "along smoothed gradients" in (tmp_path / "e.html").read_text(encoding="utf-8")
    names = ("--attacks", "bim+momentum+hfc", "--eps", "8/256", "--cushion", "none")
    result = call("assess", shop.classifier, shop.spec, *names, *sizes, "--out", tmp_path / "a", "--json")
    assert [tried["attack"] for tried in json.loads(result.stdout)["attacks"]] == ["bim+momentum+hfc"]
    by_name = {entry["name"]: entry["add_ons"] for entry in json.loads(call("attacks", "--json").stdout)}
    assert by_name["mim"] == ["dim", "tim", "hfc"]
    assert by_name["cw-l2"] == []


def test_an_evaluation_also_attacks_surrogates(shop: Shop, tmp_path: Path):
    other = another_classifier(shop, tmp_path / "other")
    options = ("--attacks", "fgsm,wb", "--eps", "8/256", "--steps", 2, "--limit", 4, "--no-planted", "--json")
    out = tmp_path / "e"
    result = call("evaluate", shop.guard, shop.spec, *options, "--surrogate", other, "--out", out)
    told = json.loads(result.stdout)
    found = {(cell["attack"], cell["access"], cell["steps"]) for cell in told["cells"]}
    assert found == {("fgsm", "white-box", 1), ("wb", "white-box", 2), ("wb", "white-box", 1), ("fgsm", "no-box", 1)}
    assert {row["attacker"] for row in told["by_attacker"]} >= {"knows the guard", "knows neither"}
    record = (out / "evaluation.json").read_text()
    assert "--surrogate other" in json.loads(record)["command"]
    assert str(tmp_path) not in record
    assert "| fgsm (transfer) | 8/256 | 1 | – |" in Path(
        call("report", out, "--out", tmp_path / "tables.md").stdout.strip()
    ).read_text(encoding="utf-8")
    for extra, words in (
        (("--attacks", "wb", "--surrogate", other), "none of these attacks"),
        (("--attacks", "fgsm", "--surrogate", shop.classifier), "protected classifier itself"),
    ):
        refused = call("evaluate", shop.guard, shop.spec, "--eps", "8/256", *extra, "--out", tmp_path / "no")
        assert refused.exit_code == 2
        assert words in " ".join(refused.stderr.split())


def test_over_more_images_a_cascade_tells_what_any_attack_breaks(shop: Shop, tmp_path: Path):
    options = ("--attacks", "fgsm,pgd", "--eps", "4/256,16/256", "--steps", 4, "--no-planted")
    out = tmp_path / "cascade"
    result = call("evaluate", shop.guard, shop.spec, *options, "--limit", 4, "--cascade", 12, "--out", out)
    assert "Over more images" in result.stdout
    found = json.loads((out / "evaluation.json").read_text())
    call("evaluate", shop.guard, shop.spec, *options, "--limit", 12, "--out", tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert {cell["n"] for cell in found["cells"]} == {found["worst_case"][0]["n"]}
    for row, worst in zip(found["cascade"], whole["worst_case"], strict=True):
        assert (row["eps_text"], row["n"]) == (worst["eps_text"], worst["n"])
        assert row["share"] >= worst["undetected"]
    for name in ("page.html", "tables.md"):
        assert call("report", out, "--out", tmp_path / name).exit_code == 0
        assert "an image is left alone" in (tmp_path / name).read_text(encoding="utf-8")
    refused = call(
        "evaluate", shop.guard, shop.spec, *options, "--cascade", 12, "--limit", 12, "--out", tmp_path / "no"
    )
    assert refused.exit_code == 2
    assert "by every attack anyway" in " ".join(refused.stderr.split())


def test_an_ensemble_is_evaluated_like_an_attack(shop: Shop, tmp_path: Path):
    options = ("--attacks", "auto-guard", "--eps", "8/256", "--queries", 5, "--limit", 4, "--no-planted", "--json")
    told = json.loads(call("evaluate", shop.guard, shop.spec, *options, "--out", tmp_path / "e").stdout)
    cells = told["cells"]
    assert {cell["attack"] for cell in cells} == {"auto-guard"}
    assert {cell["steps"] for cell in cells} == {30, 6}, "six members, and the short run beside the long one"
    assert all(0 <= cell["undetected"] <= cell["success"] <= 1 for cell in cells)


def test_evaluate_and_report(shop: Shop, tmp_path: Path):
    out = tmp_path / "evaluation"
    options = ("--attacks", "fgsm,pgd", "--eps", "4/256,8/256", "--limit", 8, "--no-planted", "--out", out, "--json")
    result = call("evaluate", shop.guard, shop.spec, *options)
    told = json.loads(result.stdout)
    assert {(cell["attack"], cell["eps_text"]) for cell in told["cells"]} == {
        (attack, eps) for attack in ("fgsm", "pgd") for eps in ("4/256", "8/256")
    }
    failed = [control for control in told["controls"] if control["passed"] is False]
    assert result.exit_code == (1 if failed else 0)
    assert str(shop.root) not in (out / "evaluation.json").read_text()  # a record names no folder of this machine

    page = call("report", out)
    assert page.exit_code == 0
    written = [Path(line) for line in page.stdout.splitlines()]
    assert written == [out / "report.html", out / "report.verdict.html"]
    for file in written:
        assert "<html" in file.read_text(encoding="utf-8")

    call("evaluate", shop.guard, shop.spec, "--attacks", "fgsm", *options[2:-1])
    assert not any(file.exists() for file in written), "pages of earlier figures do not stand beside new ones"
    call("evaluate", shop.guard, shop.spec, *options)

    tables = call("report", out, "--out", tmp_path / "tables.md")
    assert Path(tables.stdout.strip()) == tmp_path / "tables.md"
    lines = (tmp_path / "tables.md").read_text(encoding="utf-8").splitlines()
    row = next(line.split(" | ") for line in lines if line.startswith("| pgd | 8/256"))
    cell = next(cell for cell in told["cells"] if (cell["attack"], cell["eps_text"]) == ("pgd", "8/256"))
    assert row[7] == f"{cell['auroc']:.3f}"
    assert len({line.count(" | ") for line in lines if line.startswith(("| attack |", "| pgd |", "| **worst"))}) == 1


def test_a_way_through_the_cushion_or_an_eps_that_means_nothing_is_refused(shop: Shop, tmp_path: Path):
    bare, other = tmp_path / "bare", another_classifier(shop, tmp_path / "other")
    refit = call("fit", shop.classifier, shop.spec, "--shields", shop.guard, "--cushion", "none", "--out", bare)
    assert refit.exit_code == 0, refit.output
    twin = ("--gradient", "twin")
    for told, command in (
        ("by answers alone", ("attack", shop.guard, "--attack", "hopskipjump", *twin)),
        ("without a Cushion", ("attack", shop.guard, "--attack", "pgd", "--surrogate", other, *twin)),
        ("without a Cushion", ("attack", bare, "--attack", "wb", *twin)),
        ("without a Cushion", ("evaluate", bare, "--attacks", "wb", *twin)),
        ("by answers alone", ("evaluate", shop.guard, "--attacks", "square-guard", *twin)),
        ("by answers alone", ("assess", shop.classifier, "--attacks", "square", "--cushion", "jpeg:80", *twin)),
        ("less than a grey level", ("evaluate", shop.guard, "--attacks", "wb", "--eps", "4/256,0.0035")),
        ("less than a grey level", ("attack", shop.guard, "--eps", "0.0035")),
        ("less than a grey level", ("compare", shop.classifier, "--eps", "0.0035")),
    ):
        verb, folder, *options = command
        result = call(verb, folder, shop.spec, *options, "--out", tmp_path / "no")
        assert result.exit_code == 2, command
        assert told in " ".join(result.stderr.split()), command
        assert not (tmp_path / "no").exists()


def test_what_evaluate_shows_is_the_worst_case_and_tells_ways_apart(shop: Shop, tmp_path: Path):
    options = ("--attacks", "wb", "--eps", "8/256", "--steps", 5, "--limit", 6, "--no-planted", "--out", tmp_path)
    shown = call("evaluate", shop.guard, shop.spec, *options).stdout
    found = json.loads((tmp_path / "evaluation.json").read_text())
    (worst,) = found["worst_case"]
    lines = [line.strip() for line in shown.splitlines()]
    line = next(line for line in lines if line.startswith("8/256"))
    assert "Worst case" in shown
    assert [console.percent(worst[name]) for name in ("undetected", "robust_accuracy")] == re.findall(r"[\d.]+ %", line)
    rows = [line.split() for line in lines if line.startswith("wb ")]
    assert [row[2:4] for row in rows] == [["5", "BPDA"], ["1", "BPDA"], ["5", "twin"], ["5", "without"]]


def test_a_suite_says_what_is_run(shop: Shop, tmp_path: Path):
    options = (
        "--suite",
        "quick",
        "--steps",
        5,
        "--eps",
        "8/256",
        "--limit",
        6,
        "--no-planted",
        "--out",
        tmp_path / "e",
    )
    told = json.loads(call("evaluate", shop.guard, shop.spec, *options, "--json").stdout)
    found = {(cell["attack"], cell["steps"], cell["gradient"]) for cell in told["cells"]}
    adaptive = {(name, steps, "bpda") for name in ("wb", "wb-adaptive", "selective") for steps in (5, 1)}
    assert found == {("pgd", 10, "bpda"), ("cw-linf", 10, "bpda"), *adaptive, ("wb", 5, "twin"), ("wb", 5, "skip")}
    assert {cell["n"] for cell in told["cells"]} <= set(range(1, 7))


def test_evaluate_refuses_images_the_guard_may_have_learned_from(shop: Shop, tmp_path: Path):
    result = call("evaluate", shop.guard, shop.spec, "--images", 200, "--attacks", "fgsm", "--out", tmp_path / "e")
    assert result.exit_code == 2
    assert "the guard learned from" in result.stderr


def test_verify_tells_who_signed(shop: Shop):
    told = json.loads(call("verify", shop.guard, "--json").stdout)
    assert told["digest"] == Guard.load(shop.guard).digest
    assert told["signer"] is not None
    assert not told["signature_checked"]
    assert json.loads(call("verify", shop.guard, "--public-key", shop.public_key, "--json").stdout)["signature_checked"]


def damage_byte(guard: Path) -> None:
    file = guard / "shields.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def damage_pickle(guard: Path) -> None:
    (guard / "classifier.safetensors").write_bytes(b"\x80\x04\x95" + bytes(40))


def damage_version(guard: Path) -> None:
    told = json.loads((guard / "manifest.json").read_text())
    (guard / "manifest.json").write_text(json.dumps(told | {"format_version": 99}))


DAMAGES = {
    "changed byte": damage_byte,
    "missing file": lambda guard: (guard / "shields.safetensors").unlink(),
    "foreign file": lambda guard: (guard / "extra.py").write_text("print(1)"),
    "pickle": damage_pickle,
    "other version": damage_version,
    "no manifest": lambda guard: (guard / "manifest.json").unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_changed_guard_is_refused_by_every_command(name: str, shop: Shop, tmp_path: Path):
    guard = shop.copy_of_guard(tmp_path)
    DAMAGES[name](guard)
    Image.new("L", (32, 32)).save(tmp_path / "image.png")
    for command in (("verify", guard), ("screen", guard, tmp_path / "image.png")):
        result = call(*command)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert "guard" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_guard_signed_by_somebody_else_is_refused(shop: Shop, tmp_path: Path):
    assert call("keys", tmp_path / "other").exit_code == 0
    for command in (("verify", shop.guard), ("screen", shop.guard, tmp_path)):
        result = call(*command, "--public-key", tmp_path / "other" / "public-key.pem")
        assert result.exit_code == 1
        assert "sign" in result.stderr


def test_the_readmes_python_example_runs(shop: Shop, capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    image = next((shop.root / "data").rglob("*.png"))
    exec(example.replace("runs/demo/guard", str(shop.guard)).replace("scan.dcm", str(image)), {})
    diagnosis, verdict, unsuited = capsys.readouterr().out.splitlines()
    assert unsuited == "None", "a PNG does not say what kind of picture it is"
    assert (diagnosis == "None") == verdict.startswith("False")


@pytest.mark.parametrize("command", ["attacks", "detectors", "suites", "cushions"])
def test_listings(command: str):
    assert json.loads(call(command, "--json").stdout)
    assert call(command).exit_code == 0


@pytest.mark.parametrize("columns", [80, 160])
def test_a_listed_name_is_never_broken(columns: int, monkeypatch: pytest.MonkeyPatch):
    from rich.console import Console

    monkeypatch.setattr(console, "write", lambda made: Console(width=columns, file=sys.stdout).print(made))
    names = [entry["name"] for entry in json.loads(call("detectors", "--json").stdout)]
    shown = call("detectors").stdout
    assert all(name in shown for name in names)


def test_doctor():
    told = json.loads(call("doctor", "--json").stdout)
    assert {check["status"] for check in told["checks"]} <= {"ok", "warn"}
    assert told["versions"]["medaegis"]


def test_demo_makes_everything_and_goes_on(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sizes = replace(
        Sizes(),
        pixels=SIDE,
        images=PATIENTS * SHOTS,
        epochs=12,
        updates=2,
        attacks=("fgsm",),
        eps=("4/256",),
        attacked=4,
        screened=2,
    )
    run_demo(tmp_path / "demo", shop.spec, seed=0, sizes=sizes)
    shown = capsys.readouterr().out
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "demo" / "mixed").iterdir())
    assert names == ["clean", "clean", "pgd", "pgd", "wb", "wb"]
    assert "toy" in shown
    assert "What to try next" in shown
    digest = Guard.load(tmp_path / "demo" / "guard").digest
    run_demo(tmp_path / "demo", shop.spec, seed=0, sizes=sizes)
    assert Guard.load(tmp_path / "demo" / "guard").digest == digest
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "demo" / "mixed").iterdir()) == names


def by_bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_demo_touches_no_file_that_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("worked"))
    mixed = tmp_path / "mixed"
    _replace_mixed(mixed, {"clean-1.png": b"one", "wb-2.png": b"two"})
    _replace_mixed(mixed, {"clean-1.png": b"other"})
    assert [path.name for path in written_before(mixed)] == ["clean-1.png"]
    (mixed / "clean-1.png").unlink()
    assert written_before(mixed) == [], "killed before all were there"
    _replace_mixed(mixed, {"clean-1.png": b"one"})

    def foreign(mixed: Path) -> None:
        (mixed / "thesis.txt").write_text("ten years")

    def changed(mixed: Path) -> None:
        (mixed / "clean-1.png").write_bytes(b"one, with my notes")

    def nested(mixed: Path) -> None:
        (mixed / "sub").mkdir()

    def linked(mixed: Path) -> None:
        (mixed / "clean-1.png").rename(mixed.parent / "mine.png")
        (mixed / "clean-1.png").symlink_to(mixed.parent / "mine.png")

    def unrecorded(mixed: Path) -> None:
        (mixed.parent / "mixed.json").unlink()

    def replaced(mixed: Path) -> None:
        (mixed.parent / "mixed.json").write_text('{"clean-1.png": "my settings"}')

    def alone(mixed: Path) -> None:
        shutil.rmtree(mixed)
        replaced(mixed)

    def elsewhere(mixed: Path) -> None:
        mixed.rename(mixed.parent / "other")
        mixed.symlink_to(mixed.parent / "other")

    def a_file(mixed: Path) -> None:
        shutil.rmtree(mixed)
        mixed.write_text("mine")

    for number, damage in enumerate((foreign, changed, nested, linked, unrecorded, replaced, alone, elsewhere, a_file)):
        place = tmp_path / str(number)
        _replace_mixed(place / "mixed", {"clean-1.png": b"one"})
        damage(place / "mixed")
        before = by_bytes(place)
        result = call("demo", "--out", place)
        assert result.exit_code == 2, damage.__name__
        assert "move it elsewhere" in " ".join(result.stderr.split())
        with pytest.raises(ConfigError):
            _replace_mixed(place / "mixed", {"clean-1.png": b"new"})
        assert by_bytes(place) == before, damage.__name__


def test_compare_takes_the_shields_of_a_guard_of_the_same_split_alone(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ("--detectors", "shield", "--attacks", "fgsm", "--learn-from", "fgsm", "--cushions", "none")
    options += ("--guard", shop.guard, "--json")
    told = json.loads(call("compare", shop.classifier, shop.spec, *options, "--out", tmp_path / "a").stdout)
    assert [row["detector"] for row in told["rows"]] == ["shield"]
    training = ("--size", SIDE, "--channels", "gray", "--epochs", 1, "--seed", 7)
    assert call("train", shop.spec, *training, "--out", tmp_path / "other").exit_code == 0
    result = call("compare", tmp_path / "other", shop.spec, *options, "--out", tmp_path / "b")
    assert result.exit_code == 2
    assert "learned from other images or another split" in " ".join(result.stderr.split())
    assert not (tmp_path / "b").exists()


def test_compare_refuses_before_it_reads_an_image(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "data_of_classifier", lambda *_, **__: pytest.fail("read the images"))
    for problem, given in (
        ("lidd", ("--detectors", "lidd")),
        ("aims at a Shield", ("--attacks", "wb")),
        ("nope", ("--learn-from", "nope")),
        ("name a guard", ("--detectors", "shield")),
        ("is random", ("--cushions", "random:jpeg:60-95")),
    ):
        result = call("compare", shop.classifier, shop.spec, *given, "--out", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert problem in result.stderr
