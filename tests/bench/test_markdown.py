"""The tables of an evaluation, parsed back."""

from safetensors.numpy import load_file, save_file
from tests.bench.test_report import rewritten, small

from medaegis.bench.report.markdown import markdown


def rows(text):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_every_row_names_its_norm(tmp_path):
    """The same sizes in both norms: a reader must not take one for the other."""
    found = small(tmp_path)

    def both(content):
        for part in ("cells", "worst_case"):
            twins = [{**row, "norm": "L2"} for row in content[part]]
            content[part] += [{**row, "id": f"{row['id']}-l2", "examples": []} if "id" in row else row for row in twins]

    rewritten(tmp_path, both)
    arrays = tmp_path / "scores.safetensors"
    scores = load_file(arrays)
    twins = {"-l2/".join(key.split("/")) if "/" in key else f"{key}-l2": array for key, array in scores.items()}
    save_file({**scores, **twins}, arrays)
    told = rows(markdown(tmp_path))
    for text in ("4/256", "16/256"):
        for name in (text, f"L2 {text}"):
            assert sum(row[:2] == ["**worst case**", name] for row in told) == 1
            mine = [cell for cell in found.evaluation.cells if cell.eps_text == text]
            assert sum(row[1:2] == [name] and row[0] in {cell.attack for cell in mine} for row in told) == len(mine)
