"""The documents keep their promises: links lead somewhere, other libraries do what coming-from.md says of them."""

import io
import re
import shlex
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.shop import call

from medaegis.attacks.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
COMING_FROM = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
PEERS = {"torchattacks": "torchattacks", "foolbox": "foolbox", "ART": "art"}
TASKS = COMING_FROM.split("\n## ")[1:6]


def headings(page: Path) -> set[str]:
    """Anchors of a page as GitHub makes them of its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_command_has_the_options_it_is_shown_with(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.findall(r"^medaegis +(.*)$", block, re.MULTILINE):
            verb, *words = shlex.split(line, comments=True)
            shown = call(verb, words[0], "--help") if verb in ("data", "bench") else call(verb, "--help")
            assert shown.exit_code == 0, line
            assert all(re.search(rf"{word}\b", shown.stdout) for word in words if word.startswith("--")), line


def figures(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d*", text)]


def run(library: str, start: dict[str, object]) -> list[list[float]]:
    """What the blocks of a library print, task by task; what the page says they print must be near."""
    names, found = dict(start), []
    for task in TASKS:
        codes = [
            code for code in re.findall(r"```python\n(.*?)```", task, re.DOTALL) if code.startswith(f"# {library}")
        ]
        with redirect_stdout(io.StringIO()) as out:
            for code in codes:
                exec(code, names)
        found.append(figures(out.getvalue()))
        said = figures(" ".join(re.findall(r"^print\(.*#(.*)$", "".join(codes), re.MULTILINE)))
        if "in another" not in "".join(codes):  # where the page says that it varies, what must hold is tested below
            assert found[-1] == pytest.approx(said, abs=0.1)
    return found


@pytest.fixture(scope="module")
def start() -> dict[str, object]:
    """What all libraries share: the first block of the page."""
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", COMING_FROM, re.DOTALL)[1], names)
    return names


@pytest.fixture(scope="module")
def ours(start: dict[str, object]) -> list[list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run("medaegis", start)


def test_the_five_tasks_run_as_they_are_written(ours: list[list[float]]):
    (accuracy,), (fooled,), curve, (worst,), (clean, attacked, turned, broken) = ours
    assert accuracy == 1, "normalised as it was trained"
    assert curve == sorted(curve)
    assert fooled == curve[3]
    assert worst >= curve[2]
    assert attacked > clean + 0.25, "the detector tells them apart"
    assert broken <= turned


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", PEERS)
def test_other_libraries_print_the_same(library: str, start: dict[str, object], ours: list[list[float]]):
    pytest.importorskip(PEERS[library])
    with torch.random.fork_rng(devices=[]):  # whatever ran before: ART's detector draws from both generators
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 -- the one that ART draws from
        *found, flagged = run(library, start)
    assert found == [pytest.approx(shares, abs=0.03) for shares in ours[:4]]
    assert bool(flagged) == (library == "ART"), "the one with a detector"
    assert not flagged or flagged[1] > flagged[0] + 0.25


@pytest.mark.parametrize(
    ("column", "module"), [(1, "torchattacks"), (2, "foolbox.attacks"), (3, "art.attacks.evasion"), (4, None)]
)
def test_attacks_are_called_what_the_table_says(column: int, module: str | None):
    if module:
        pytest.importorskip(module.partition(".")[0])
    has = CATALOGUE.__contains__ if module is None else lambda name: hasattr(import_module(module), name)
    rows = re.search(r"## Names\n\n.*?\n\|[-|]+\|\n(.*?)\n\n", COMING_FROM, re.DOTALL)[1].splitlines()
    named = [name for row in rows for name in re.findall(r"`(.*?)`", row.split("|")[column + 1])]
    assert len(named) > 5
    assert [name for name in named if not has(name)] == []
