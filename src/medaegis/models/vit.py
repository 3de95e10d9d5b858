"""Vision transformer with the keys and numerics of DeiT's and timm's weights.

Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; Touvron et al. 2021, DeiT, for the small sizes. Taps are blocks,
which give tokens `(N, T, C)`, the token of the class first.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.errors import DataError

PATCH = 16  # pixels a side
GRID = 14  # patches a side for which the published places are, 224 pixels


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        query, key, value = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(1, 2).reshape(n, tokens, width))  # type: ignore[no-any-return]


class _TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        layers = OrderedDict(fc1=nn.Linear(width, 4 * width), act=nn.GELU(), fc2=nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Twelve blocks on patches of 16 x 16 pixels; for images of any multiple of that, the learned places interpolated.

    Raises:
        DataError: in a pass, for images of other sides.
    """

    def __init__(self, classes: int, *, width: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID**2 + 1, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH, stride=PATCH)))
        self.blocks = nn.Sequential(*(_TransformerBlock(width, heads) for _ in range(12)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        for weight in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % PATCH or width % PATCH:
            problem = f"images are {height} x {width} px, whose sides are no multiples of its patches of {PATCH} px"
            raise DataError("vision transformer", problem, f"take a size such as {max(1, height // PATCH) * PATCH} px")
        patches: Tensor = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self._places(height // PATCH, width // PATCH)
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]

    def _places(self, rows: int, columns: int) -> Tensor:
        """What is added to the tokens of so many rows and columns of patches, `(1, 1 + rows * columns, width)`."""
        if rows == columns == GRID:
            return self.pos_embed
        of_class, of_patches = self.pos_embed[:, :1], self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))
        resized = F.interpolate(of_patches, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([of_class, resized.flatten(2).transpose(1, 2)], 1)
