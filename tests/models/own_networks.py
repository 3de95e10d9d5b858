"""Small networks as others bring them: a transformer on tokens, one logit, a dict, probabilities."""

from collections import OrderedDict, namedtuple

import torch
from tests.models.tiny_networks import Tiny, lived_in
from torch import Tensor, nn


class TinyViT(nn.Module):
    """Patches of 4 x 4 pixels, a class token, two transformer blocks; for images of 16 pixels, 17 tokens."""

    def __init__(self, classes: int, size: int = 16, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, (size // 4) ** 2 + 1, width))
        nn.init.normal_(self.places, std=0.5)
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.Sequential(*(type(layer)(width, 2, 16, 0.0, batch_first=True) for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        return self.head(self.blocks(tokens).mean(1))


class Ends(nn.Module):
    """The tiny network with something done to its outputs."""

    def __init__(self, end, outputs: int = 2) -> None:
        super().__init__()
        self.body, self.end = lived_in(Tiny(outputs)), end

    def forward(self, x: Tensor):
        return self.end(self.body(x))


class Answer(OrderedDict):
    """A dict whose entries are attributes too, as libraries of transformers return."""

    __getattr__ = OrderedDict.__getitem__


Pair = namedtuple("Pair", "features logits")

ENDS = {
    "column": (lambda y: y, 1),
    "row": (lambda y: y[:, 0], 1),
    "squeezed": (lambda y: y.squeeze(), 1),
    "dict": (lambda y: {"features": y * 0, "logits": y}, 2),
    "object": (lambda y: Answer(loss=None, logits=y), 2),
    "tuple": (lambda y: (y * 0, y), 2),
    "named": (lambda y: Pair(y * 0, y), 2),
    "softmax": (lambda y: y.softmax(1), 2),
    "sigmoid": (lambda y: y.sigmoid(), 1),
    "each": (lambda y: y.sigmoid(), 2),
    "numbers": (lambda y: y.argmax(1), 2),
}


def network(name: str) -> nn.Module:
    """One of `ENDS`; those of as many outputs have the same weights."""
    end, outputs = ENDS[name]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Ends(end, outputs).eval()


def vit(classes: int) -> nn.Module:
    return TinyViT(classes)


def one_logit() -> nn.Module:
    """A factory that takes no number of classes."""
    return network("column")


def in_a_dict(classes: int) -> nn.Module:
    return network("dict")


def in_a_softmax(classes: int) -> nn.Module:
    return network("softmax")


def own(name: str, **options):
    """A classifier of two classes on one of `ENDS`."""
    from medaegis.models.classifier import Classifier

    told = {"classes": ("a", "b"), "size": 16, "channels": "rgb", "taps": ("body.relu",), "backbone": "own:network"}
    return Classifier(network(name), **{**told, "mean": (0.5,), "std": (0.25,), **options}).eval()


def images(n: int = 6, channels: int = 3) -> Tensor:
    """8-bit pixels."""
    return torch.randint(0, 256, (n, channels, 16, 16), generator=torch.Generator().manual_seed(1)).float() / 255
