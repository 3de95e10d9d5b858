"""An `--out` that nothing can be written to is refused in a line, before anything is decoded, trained or attacked."""

from pathlib import Path

import pytest
import torch
from tests.cli.shop import SIDE, Shop, call

from medaegis.bench.store import Store
from medaegis.cli import datasets
from medaegis.guard.guard import Guard
from medaegis.guard.shield_training import ShieldTraining
from medaegis.models.checkpoint import load_checkpoint, save_checkpoint
from medaegis.models.classifier import Classifier

COMMANDS = {
    "train": ("SPEC", "--size", SIDE),
    "fit": ("CLASSIFIER", "SPEC"),
    "fit --shields": ("CLASSIFIER", "SPEC", "--shields", "GUARD"),
    "calibrate": ("GUARD", "SPEC"),
    "attack": ("GUARD", "SPEC"),
    "evaluate": ("GUARD", "SPEC"),
    "certify": ("GUARD", "SPEC"),
    "analyse": ("GUARD", "SPEC"),
    "assess": ("CLASSIFIER", "SPEC"),
    "compare": ("CLASSIFIER", "SPEC"),
    "demo": (),
}


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No images are decoded, no network answers."""
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(Classifier, "forward", lambda *_, **__: pytest.fail("worked"))


def refused(shop: Shop, name: str, out: Path) -> str:
    """What the command says of `out` when it refuses it, without its line breaks; nothing is written into it."""
    places = {"SPEC": shop.spec, "CLASSIFIER": shop.classifier, "GUARD": shop.guard}
    before = sorted(out.iterdir()) if out.is_dir() else None
    result = call(name.split()[0], *(places.get(str(word), word) for word in COMMANDS[name]), "--out", out)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert (sorted(out.iterdir()) if out.is_dir() else None) == before
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_asked_before_any_work(name: str, idle: None, shop: Shop, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"--out {file}: is a file; name a folder that you may write to" in refused(shop, name, file)
    assert f"{file} is a file" in refused(shop, name, file / "below" / "it")
    if Path("/proc/self").exists():  # no folder can be made there, not even by root
        assert "nothing can be written in /proc" in refused(shop, name, Path("/proc/nope"))
    assert {place: place.read_text() for place in tmp_path.iterdir()} == {file: "mine"}, "something was left behind"


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"train"}))
def test_a_classifier_is_not_written_into(name: str, idle: None, shop: Shop):
    """A file more in its folder and it could not be read any longer."""
    told = refused(shop, name, shop.classifier)
    problems = {"fit": "is not a guard folder", "fit --shields": "is not an empty folder"}
    problems["calibrate"] = "is not an empty folder"
    assert problems.get(name, "name another folder") in told


def test_training_for_a_folder_of_something_else_is_refused(idle: None, shop: Shop, tmp_path: Path):
    assert "is not a classifier folder" in refused(shop, "train", shop.guard)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years")
    assert "is not a classifier folder" in refused(shop, "train", tmp_path / "mine")
    assert "is not a guard folder" in refused(shop, "fit", tmp_path / "mine")
    assert "name a folder in it" in refused(shop, "fit", Path())


def test_a_guard_of_other_settings_is_not_replaced(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ShieldTraining, "train", lambda *_: pytest.fail("trained"))
    copy = shop.copy_of_guard(tmp_path)
    before = Guard.load(copy).digest
    result = call("fit", shop.classifier, shop.spec, "--out", copy)
    assert result.exit_code == 2
    assert "holds a guard made with other settings" in " ".join(result.stderr.split())
    assert Guard.load(copy).digest == before


def test_a_report_needs_a_file_of_its_own(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medaegis.bench.records.archive.read_evaluation", lambda *_: pytest.fail("read"))
    file = tmp_path / "file"
    file.write_text("mine")
    for out, problem in ((tmp_path, "is a folder"), (file / "y.html", f"{file} is a file")):
        result = call("report", tmp_path / "evaluation", "--out", out)
        assert result.exit_code == 2
        assert f"--out {out}: {problem}; name a file that you may write to" in " ".join(result.stderr.split())


def test_keys_and_quarantine_need_a_folder(idle: None, shop: Shop, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    for option, words in (("DIR", ("keys",)), ("--quarantine", ("screen", shop.guard, tmp_path, "--quarantine"))):
        result = call(*words, file)
        assert result.exit_code == 2
        assert f"{option} {file}: is a file" in " ".join(result.stderr.split())
        spoiling = call(*words, shop.guard)
        assert spoiling.exit_code == 2
        assert "name another folder" in " ".join(spoiling.stderr.split())


def test_a_second_attack_does_not_replace_the_first(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "attacked"
    command = ("attack", shop.guard, shop.spec, "--attack", "fgsm", "--limit", 2, "--out", out)
    assert call(*command).exit_code == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("decoded"))
    again = call(*command, "--seed", 1)
    assert again.exit_code == 2
    assert "holds another attack (attack.json); name another folder" in " ".join(again.stderr.split())
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_victim_that_is_not_there_is_told_as_everywhere(shop: Shop, tmp_path: Path):
    absent = tmp_path / "absent"
    for verb, option in (("analyse", ("--out", tmp_path / "o")), ("verify", ())):
        spec = (shop.spec,) if verb == "analyse" else ()
        assert f"{absent}: does not exist; check the path" in " ".join(
            call(verb, absent, *spec, *option).stderr.split()
        )
        told = " ".join(call(verb, shop.root / "data", *spec, *option).stderr.split())
        assert "folder (manifest.json is missing); name one that" in told
        assert "`medaegis fit`" in told
    told = call("fit", shop.root / "data", shop.spec, "--out", tmp_path / "o").stderr
    assert "is no classifier folder (manifest.json is missing); name one that `medaegis train`" in " ".join(
        told.split()
    )


def test_a_wrong_key_names_the_command_that_makes_one(shop: Shop, tmp_path: Path, idle: None):
    file = tmp_path / "file"
    file.write_text("mine")
    result = call("fit", shop.classifier, shop.spec, "--sign", file, "--out", tmp_path / "g")
    assert result.exit_code == 2
    assert "`medaegis keys DIR` makes a pair" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "runs/x"), "medaegis: runs/x: No space left on device; check"),
        (OSError(28, "No space left on device"), "the disk or the output: No space left on device; check"),
    ],
)
def test_a_disk_that_fails_midway_is_no_defect(error: OSError, told: str, monkeypatch: pytest.MonkeyPatch):
    def failing() -> None:
        raise error

    monkeypatch.setattr("medaegis.images.dataset_schemes", failing)
    result = call("data", "schemes")
    assert result.exit_code == 1
    assert told in " ".join(result.stderr.split())
    assert "defect" not in result.stderr
    assert isinstance(call("--debug", "data", "schemes").exception, OSError)


def test_an_error_that_a_library_calls_one_of_the_system_is_a_defect(monkeypatch: pytest.MonkeyPatch):
    def failing() -> None:
        raise OSError("boom")

    monkeypatch.setattr("medaegis.images.dataset_schemes", failing)
    assert "This is a defect" in " ".join(call("data", "schemes").stderr.split())


def test_a_full_disk_is_an_error_of_the_system_wherever_work_is_kept(tmp_path: Path):
    """The limit on a file's size stands for the disk's; safetensors' own writer would hide what went wrong."""
    resource = pytest.importorskip("resource")
    before, big = resource.getrlimit(resource.RLIMIT_FSIZE), {"x": torch.arange(1 << 14)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            Store(tmp_path / "pieces").get({"a": 1}, lambda: big)
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(tmp_path / "checkpoint", big, {}, serial=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    small = {"x": torch.arange(9)}
    assert torch.equal(Store(tmp_path / "pieces").get({"a": 1}, lambda: small)["x"], small["x"]), (
        "no half piece is found"
    )
    assert load_checkpoint(tmp_path / "checkpoint") is None
