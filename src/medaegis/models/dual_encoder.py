"""CLIP-like dual encoders: one network for images, one for text, whose embeddings can be compared.

Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, section 2.4 and figure 3. As
a classifier one answers by a text head: for each finding the embedding of what is written of images that have it, less
that of images without. The head is worked out once (`set_prompts`) and stored, so that no pass over images reads text.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.models.backbones import backbone, backbones, seeded
from medaegis.models.vit import QuickGELU, TransformerBlock, VisionTransformer

PREFIX = "clip-"
EMBEDDING = "visual"  # the tap that gives an image's embedding `(N, D)`, of any length
WORDS, CONTEXT, WIDTH, DIM = 512, 64, 64, 64  # of the small text encoder: table, longest sentence, token, embedding
LARGEST_SCALE = 100.0  # of similarities (Radford 2021, section 2.5)
SMALL = "clip-small"
_PUBLISHED: dict[str, type[nn.Module]] = {"clip-ViT-B-16": nn.GELU, "clip-ViT-B-16-quickgelu": QuickGELU}


class TextTransformer(nn.Module):
    """Token numbers `(M, T)` to embeddings `(M, D)`: what its last token, the one of the largest number, has seen."""

    def __init__(
        self, dim: int, *, words: int, context: int, width: int, heads: int, layers: int, act: type[nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.pos_embed = nn.Parameter(torch.zeros(context, width))
        blocks = (TransformerBlock(width, heads, eps=1e-5, act=act, causal=True) for _ in range(layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dim, bias=False)
        for table in (self.token_embedding.weight, self.pos_embed):  # small beside what the blocks add to them
            nn.init.normal_(table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        ends = tokens.argmax(1)
        tokens = tokens[:, : int(ends.max()) + 1]  # what comes after the end is seen by nobody
        x = self.token_embedding(tokens) + self.pos_embed[: tokens.shape[1]]
        last = self.blocks(x)[torch.arange(len(x), device=x.device), ends]
        return self.head(self.norm(last))  # type: ignore[no-any-return]


def small_image_encoder(dim: int) -> nn.Sequential:
    """Six convolutions, about a seventeenth of ResNet-18's work; normalised within an image, as transformers are."""
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(4, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, dim))


class DualEncoder(nn.Module):
    """Images `(N, 3, H, W)` to one logit for each finding `(N, L)`, by its text head.

    Args:
        visual: images to embeddings `(N, D)`.
        text: tokens to embeddings `(M, D)`.
        dim: D.
        classes: L, how many findings the text head is for; it is zero until `set_prompts`.
    """

    head: Tensor

    def __init__(self, visual: nn.Module, text: nn.Module, *, dim: int, classes: int = 0) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("head", torch.zeros(classes, dim))

    @property
    def scale(self) -> Tensor:
        """What similarities are multiplied with, the inverse of the temperature."""
        return self.logit_scale.clamp(max=math.log(LARGEST_SCALE)).exp()

    def forward(self, x: Tensor) -> Tensor:
        # Who learns from answers changes the image encoder alone: the head is fixed, and so is the scale.
        return self.scale.detach() * F.normalize(self.visual(x), dim=1) @ self.head.T

    @torch.no_grad()
    def set_prompts(self, tokens: Tensor) -> None:
        """Ask for findings by these prompts: tokens `(L, 2, P, T)`, of each P that it is there, and P that it is not.

        Embeddings of an ensemble are averaged on the sphere (Radford 2021, section 3.1.4).
        """
        findings, both, prompts, length = tokens.shape
        each = F.normalize(self.text(tokens.reshape(-1, length).to(self.head.device)), dim=1)
        there, gone = F.normalize(each.view(findings, both, prompts, -1).mean(2), dim=2).unbind(1)
        self.head = there - gone


def is_dual_encoder(name: str) -> bool:
    """Whether this is the name of a dual encoder."""
    return name.startswith(PREFIX)


def create_dual_encoder(name: str, *, classes: int, seed: int = 0) -> DualEncoder:
    """A dual encoder whose random weights are a function of `seed` alone.

    >>> create_dual_encoder("clip-small", classes=4)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 4])

    Args:
        name: `clip-small`, or `clip-` and a registered backbone, whose last layer then gives the embedding, each beside
            a small text encoder; or `clip-ViT-B-16`, with `-quickgelu` for weights that were trained with that.
        classes: findings of its text head.

    Raises:
        ConfigError: unknown name.
    """
    act, inner = _PUBLISHED.get(name), name.removeprefix(PREFIX)
    if act is None and name != SMALL and inner not in backbones():
        remedy = f"give {SMALL}, {', '.join(_PUBLISHED)}, or {PREFIX} and one of {', '.join(backbones())}"
        raise ConfigError(f"dual encoder {name!r:.60}", "not registered", remedy)
    with seeded(seed):
        if act is not None:
            visual: nn.Module = VisionTransformer(512, width=768, heads=12, clip=act)
            text = TextTransformer(512, words=49408, context=77, width=512, heads=8, layers=12, act=act)
            return DualEncoder(visual, text, dim=512, classes=classes)
        visual = small_image_encoder(DIM) if name == SMALL else backbone(inner).build(DIM)
        text = TextTransformer(DIM, words=WORDS, context=CONTEXT, width=WIDTH, heads=4, layers=2)
        return DualEncoder(visual, text, dim=DIM, classes=classes)
