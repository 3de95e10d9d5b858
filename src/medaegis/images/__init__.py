"""Pixels in: files and DICOM, data sets by one spec string, splits by patient, built-in phantoms."""

from medaegis.images.datasets import Channels, Dataset, dataset_schemes, load_dataset
from medaegis.images.readers import Limits, Picture, model_input, read_frames, read_image
from medaegis.images.search import find_images, search_images
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
    "read_frames",
    "read_image",
    "search_images",
    "small_classes",
    "split_dataset",
    "without_path",
]
