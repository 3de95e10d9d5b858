"""Pixels in: files and DICOM, data sets by one spec string, splits by patient, built-in phantoms."""

from medaegis.images.datasets import Channels, Dataset, dataset_schemes, load_dataset
from medaegis.images.readers import Limits, Picture, find_images, model_input, read_image
from medaegis.images.sources import without_path
from medaegis.images.splits import PARTS, Split, kept_together, small_classes, split_dataset

__all__ = [
    "PARTS",
    "Channels",
    "Dataset",
    "Limits",
    "Picture",
    "Split",
    "dataset_schemes",
    "find_images",
    "kept_together",
    "load_dataset",
    "model_input",
    "read_image",
    "small_classes",
    "split_dataset",
    "without_path",
]
