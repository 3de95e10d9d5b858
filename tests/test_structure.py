"""The package as a whole: no circular import, one name for one class, files that can be read in one sitting."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import medaegis

ROOT = Path(medaegis.__file__).parent
FRONT = "medaegis"  # its own names are looked up late; nothing may need them to be imported
MOST_LINES = 400
SOURCES = {
    ".".join(("medaegis", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}


def imported(file: Path) -> set[str]:
    """Modules of the package that a file imports, late and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in SOURCES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(SOURCES)


def test_no_import_runs_in_a_circle():
    graph = {name: imported(file) - {name} for name, file in SOURCES.items() if name != FRONT}
    assert all(FRONT not in needed for needed in graph.values())
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle in it


def test_no_two_classes_share_a_name():
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in SOURCES.values()]
    names = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, times in names.items() if times > 1] == []


def test_no_file_is_too_long_to_read():
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in SOURCES.items()}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}
