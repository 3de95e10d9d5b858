"""The site of a store, read by a parser of its own: links, figures, escapes, what it replaces and leaves alone."""

import doctest
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag
from xml.etree import ElementTree

import pytest
from tests.cli.shop import call
from tests.experiments.invented import EVIL, TOML, analysis, assessment, evaluation, figures_of, invent
from tests.experiments.small import figures, run, written

from medaegis.errors import ArtefactError, ConfigError
from medaegis.experiments.cells import cells_of
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.site import files, heat
from medaegis.experiments.site.chapter import page_name
from medaegis.experiments.site.files import LIST, check_site, luminance, replace_site, slug, style
from medaegis.experiments.site.site import write_site
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tasks import in_order

VOID = {"meta", "link", "img", "br"}


class Document(HTMLParser):
    """Tags with attributes, links with their texts, ids, and rows of tables as texts of cells."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.links: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], file

    def handle_starttag(self, tag, attrs):
        told = {name: value or "" for name, value in attrs}
        self.tags.append((tag, told))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "a":
            self.links.append((told["href"], ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if "a" in self._open:
            href, text = self.links[-1]
            self.links[-1] = href, text + data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, *names):
        return [told for tag, told in self.tags if tag in names]

    @property
    def ids(self):
        return [told["id"] for _, told in self.tags if "id" in told]


def build(folder: Path, store: Path, file: Path | None = None, entries: Path | None = None):
    with ExperimentStore(store) as kept:
        named = [] if file is None else [(file.stem, file)]
        return write_site(kept, folder, files=named, entries=entries)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An invented store with entries of all kinds, and its site."""
    root = tmp_path_factory.mktemp("site")
    file, store = invent(root)
    evaluation(root / "entries" / f"{EVIL.replace('/', '')} guard")
    assessment(root / "entries" / "net", {4: 12, 8: 7})
    analysis(root / "entries" / "inside")
    (root / "entries" / f"{EVIL.replace('/', '')} foreign").mkdir()
    told = build(root / "out", store, file, root / "entries")
    return SimpleNamespace(root=root, file=file, store=store, out=root / "out", told=told)


def pages(out: Path) -> dict[str, Document]:
    return {file.relative_to(out).as_posix(): Document(file) for file in sorted(out.rglob("*.html"))}


def test_every_link_leads_somewhere_and_every_file_is_led_to(made):
    documents, seen = pages(made.out), {"index.html", LIST}
    for name, page in documents.items():
        assert len(page.ids) == len(set(page.ids)), name
        targets = [link for link, _ in page.links]
        targets += [told[key] for tag, key in (("img", "src"), ("link", "href")) for told in page.all(tag)]
        for target in targets:
            place, anchor = urldefrag(target)
            if place.startswith("data:"):
                assert name.startswith("entries/")
                continue
            assert not re.match(r"[a-z]+:|/", place), (name, target)
            file = (made.out / name).parent / unquote(place) if place else made.out / name
            file = file.resolve().relative_to(made.out.resolve()).as_posix()
            assert (made.out / file).is_file(), (name, target)
            seen.add(file)
            assert not anchor or anchor in documents[file].ids, (name, target)
    present = {file.relative_to(made.out).as_posix() for file in made.out.rglob("*") if file.is_file()}
    assert present == seen
    assert set(json.loads((made.out / LIST).read_text())["files"]) == present - {LIST}
    assert made.told.pages == len(documents)


