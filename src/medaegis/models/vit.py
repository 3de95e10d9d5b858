"""Vision transformer with the keys and numerics of DeiT's and timm's weights.

Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; Touvron et al. 2021, DeiT, for the small sizes; Radford et al.
2021 for CLIP's form. Taps are blocks, which give tokens `(N, T, C)`, the token of the class first.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.errors import DataError

PATCH = 16  # pixels a side
GRID = 14  # patches a side for which the published places are, 224 pixels


class QuickGELU(nn.Module):
    """The approximation of GELU with which CLIP's first weights were trained (Hendrycks & Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        query, key, value = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.proj(seen.transpose(1, 2).reshape(n, tokens, width))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention, then two layers on each token, both normalised before and added (Vaswani 2017; Xiong 2020, pre-norm).

    Args:
        eps: of the norms; act: between the two layers.
        causal: whether a token sees those before it alone.
    """

    def __init__(
        self, width: int, heads: int, *, eps: float = 1e-6, act: type[nn.Module] = nn.GELU, causal: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = _Attention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        layers = OrderedDict(fc1=nn.Linear(width, 4 * width), act=act(), fc2=nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Blocks on square patches; for images of any multiple of their side, the learned places interpolated.

    Args:
        classes: outputs, or of CLIP's form the length of the embedding.
        width: of a token; heads: of attention; layers: how many blocks.
        patch: side in pixels; grid: patches a side for which the learned places are.
        clip: the activation of CLIP's form, which has a norm before the blocks too, norms of eps 1e-5, and no biases
            at its ends; None: DeiT's.

    Raises:
        DataError: in a pass, for images of other sides.
    """

    def __init__(
        self,
        classes: int,
        *,
        width: int,
        heads: int,
        layers: int = 12,
        patch: int = PATCH,
        grid: int = GRID,
        clip: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        plain, eps, act = clip is None, 1e-6 if clip is None else 1e-5, clip or nn.GELU
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid**2 + 1, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, patch, stride=patch, bias=plain)))
        self.norm_pre = nn.Identity() if plain else nn.LayerNorm(width, eps=eps)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, eps=eps, act=act) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.head = nn.Linear(width, classes, bias=plain)
        for weight in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch:
            told = f"{height} x {width} px, whose sides are no multiples of its patches of {self.patch} px"
            remedy = f"take a size such as {max(1, height // self.patch) * self.patch} px"
            raise DataError("vision transformer", f"images are {told}", remedy)
        patches: Tensor = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        tokens = self.norm_pre(tokens + self._places(height // self.patch, width // self.patch))
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]

    def _places(self, rows: int, columns: int) -> Tensor:
        """What is added to the tokens of so many rows and columns of patches, `(1, 1 + rows * columns, width)`."""
        grid = (self.grid, self.grid)
        if grid == (rows, columns):
            return self.pos_embed
        of_class, of_patches = self.pos_embed[:, :1], self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, grid)
        resized = F.interpolate(of_patches, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([of_class, resized.flatten(2).transpose(1, 2)], 1)
