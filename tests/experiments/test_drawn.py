"""Heat maps and curves of chapters whose figures are given."""

from pathlib import Path

import numpy as np
from tests.experiments.invented import ABOUT

from medaegis.experiments.cells import cells_of
from medaegis.experiments.figures import Figure
from medaegis.experiments.paper import PaperTable
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.site.chapter import Chapter
from medaegis.experiments.site.curves import curves
from medaegis.experiments.site.heat import heat_maps
from medaegis.experiments.store import Found


def drawn(measures: str, axes: str, metrics: tuple[str, ...], folder: Path) -> Chapter:
    """A chapter with a figure of each metric in every cell, from -1 to 1."""
    text = f'title = "t"\npaper = "p"\ntable = "1"\nmeasures = "{measures}"\ndataset = ["chest"]\n{axes}'
    (folder / "drawn.toml").write_text(f'backbone = ["resnet18"]\n{text}', encoding="utf-8")
    experiment = read_experiment(folder / "drawn.toml", "smoke")
    cells = cells_of(experiment)
    values = np.linspace(-1, 1, len(cells))
    found = {
        cell.name: Found(cell.settings, ABOUT, tuple(Figure(one, float(value), n=9) for one in metrics), f"{k}")
        for k, (cell, value) in enumerate(zip(cells, values, strict=True))
    }
    return Chapter("drawn", "smoke", experiment, PaperTable(()), found, {})


def test_cosines_between_attacks_are_a_matrix(tmp_path):
    axes = 'attack = ["bim", "pgd", "fgsm"]\nreference = ["mim", "cw-linf"]\neps = ["1/256"]'
    chapter = drawn("shift", axes, ("cosine_weights", "cosine_reference"), tmp_path)
    one, other = heat_maps(chapter)
    assert (one.metric, other.metric) == ("cosine_weights", "cosine_reference")
    assert (other.down, other.across, other.columns) == ("attack", "reference", ("mim", "cw-linf"))
    (group,) = other.groups
    assert [(name, [cell.text for cell in cells]) for name, cells in group.rows] == [
        ("bim", ["−100.0", "−60.0"]),
        ("pgd", ["−20.0", "20.0"]),
        ("fgsm", ["60.0", "100.0"]),
    ]
    assert [[cell.level for cell in cells] for _, cells in group.rows] == [[0, 2], [4, 6], [8, 10]]
    assert curves(chapter) == []


def test_features_over_eps_are_curves(tmp_path):
    axes = 'layer = { deep = "layer4" }\neps = ["1/256", "2/256"]\nseeds = [0, 1]'
    (one,) = curves(drawn("features", axes, ("change_pct",), tmp_path))
    assert one.words.startswith("change of the mean in % over eps, a line per direction: clean, up, down.")
    assert "Crosses" not in one.words
