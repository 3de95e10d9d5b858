"""Masks: whose they are, their levels as classes, their places after resizing, and all that is refused."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.images.sets import load, picture, write

from medaegis.errors import ConfigError, DataError, ImageError
from medaegis.images import masks as module
from medaegis.images.masks import IGNORE, Pair, pair_masks, read_mask, read_pair
from medaegis.images.schemes import find_pairs


def test_the_examples_run() -> None:
    assert doctest.testmod(module).attempted
    assert not doctest.testmod(module).failed


def saved(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def mask_of(path: Path, *levels: int) -> Path:
    """A mask of one row with these levels in a block of 16 x 16 pixels each."""
    return saved(path, np.kron(np.array([levels], np.uint8), np.ones((16, 16), np.uint8)))


@pytest.mark.parametrize(
    ("levels", "options", "expected"),
    [
        ((0, 255), {}, (0, 1)),
        ((0, 1), {}, (0, 1)),
        ((0, 0), {}, (0, 0)),
        ((255, 255), {}, (1, 1)),
        ((1, 1), {}, (1, 1)),
        ((0, 127, 255), {"ignore": 127}, (0, IGNORE, 1)),
        ((127, 127), {"ignore": 127}, (IGNORE, IGNORE)),
        ((0, 2, 1), {"classes": 3}, (0, 2, 1)),
        ((0, 9, 1), {"classes": 4, "ignore": 9}, (0, IGNORE, 1)),
        ((2, 2), {"classes": 3}, (2, 2)),
    ],
)
def test_levels_are_classes(
    tmp_path: Path, levels: tuple[int, ...], options: dict[str, int], expected: tuple[int, ...]
):
    found = read_mask(mask_of(tmp_path / "m.png", *levels), (4, 4 * len(levels)), **options)
    assert found.dtype == np.uint8
    assert found.shape == (4, 4 * len(levels))
    assert found[0, ::4].tolist() == list(expected)
    assert (found == np.kron(found[:1, ::4], np.ones((4, 4), np.uint8))).all()


@pytest.mark.parametrize("kind", ["1", "RGB", "P", "16"])
def test_other_forms_of_the_same_mask(tmp_path: Path, kind: str) -> None:
    plain = np.zeros((16, 18), np.uint8)
    plain[2:, 3:] = 255
    file = tmp_path / "m.png"
    if kind == "16":
        saved(file, np.where(plain, 65535, 0).astype(np.uint16))
    else:
        Image.fromarray(plain).convert(kind).save(file)
    assert (read_mask(file, (16, 18)) == plain // 255).all()


@pytest.mark.parametrize(
    ("levels", "options", "says"),
    [
        ((0, 127, 255), {}, r"holds the grey levels 0, 127, 255, expected 0 and 255, or 0 and 1; say which level"),
        ((0, 1, 255), {}, "holds the grey levels 0, 1, 255"),
        ((0, 2), {}, "holds the grey levels 0, 2"),
        ((0, 255), {"classes": 3}, "holds the grey levels 0, 255, expected 0 to 2"),
        ((0, 3), {"classes": 3}, "expected 0 to 2"),
        (tuple(range(0, 180, 20)), {}, "holds the grey levels 0, 20, 40, 60, 80, 100 and 3 more"),
        ((0, 127), {"ignore": 128}, "holds the grey levels 0, 127"),
    ],
)
def test_other_levels_are_told_and_refused(tmp_path: Path, levels: tuple[int, ...], options: dict[str, int], says: str):
    with pytest.raises(ImageError, match=says):
        read_mask(mask_of(tmp_path / "m.png", *levels), 16, **options)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    colour = np.zeros((16, 16, 3), np.uint8)
    colour[..., 0] = 255
    opacity = np.full((16, 16, 2), 255, np.uint8)
    opacity[:4, :, 1] = 128
    jpeg = np.zeros((16, 16), np.uint8)
    jpeg[3:11, 5:] = 255
    for file, says in (
        (saved(tmp_path / "c.png", colour), "is in colour"),
        (saved(tmp_path / "o.png", opacity), "does not show the grey levels"),
        (saved(tmp_path / "j.jpg", jpeg), "holds the grey levels .* more, expected 0 and 255"),
        (write(tmp_path / "t.png", "no picture"), "its content is none of"),
        (tmp_path / "absent.png", "no such file"),
    ):
        with pytest.raises(ImageError, match=says):
            read_mask(file, 16)
    for classes in (1, 256):
        with pytest.raises(ConfigError, match="2 to 255 classes"):
            read_mask(tmp_path / "c.png", 16, classes=classes)


@settings(max_examples=40)
@given(st.integers(16, 60), st.integers(16, 60), st.integers(1, 80), st.integers(1, 80))
def test_resizing_is_pillows_nearest_neighbour(tmp_path_factory, rows, columns, down, across) -> None:
    file = tmp_path_factory.getbasetemp() / "m.png"
    values = np.random.default_rng(rows * 61 + columns).integers(0, 200, (rows, columns), dtype=np.uint8)
    saved(file, values)
    expected = np.asarray(Image.fromarray(values).resize((across, down), Image.Resampling.NEAREST))
    found = read_mask(file, (down, across), classes=200)
    # Where a centre falls on the border of two pixels, Pillow's rounding decides.
    inside = [
        (2 * np.arange(wanted) + 1) * held % (2 * wanted) != 0 for wanted, held in ((down, rows), (across, columns))
    ]
    assert np.array_equal(found[inside[0]][:, inside[1]], expected[inside[0]][:, inside[1]])


def test_a_mask_stays_on_its_picture(tmp_path: Path) -> None:
    """What is bright in the picture after resizing is what the mask names, but for a pixel at the border."""
    drawn = np.zeros((90, 131), np.uint8)
    drawn[20:63, 40:99] = 255
    pair = Pair(saved(tmp_path / "i/1.png", drawn), saved(tmp_path / "m/1.png", drawn))
    for size in (32, (45, 64), (200, 100)):
        image, mask = read_pair(pair, size=size, channels="gray")
        sure = (image[0] == 0) | (image[0] == 255)
        assert (mask[sure] == image[0][sure] // 255).all()
        assert sure.mean() > 0.8


@pytest.mark.parametrize(
    ("shape", "scaled", "fits"),
    [((40, 33), False, True), ((20, 16), False, False), ((20, 16), True, True), ((33, 40), True, False)],
)
def test_a_mask_has_the_size_of_its_image(tmp_path: Path, shape: tuple[int, int], scaled: bool, fits: bool) -> None:
    pair = Pair(
        saved(tmp_path / "i.png", np.full((40, 33), 90, np.uint8)), saved(tmp_path / "m.png", np.zeros(shape, np.uint8))
    )
    if fits:
        image, mask = read_pair(pair, size=16, channels="rgb", scaled=scaled)
        assert (image.shape, mask.shape) == ((3, 16, 16), (16, 16))
    else:
        with pytest.raises(ImageError, match=rf"m\.png: is {shape[1]} x {shape[0]} px, its image 33 x 40; export it"):
            read_pair(pair, size=16, channels="rgb", scaled=scaled)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three pictures of two patients in folders, masks for two of them, and one for none."""
    for name in ("a/p1_1.jpg", "a/p1_2.JPG", "b/p2_1.jpg"):
        picture(tmp_path / "images" / name, 9)
    for name in ("a/p1_1.png", "b/P2_1.png", "b/p1_2.png"):
        picture(tmp_path / "masks" / name, 255)
    return tmp_path / "images", tmp_path / "masks"


