"""Help, examples, usage errors: what a person meets before any work is done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.shop import call

from medaegis import __version__
from medaegis.cli.app import app, bench_app, data_app

EXAMPLES = {
    (*group, command.callback.__name__): command.epilog
    for group, part in (((), app), (("data",), data_app), (("bench",), bench_app))
    for command in part.registered_commands
}
COMMANDS = list(EXAMPLES)


def test_the_promised_commands_are_there():
    promised = {"doctor", "train", "fit", "screen", "attack", "evaluate", "analyse", "report", "verify", "demo", "keys"}
    assert {(name,) for name in promised} | {("data", "inspect")} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example_whose_options_exist(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    result = call(*command, "--help")
    assert result.exit_code == 0
    words = shlex.split(EXAMPLES[command].removeprefix("Example: "))
    assert words[: 1 + len(command)] == ["medaegis", *command]
    assert " ".join(words[:2]) in result.stdout
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", result.stdout), option


def test_every_command_is_in_the_readme_and_every_example_there_is_a_command():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## Commands") : text.index("Every `--help`")]
    named = {tuple(words.split()) for words in re.findall(r"medaegis ((?:data |bench )?[a-z]+)", table)}
    more = {("data", "schemes"), *(("bench", verb) for verb in ("plan", "status", "table", "diff", "export", "site"))}
    assert named | more == set(COMMANDS)
    for line in re.findall(r"^medaegis +(.*)$", text, re.MULTILINE):
        verb, *words = shlex.split(line)
        shown = call(verb, "--help").stdout
        assert all(word in shown for word in words if word.startswith("--")), line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_options_with_a_default_show_it(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    shown = call(*command, "--help").stdout
    for line in shown.splitlines():
        takes_value = re.search(r"--[a-z-]+ +(<|\[)(?!bool)", line) and "--help" not in line
        assert not takes_value or "default" in line or "required" in line, line


def test_version():
    assert call("--version").stdout == f"medaegis {__version__}\n"


def test_help_imports_nothing_heavy():
    heavy = {"torch", "monai", "numpy", "matplotlib", "sklearn", "pydicom", "PIL", "pydantic"}
    program = (
        "import sys\nfrom medaegis.cli import main\nsys.argv = ['medaegis', '--help']\n"
        f"try:\n    main()\nexcept SystemExit:\n    pass\nprint('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


WRONG = {
    "unknown command": ("guess",),
    "no argument": ("train",),
    "unknown option": ("verify", "x", "--fast"),
    "unknown scheme": ("data", "inspect", "xrays:/tmp"),
    "no such folder": ("data", "inspect", "folder:/no/such/folder"),
    "wrong option of a spec": ("data", "inspect", "phantom-xray?size=3"),
    "unknown channels": ("data", "inspect", "phantom-xray", "--channels", "cmyk"),
    "size too small": ("train", "phantom-xray", "--size", "4", "--out", "OUT"),
    "no epochs": ("train", "phantom-xray?n=60", "--size", "32", "--epochs", "0", "--out", "OUT"),
    "negative rate": ("train", "phantom-xray?n=60", "--size", "32", "--lr", "-1", "--out", "OUT"),
    "unknown backbone": ("train", "phantom-xray?n=60", "--size", "32", "--backbone", "resnet19", "--out", "OUT"),
    "unknown split": ("train", "phantom-xray?n=60", "--size", "32", "--split-by", "hour", "--out", "OUT"),
    "unknown cushion": ("fit", "CLASSIFIER", "phantom-xray", "--cushion", "jpg", "--out", "OUT"),
    "impossible rate": ("fit", "CLASSIFIER", "phantom-xray", "--tnr", "1.5", "--out", "OUT"),
    "no such key": ("fit", "CLASSIFIER", "phantom-xray", "--sign", "OUT", "--out", "OUT"),
    "unknown attack": ("attack", "GUARD", "phantom-xray", "--attack", "zap", "--out", "OUT"),
    "unknown suite": ("evaluate", "GUARD", "phantom-xray", "--suite", "slow", "--out", "OUT"),
    "unknown attack of several": ("evaluate", "GUARD", "phantom-xray", "--attacks", "pgd,zap", "--out", "OUT"),
    "no eps": ("evaluate", "GUARD", "phantom-xray", "--eps", ",", "--out", "OUT"),
    "eps in grey levels": ("attack", "GUARD", "phantom-xray", "--eps", "8", "--out", "OUT"),
    "robust by nothing": ("train", "phantom-xray", "--robust", "pgd-at", "--eps", "0", "--out", "OUT"),
    "robust by an unknown name": ("train", "phantom-xray", "--robust", "pgd", "--out", "OUT"),
    "eps of plain training": ("train", "phantom-xray", "--eps", "8/255", "--out", "OUT"),
    "hat without its helper": ("train", "phantom-xray", "--robust", "hat", "--out", "OUT"),
    "filters that let through everything": ("train", "phantom-xray", "--denoise", "layer1:1", "--out", "OUT"),
    "nothing evaluated": ("report", "OUT"),
    "unknown attack to analyse": ("analyse", "GUARD", "phantom-xray", "--attack", "zap", "--out", "OUT"),
    "unknown cushion to analyse": ("analyse", "CLASSIFIER", "phantom-xray", "--cushion", "jpg", "--out", "OUT"),
    "no pictures": ("analyse", "CLASSIFIER", "phantom-xray", "--examples", "0", "--out", "OUT"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_told_in_a_line_and_ends_with_2(name: str, tmp_path: Path):
    result = call(*(str(tmp_path / word) if word.isupper() else word for word in WRONG[name]))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "OUT").exists()


def test_a_defect_is_told_as_one_without_a_traceback(monkeypatch: pytest.MonkeyPatch):
    import medaegis.images

    def broken() -> None:
        raise RuntimeError("boom\x1b[2J")

    monkeypatch.setattr(medaegis.images, "dataset_schemes", broken)
    result = call("data", "schemes")
    assert result.exit_code == 1
    assert "unexpected RuntimeError: boom\\x1b[2J" in result.stderr  # control characters do not reach the terminal
    assert "report it" in result.stderr
    assert "Traceback" not in result.stderr
    assert isinstance(call("--debug", "data", "schemes").exception, RuntimeError)


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    import medaegis.images

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(medaegis.images, "dataset_schemes", interrupted)
    result = call("data", "schemes")
    assert result.exit_code == 130
    assert "go on where they were" in result.stderr


def test_a_reader_that_stops_early_causes_no_traceback():
    program = [sys.executable, "-c", "from medaegis.cli import main; main()", "cushions"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, stderr = process.communicate()
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
