"""Pictures that are in a data set more than once: the same pixels, or all but the same in another size or format."""

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from medaegis.images.datasets import Dataset
from medaegis.images.hashes import equal_pairs

SIDE = 16  # pictures are compared after averaging to so many pixels a side, which a resize or a JPEG hardly changes
CLOSE = 1.5  # root mean square of the difference in grey levels below which two are taken for copies
COARSE = 4  # and first so many, to find the few pairs worth comparing
PLAIN = 8.0  # standard deviation in grey levels below which a picture has too little in it to be compared
CHUNK = 512


def copies(dataset: Dataset) -> tuple[str, ...]:
    """A sentence for each kind of copy: equal pictures with different labels, equal ones, and nearly equal ones."""
    named = dataset.names
    equal = equal_pairs(dataset.images)
    torn = [(a, b) for a, b in equal if not torch.equal(dataset.labels[a], dataset.labels[b])]
    near = [(a, b) for a, b in _near(dataset.images) if dataset.patients[a] != dataset.patients[b]]
    near = [(a, b) for a, b in near if not torch.equal(dataset.images[a], dataset.images[b])]
    told = []
    if torn:
        told.append(
            f"{len(torn)} pictures are in the set again with another label, as {named[torn[0][0]]} and "
            f"{named[torn[0][1]]}: correct the labels"
        )
    if equal:
        told.append(
            f"{len(equal)} pictures are in the set again, as {named[equal[0][0]]} and {named[equal[0][1]]}; a split "
            "keeps them together, but they count twice"
        )
    if near:
        told.append(
            f"{len(near)} pairs of pictures are all but equal though not of one patient, as {named[near[0][0]]} and "
            f"{named[near[0][1]]}: if they are copies in another size or format, leave one of each"
        )
    return tuple(told)


def _near(images: Tensor) -> list[tuple[int, int]]:
    """Places (smaller, larger) of any two pictures that differ by less than CLOSE."""
    small = torch.cat(
        [adaptive_avg_pool2d(part.float().mean(1, keepdim=True), SIDE).flatten(1) for part in images.split(CHUNK)]
    )
    places = (small.std(1) >= PLAIN).nonzero().squeeze(1)
    small = small[places]
    # The means of larger squares differ by no more than those of the smaller ones, so that a tree of a few numbers per
    # picture finds every pair that comes into question.
    coarse = adaptive_avg_pool2d(small.unflatten(1, (1, SIDE, SIDE)), COARSE).flatten(1)
    pairs = torch.from_numpy(cKDTree(coarse.numpy()).query_pairs(CLOSE * COARSE, output_type="ndarray"))
    close = torch.cat([(small[a] - small[b]).square().mean(1) < CLOSE**2 for a, b in (p.T for p in pairs.split(CHUNK))])
    return sorted((int(a), int(b)) for a, b in places[pairs[close]].tolist())