def test_nothing_is_executed_or_loaded_from_elsewhere_and_names_from_outside_are_text(made):
    told = []
    for name, page in pages(made.out).items():
        assert not page.all("script", "iframe", "object", "embed", "form"), name
        assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")], name
        policy = next(one for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")["content"]
        assert policy.startswith("default-src 'none'")
        assert "script-src" not in policy
        if EVIL.replace("/", "") in page.text or EVIL in page.text:
            told.append(name)
    assert {"index.html", "leaderboard.html", "invented-smoke/index.html"} <= set(told)
    assert sum("cell-" in name for name in told) == made.told.cells
    assert sum(name.startswith("entries/") for name in told) >= 2
    style_text = style().decode()
    assert "url(" not in style_text
    assert "@import" not in style_text


def test_every_page_can_be_found_ones_way_in(made):
    for name, page in pages(made.out).items():
        headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert headings[0] == 1
        assert all(later <= before + 1 for before, later in pairwise(headings)), name
        assert page.all("html")[0]["lang"] == "en"
        assert {"width=device-width, initial-scale=1"} <= {one.get("content") for one in page.all("meta")}
        if name.startswith("entries/") and "assessment" not in name:
            continue  # pages of `medaegis report` and `analyse`
        assert headings.count(1) == 1
        assert page.links[0][0] == "#main"
        assert {told["scope"] for told in page.all("th")} <= {"col", "row", "rowgroup"}
        assert len(page.all("caption")) == len(page.all("table"))
        regions = [told for told in page.all("div") if told.get("class") == "scroll"]
        assert len(regions) == len(page.all("table"))
        assert all(told["tabindex"] == "0" and told["aria-labelledby"] in page.ids for told in regions)
        assert all(told["alt"] for told in page.all("img"))


def test_every_figure_of_the_store_stands_on_the_page_of_its_cell(made):
    with ExperimentStore(made.store) as kept:
        found = kept.cells("invented", "smoke")
    assert made.told.cells == len(found)
    index = pages(made.out)["invented-smoke/index.html"]
    linked = {href for href, _ in index.links}
    for place, there in found.items():
        page = Document(made.out / "invented-smoke" / page_name(place))
        rows = {row[0]: row for row in page.rows if len(row) == 5}
        for figure in figures_of(place):
            assert figure in there.figures
            assert rows[figure.metric][1] == f"{100 * figure.value:.1f} %"
            assert (rows[figure.metric][3], float(rows[figure.metric][4])) == (str(figure.n), figure.value)
            bounds = "–" if figure.low is None else f"{100 * figure.low:.1f}–{100 * figure.high:.1f}"
            assert rows[figure.metric][2] == bounds
        assert page_name(place) in linked
        names = {name for name in json.loads(place).values() if name}
        assert all(name in page.text for name in names)
        assert f"medaegis bench run invented.toml --data {EVIL}" in page.text
        assert "0123456789abcdef" in page.text
        assert there.key in page.text
        assert there.settings["cushion"] in page.text
        seconds = 0.25 + 1.0  # its own, and its share of what as many cells used as it took seconds
        assert f"{seconds:.1f} s is this cell's share" in page.text


def means(made, metric="auc"):
    """By place without seed: mean over the seeds in per cent, and the pages of the cells."""
    found: dict[tuple[tuple[str, str], ...], list[tuple[float, str]]] = {}
    for cell in cells_of(read_experiment(made.file, "smoke"))[:-1]:
        place = tuple((axis, name) for axis, name in cell.place.items() if axis != "seed")
        value = next(one.value for one in figures_of(cell.name) if one.metric == metric)
        found.setdefault(place, []).append((100 * value, page_name(cell.name)))
    return {place: (sum(v for v, _ in some) / len(some), [p for _, p in some]) for place, some in found.items()}


def test_the_table_gives_the_papers_figures_and_leads_from_each_of_ours_to_its_cells(made):
    index = Document(made.out / "invented-smoke" / "index.html")
    heads = next(row for row in index.rows if row[:3] == ["defence", "cushion", "learned_from"])
    by_names = {tuple(row[:3]): row for row in index.rows if len(row) == len(heads)}
    for place, (value, targets) in means(made).items():
        told = dict(place)
        row = by_names[told["defence"], told["cushion"], told["learned_from"]]
        cell = row[heads.index(f"{told['attack']} {told['eps']} auc")]
        assert cell.startswith(f"{value:.1f} (")
        if (told["attack"], told["defence"], told["cushion"]) == ("BIM", "SVM", "none"):
            paper = {"4/256": 87.5, "8/256": 91.0}.get(told["eps"])
            if paper:
                assert f"paper {paper:g}" in cell
                assert f", {value - paper:+.1f}".replace("-", "−") in cell
        for target in targets:
            assert any(href == target for href, _ in index.links)
        assert (targets[0], f"{value:.1f}") in index.links
    assert f"{EVIL} doubtful" in index.text
    assert f"{EVIL} note" in index.text


def test_heat_maps_hold_the_numbers_and_lead_to_the_cells(made):
    index = Document(made.out / "invented-smoke" / "index.html")
    captions = re.findall(r"AUROC in %, (\w+) by (\w+)\.", index.text)
    assert {("defence", "attack"), ("learned_from", "attack"), ("cushion", "attack"), ("attack", "eps")} <= set(
        captions
    )
    assert captions[0] == ("defence", "attack")
    # One of two axes that vary together is no map of its own: DDN has no eps, so that of the table is its own.
    heat = [told["class"] for told in index.all("td") if re.fullmatch(r"h\d+", told.get("class", ""))]
    assert len(heat) == len(captions) * len(means(made))
    text = (made.out / "invented-smoke" / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<td class="h(\d+)"><a href="(cell-\w+\.html)">([\d.]+)</a></td>', text)
    known = {targets[0]: value for value, targets in means(made).values()}
    assert {target for _, target, _ in shown} == set(known)
    for level, target, number in shown:
        assert number == f"{known[target]:.1f}"
        assert int(level) == round(known[target] / 10)


def test_curves_over_eps_show_intervals_and_the_papers_figures(made):
    index = Document(made.out / "invented-smoke" / "index.html")
    (first, *others) = index.all("img")
    assert "a line per" in first["alt"]
    for told in (first, *others):
        drawn = ElementTree.parse(made.out / "invented-smoke" / told["src"])
        assert drawn.getroot().tag.endswith("svg")
    assert sum("Crosses: the paper's" in told["alt"] for told in (first, *others)) >= 1


def test_colours_can_be_read_in_both_schemes():
    def contrast(one, other):
        light, dark = sorted(
            (luminance(*(int(c[k : k + 2], 16) for k in (1, 3, 5))) for c in (one, other)), reverse=True
        )
        return (light + 0.05) / (dark + 0.05)

    text = re.sub(r"#(.)(.)(.)([;\s])", r"#\1\1\2\2\3\3\4", style().decode())
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", rule)) for rule in re.findall(r":root \{[^}]*\}", text)]
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        for ground in (scheme["ground"], scheme["pale"]):
            assert all(contrast(scheme[ink], ground) >= 4.5 for ink in ("ink", "muted", "link", "warn")), scheme
    levels = re.findall(r"\.h\d+ \{ background: (#\w{6}); color: (#\w{6});", text)
    assert len(levels) == 11
    assert all(contrast(*pair) >= 4.5 for pair in levels)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)  # as WCAG has it


