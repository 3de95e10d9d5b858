"""Phantoms: functions of their index alone, two labelled classes, lesions by degree, not solved by brightness."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medaegis.images import load_dataset, split_dataset
from medaegis.images.phantoms import MODALITIES, SHOTS
from medaegis.images.phantoms.canvas import Canvas

NAMES = sorted(MODALITIES)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_index_alone(name: str, tmp_path: Path) -> None:
    spec, options = f"phantom-{name}", {"size": 32, "channels": "rgb", "cache_dir": tmp_path}
    few = load_dataset(f"{spec}?n=9", **options)  # type: ignore[arg-type]
    many = load_dataset(f"{spec}?n=15", **options)  # type: ignore[arg-type]
    assert few.names == many.names[:9]
    assert few.labels.tolist() == many.labels[:9].tolist()
    assert np.array_equal(few.images, many.images[:9])
    assert len({image.tobytes() for image in many.images.numpy()}) == 15


@pytest.mark.parametrize("name", NAMES)
def test_shape_range_and_content(name: str) -> None:
    for size in (8, 33, 112):
        pixels = MODALITIES[name].draw(4, size)
        assert pixels.shape == (1 if name == "xray" else 3, size, size)
        assert pixels.dtype == np.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        assert pixels.std() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_same_scene_at_every_size(name: str) -> None:
    for index in range(6):
        large = MODALITIES[name].draw(index, 128)
        halved = large.reshape(len(large), 64, 2, 64, 2).mean((2, 4))
        assert np.corrcoef(halved.ravel(), MODALITIES[name].draw(index, 64).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_cases(name: str) -> None:
    cases = [MODALITIES[name].case(index) for index in range(600)]
    patients: dict[str, set[int]] = {}
    for case in cases:
        patients.setdefault(case.patient, set()).add(case.label)
        grade = case.name.rsplit("-", 1)[1]
        if case.label:
            assert 0 < case.severity <= 1
            assert grade == ("hard" if case.severity < 1 / 3 else "medium" if case.severity < 2 / 3 else "easy")
        else:
            assert case.severity == 0
            assert grade == MODALITIES[name].classes[0]
    assert len(patients) == 600 / SHOTS
    assert all(len(labels) == 1 for labels in patients.values()), "one patient, one diagnosis"
    assert sum(case.label for case in cases) == 300
    assert len({case.name for case in cases}) == 600
    first = [case.label for case in cases[:: 2 * SHOTS]]
    assert 30 < sum(first) < 70, "the order does not give the label away"


@pytest.mark.parametrize("name", NAMES)
def test_a_stronger_lesion_changes_more_of_the_picture(name: str) -> None:
    """The same patient and film, drawn clear and with growing severity."""

    def draw(severity: float, patient: int) -> np.ndarray:
        streams = (np.random.default_rng([patient, stream]) for stream in (1, 2))
        return np.clip(MODALITIES[name].drawing(Canvas(64), *streams, severity), 0, 1)

    change = np.zeros(3)
    for patient in range(12):
        clear = draw(1e-9, patient)
        change += [np.abs(draw(severity, patient) - clear).mean() for severity in (0.2, 0.6, 1.0)]
    assert change[0] > 0
    assert change[1] > 1.3 * change[0]
    assert change[2] > 1.2 * change[1]


@pytest.mark.parametrize("name", NAMES)
def test_simple_statistics_do_not_solve_it(name: str, tmp_path: Path) -> None:
    dataset = load_dataset(f"phantom-{name}?n=300", size=64, channels="rgb", cache_dir=tmp_path)
    pixels, labels = dataset.pixels().numpy(), dataset.labels.numpy()
    statistics = {
        "mean": pixels.mean((1, 2, 3)),
        "spread": pixels.std((1, 2, 3)),
        "darkest": np.quantile(pixels, 0.02, (1, 2, 3)),
        "brightest": np.quantile(pixels, 0.98, (1, 2, 3)),
        "middle": pixels[:, :, 16:48, 16:48].mean((1, 2, 3)),
        "green": pixels[:, 1].mean((1, 2)),
    }
    for what, values in statistics.items():
        area = roc_auc_score(labels, values)
        assert max(area, 1 - area) < 0.75, f"{what} alone reaches {area:.3f}"


def test_patients_of_a_phantom_stay_together(tmp_path: Path) -> None:
    dataset = load_dataset("phantom-skin?n=120", size=16, channels="rgb", cache_dir=tmp_path)
    split = split_dataset(dataset)
    owners = [{dataset.patients[place] for place in part} for part in split.parts.values()]
    assert sum(map(len, owners)) == len(set(dataset.patients)) == 40