def test_masks_are_found_by_their_paths_and_those_left_over_are_named(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    found = pair_masks(images, masks, patient=lambda path: path.name[:2])
    assert found.pairs == (
        Pair(images / "a/p1_1.jpg", masks / "a/p1_1.png", "p1"),
        Pair(images / "b/p2_1.jpg", masks / "b/P2_1.png", "p2"),
    )
    assert found.remarks == (
        f"1 images have no mask, as {images / 'a/p1_2.JPG'}: left out",
        f"1 masks belong to no image, as {masks / 'b/p1_2.png'}: not used",
    )


def test_a_mark_tells_masks_from_pictures_in_one_folder(tmp_path: Path) -> None:
    for name in ("1.png", "1_mask.png", "2.png", "2_superpixels.png", "3_MASK.png"):
        picture(tmp_path / name, 9)
    found = pair_masks(tmp_path, tmp_path, mark="_mask", leave_out="_superpixels")
    assert found.pairs == (Pair(tmp_path / "1.png", tmp_path / "1_mask.png"),)
    assert found.without_mask == (tmp_path / "2.png",)
    assert found.without_image == (tmp_path / "3_MASK.png",)
    with pytest.raises(DataError, match="none of which has its image's name"):
        pair_masks(tmp_path, tmp_path)


def test_folders_that_do_not_fit(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    with pytest.raises(DataError, match="nowhere: is no folder"):
        pair_masks(images, masks / "nowhere")
    with pytest.raises(DataError, match=r"3 masks for the 2 images in .*; name each mask as its image"):
        pair_masks(images / "a", masks)
    picture(masks / "a/p1_1.tif", 255)
    with pytest.raises(DataError, match=r"p1_1\.png and .*p1_1\.tif have one name"):
        pair_masks(images, masks)


def test_masks_by_spec(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    found = find_pairs(f"masks:{images},{masks}?patient=^(p\\d)_|(x)&ignore=127")
    assert [pair.patient for pair in found.pairs] == ["p1", "p2"]
    assert found.ignore == 127
    assert find_pairs(f"masks:{images},{masks}").pairs[0].patient is None
    for spec, says in (
        (f"masks:{images}", "names neither two folders nor a table; write masks:IMAGES,MASKS or masks:TABLE"),
        (f"masks:{images},{masks}?patient=(", "is no regular expression"),
        (f"masks:{images},{masks}?patient=^p1", r"no patient in the name p2_1\.jpg"),
        (f"masks:{images},{masks}?ignore=grey", "ignore=grey is no grey level"),
        (f"masks:{images},{masks}?n=3", "masks has no option 'n'; its options are: mark, patient, ignore"),
        (
            f"folder:{images}",
            "'folder' is no set with masks; start the spec with one of: covid19-radiography, isic2017, masks",
        ),
    ):
        with pytest.raises(DataError, match=says):
            find_pairs(spec)


def test_pairs_of_a_table(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    root = images.parent
    line = "images/a/p1_2.JPG,masks/b/p1_2.png,p1\n"
    table = write(root / "pairs.csv", f"image,mask,Patient ID\n{line}")
    assert find_pairs(f"masks:{table}?ignore=3").pairs == (Pair(images / "a/p1_2.JPG", masks / "b/p1_2.png", "p1"),)
    for text, says in (
        (f"image,mask\n{line[:-4]}\nimages/x.png,masks/b/p1_2.png\n", r"pairs\.csv, line 3: there is no file .*x\.png"),
        (f"image,mask,patient\n{line}{line}", r"line 3: images/a/p1_2\.JPG is listed again"),
        ("image,mask\n", "lists no image"),
        ("image,label\na,b\n", "has no column 'mask', only: image, label"),
    ):
        write(table, text)
        with pytest.raises(DataError, match=says):
            find_pairs(f"masks:{table}")


def test_masks_are_decoded_once_and_a_bad_one_costs_its_own_picture_alone(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = f"masks:{folders[0]},{folders[1]}", tmp_path / "cache"
    saved(folders[1] / "a/p1_1.png", np.full((16, 16), 100, np.uint8))
    with monkeypatch.context() as patch:
        decoded: list[str] = []
        patch.setattr(
            "medaegis.images.schemes.read_mask",
            lambda path, *args, **options: decoded.append(Path(path).name) or read_mask(path, *args, **options),
        )
        first = load(spec, cache)
        assert sorted(decoded) == ["P2_1.png", "p1_1.png"]
        again = load(spec, cache)
        assert len(decoded) == 2
    assert len(first) == len(first.labels) == 1
    for dataset in (first, again):
        assert [Path(failure.source).name for failure in dataset.failures] == ["p1_1.png"]
        assert "grey levels" in str(dataset.failures[0])
    assert (first.labels == again.labels).all()
    assert first.names == again.names
    # Another meaning of the same level is another entry of the cache.
    ignoring = load(f"{spec}?ignore=100", cache)
    assert len(ignoring) == 2
    assert (ignoring.labels == IGNORE).any()
    assert len(load(spec, cache)) == 1