def test_a_second_run_replaces_the_site_and_nothing_else(made, tmp_path):
    out = shutil.copytree(made.out, tmp_path / "deep" / "site")
    build(out, made.store, made.file, made.root / "entries")
    first = {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert first == {file.relative_to(made.out): file.read_bytes() for file in made.out.rglob("*") if file.is_file()}
    build(out, made.store, made.file)
    after = {file.relative_to(out) for file in out.rglob("*") if file.is_file()}
    assert {file.parts[0] for file in set(first) - after} == {"entries"}
    assert after < set(first)
    assert sorted(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("what", ["file", "folder", "link", "foreign list"])
def test_a_folder_with_other_things_is_left_alone(made, tmp_path, what):
    out = shutil.copytree(made.out, tmp_path / "site")
    if what == "file":
        (out / "invented-smoke" / "mine.txt").write_text("mine")
    elif what == "folder":
        (out / "mine").mkdir()
    elif what == "link":
        (out / "mine").symlink_to(tmp_path)
    else:
        (out / LIST).write_text('{"format": "mine", "files": []}')
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(ArtefactError, match=r"mine|no site has"):
        replace_site(out, {})
    refused = call("bench", "site", "--store", made.store, "--out", out, made.file)
    assert refused.exit_code == 2, refused.output
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_only_a_site_or_an_empty_folder_is_replaced(tmp_path):
    check_site(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_site(tmp_path / "empty")
    (tmp_path / "empty" / "thesis.tex").write_text("mine")
    with pytest.raises(ArtefactError, match=r"'thesis\.tex', and no site"):
        check_site(tmp_path / "empty")


def test_a_cell_of_other_settings_is_told_and_not_in_the_table(tmp_path):
    file, store = invent(tmp_path)
    file.write_text(TOML.replace('channels = "gray"', "").replace("seeds = [0, 1]", "seeds = [0, 1]\nsize = 96"))
    build(tmp_path / "out", store, file)
    index = Document(tmp_path / "out" / "invented-smoke" / "index.html")
    cells = [href for href, _ in index.links if href.startswith("cell-")]
    assert len(cells) == len(set(cells)) > 0  # from the list alone
    assert index.text.count("under other settings than the file says now; not in the table") == len(cells)
    assert "Measured under other settings" in Document(tmp_path / "out" / "invented-smoke" / cells[0]).text


def test_of_a_real_run_every_task_is_told_with_its_time(whole, tmp_path):
    planned, store = whole
    told = build(tmp_path / "out", store, written(tmp_path))
    assert told.cells == 6
    with ExperimentStore(store) as kept:
        uses = kept.uses("small", "smoke")
    for cell in planned:
        page = Document(tmp_path / "out" / "small-smoke" / page_name(cell.name))
        tasks = in_order([cell.task])
        assert [use.key for use in uses[cell.task.key]] == [task.key for task in tasks]
        assert all(task.key in page.text and task.title in page.text for task in tasks)
        for figure in figures(store)[cell.name].figures:
            assert repr(figure.value) in page.text
    classifier = next(use for use in uses[planned[0].task.key] if use.kind == "classifier")
    assert classifier.users == 6
    assert classifier.seconds > 0


def test_a_store_that_says_nothing_of_tasks_has_a_site_and_tells_them_after_another_run(whole, tmp_path):
    planned, store = whole
    store = shutil.copytree(store, tmp_path / "store")
    with ExperimentStore(store, write=True) as kept:
        kept._index.execute("DROP TABLE uses")
    file = written(tmp_path)
    build(tmp_path / "out", store, file)
    index = tmp_path / "out" / "small-smoke" / "index.html"
    assert "does not say which tasks" in Document(index).text
    assert run(planned, store).done == 0
    build(tmp_path / "out", store, file)
    assert "does not say which tasks" not in Document(index).text


def test_the_command_tells_what_it_left_out(made, whole, tmp_path):
    result = call(
        "bench", "site", made.file, "--store", made.store, "--entries", made.root / "entries", "--out", tmp_path / "a"
    )
    assert result.exit_code == 1
    assert f"Left out: {EVIL.replace('/', '')} foreign: holds none of evaluation.json" in result.stderr
    assert (tmp_path / "a" / "index.html").is_file()
    result = call("bench", "site", "--store", whole[1], "--out", tmp_path / "b", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["unnamed"] == [["small", "smoke"]]
    assert "small at scale smoke" in Document(tmp_path / "b" / "index.html").text
    result = call("bench", "site", "aegis-table1", "--store", whole[1], "--out", tmp_path / "c")
    assert result.exit_code == 2
    assert "holds no cell of aegis-table1" in result.output.replace("\n", " ")
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigError, match="cannot be listed"):
        build(tmp_path / "d", whole[1], entries=tmp_path / "none")


@pytest.mark.parametrize("module", [files, heat], ids=str)
def test_the_examples_hold(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted


def test_a_task_is_shared_by_the_figures_that_stand_alone(tmp_path):
    """Figures that were counted anew under another key, and those that are not done yet, have no share."""
    file, folder = invent(tmp_path)
    first, *others = cells_of(read_experiment(file, "smoke"))
    with ExperimentStore(folder, write=True) as store:
        task = SimpleNamespace(key="d" * 32, kind="figures")
        uses = [(task.key, "c" * 32, "classifier"), ("e" * 32, "c" * 32, "classifier")]
        store.put(task, None, figures_of(first.name), seconds=1.0, at="2026-03-15T09:20:00+00:00")
        store.tell("invented", "smoke", {first.name: (task.key, first.settings)}, {}, uses)
        store.tell("invented", "smoke", {others[-1].name: ("e" * 32, others[-1].settings)}, {})
        found = store.uses("invented", "smoke")
    assert {use.users for uses in found.values() for use in uses if use.kind == "classifier"} == {len(others)}


def test_no_two_texts_have_one_name_and_every_name_is_safe():
    texts = ["aegis-table3-smoke", "../<b>", "b-9f46aef2", "", ".", "Ä", "A", "a", "x" * 300, "\udcff", "a/b", "a b"]
    names = [slug(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", name) for name in names)
    assert names[0] == texts[0]
