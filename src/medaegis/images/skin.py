"""Photographs of skin lesions as published: ISIC 2017 and 2018, HAM10000 and PAD-UFES-20."""

from medaegis.images.lookup import Lookup
from medaegis.images.masks import Pairing, joined, pair_masks
from medaegis.images.sources import Files, Listing, Spec
from medaegis.images.tables import headed, one_of, rows, whole_number

# The parts of ISIC 2017 by the words of the option `part`, as its files call them.
ISIC2017_PARTS = {"training": "Training", "validation": "Validation", "test": "Test_v2"}
# Diagnoses by their codes, harmless ones first.
HAM10000 = {
    "nv": "melanocytic nevi",
    "bkl": "benign keratosis-like lesions",
    "df": "dermatofibroma",
    "vasc": "vascular lesions",
    "akiec": "actinic keratoses and intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "mel": "melanoma",
}
PAD_UFES_20 = {
    "NEV": "nevus",
    "SEK": "seborrheic keratosis",
    "ACK": "actinic keratosis",
    "BCC": "basal cell carcinoma",
    "SCC": "squamous cell carcinoma",
    "MEL": "melanoma",
}


def list_isic(spec: Spec) -> Listing:
    root = spec.folder()
    table, find = spec.inside(root, "metadata.csv"), Lookup(spec, spec.inside(root, "images"))
    files = Files(spec, root, ("not melanoma", "melanoma"), "lesion", codes=("0", "1"))
    for row in rows(spec, table, headed("isic_id", "lesion_id", "target")):
        files.add(find(row["isic_id"]), whole_number(spec, row, "target", 1, "target"), row["lesion_id"])
    files.remarks += find.remarks()
    return files.listing()


def list_isic2017(spec: Spec) -> Listing:
    """ISIC 2017, task 3: two columns of yes or no, and nevus where both are no; neither patients nor lesions named."""
    root = spec.folder()
    files = Files(spec, root, ("nevus", "seborrheic keratosis", "melanoma"))
    for part in _parts_of_isic2017(spec):
        table = spec.inside(root, f"ISIC-2017_{part}_Part3_GroundTruth.csv")
        find = Lookup(spec, spec.inside(root, f"ISIC-2017_{part}_Data"))
        for row in rows(spec, table, headed("image_id", "melanoma", "seborrheic_keratosis")):
            melanoma, keratosis = (
                whole_number(spec, row, key, 1, "yes (1) or no (0)") for key in ("melanoma", "seborrheic_keratosis")
            )
            if melanoma and keratosis:
                raise spec.error(f"{row.where}: both melanoma and seborrheic keratosis", "correct the table")
            files.add(find(row["image_id"]), 2 if melanoma else keratosis, None)
        files.remarks += find.remarks()
    return files.listing()


def isic2017_masks(spec: Spec) -> Pairing:
    """The lesions of ISIC 2017, task 1: a mask for each image, of 0 and 255."""
    root = spec.folder()
    return joined(
        pair_masks(
            spec.inside(root, f"ISIC-2017_{part}_Data"),
            spec.inside(root, f"ISIC-2017_{part}_Part1_GroundTruth"),
            mark="_segmentation",
            leave_out="_superpixels",
        )
        for part in _parts_of_isic2017(spec)
    )


def _parts_of_isic2017(spec: Spec) -> list[str]:
    """The part that is asked for, else those of which there is a folder of images."""
    root, asked = spec.folder(), spec.choice("part", tuple(ISIC2017_PARTS))
    if asked is not None:
        return [ISIC2017_PARTS[asked]]
    parts = [part for part in ISIC2017_PARTS.values() if spec.inside_or_none(root, f"ISIC-2017_{part}_Data")]
    if not parts:
        problem = f"{root} holds no ISIC-2017_Training_Data, ISIC-2017_Validation_Data or ISIC-2017_Test_v2_Data"
        raise spec.error(problem, "name the folder that holds them as they were unpacked")
    return parts


def list_ham10000(spec: Spec) -> Listing:
    """HAM10000; its table is published without a suffix, and as .csv and .tab elsewhere."""
    root = spec.folder()
    names = ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
    tables = [table for name in names if (table := spec.inside_or_none(root, name))]
    if len(tables) != 1:
        held = " and ".join(table.name for table in tables) or "no HAM10000_metadata"
        raise spec.error(f"{root} holds {held}", "name the folder that holds the set's table, once, and its images")
    codes, find = tuple(HAM10000), Lookup(spec, root)
    files = Files(spec, root, tuple(HAM10000.values()), "lesion", codes=codes)
    for row in rows(spec, tables[0], headed("lesion_id", "image_id", "dx")):
        files.add(find(row["image_id"]), one_of(spec, row, "dx", codes, "diagnosis of HAM10000"), row["lesion_id"])
    files.remarks += find.remarks()
    return files.listing()


def list_pad_ufes_20(spec: Spec) -> Listing:
    """PAD-UFES-20: photographs by smartphones; a patient may have several lesions, and a lesion several images."""
    root = spec.folder()
    codes, find = tuple(PAD_UFES_20), Lookup(spec, root)
    files = Files(spec, root, tuple(PAD_UFES_20.values()), codes=codes)
    for row in rows(spec, spec.inside(root, "metadata.csv"), headed("patient_id", "diagnostic", "img_id")):
        label = one_of(spec, row, "diagnostic", codes, "diagnosis of PAD-UFES-20")
        files.add(find(row["img_id"]), label, row["patient_id"])
    files.remarks += find.remarks()
    return files.listing()
