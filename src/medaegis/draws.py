"""Random numbers of images by counting: Philox 4x32-10 (Salmon 2011, "Parallel random numbers: as easy as 1, 2, 3").

A number is a function of seed, purpose, the image's number and its place alone: the same whatever the batch, its order
and size, and worked out for a whole batch at once, where its images are. Whole numbers and uniform ones are the same to
the bit on every device; normal ones but for the last bits of its log, sine and cosine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

ROUNDS = 10
WORD = 0xFFFFFFFF  # 32 bits
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by in a round
CACHED, HELD = 2**17, 2**24  # numbers made at once: what a processor's caches hold; what leaves memory to others

Words = tuple[Any, Any, Any, Any]  # int64 in [0, 2^32): tensors or, on a processor, NumPy arrays


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four random words for each counter of four words; shapes are broadcast.

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [f"{int(word):08x}" for word in philox((zero, zero, zero, zero), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    a, b, c, d = counter
    for turn in range(ROUNDS):
        # Products wrap at 64 bits. Only their low words count as `b` and `d`, which are cut at the end.
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        first, second = (word + turn * step & WORD for word, step in zip(key, WEYL, strict=True))
        a, b = (right >> 32 ^ b ^ first) & WORD, right
        c, d = (left >> 32 ^ d ^ second) & WORD, left
    return a, b & WORD, c, d & WORD


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of some images for one purpose; drawn again, they are the same.

    Every method gives `(N, *shape)` on the device of `ids`; the first numbers of an image do not depend on their count.

    Args:
        seed: of the run.
        ids: numbers of the images, int64 `(N,)`.
        purpose: what they are for; the numbers of two purposes have nothing to do with each other.
        step: a number in [0, 2^32) within the purpose, for all images or one each, int64 `(N,)`.

    >>> batch = Draws(0, torch.tensor([4, 7]), "start")
    >>> torch.equal(batch.uniform(3, 5)[1:], Draws(0, torch.tensor([7]), "start").uniform(3, 5))
    True
    >>> torch.equal(batch.uniform(3, 5), batch.at(1).uniform(3, 5))
    False
    """

    seed: int
    ids: Tensor
    purpose: str
    step: int | Tensor = 0

    def child(self, purpose: str) -> Draws:
        """The numbers of a purpose within this one."""
        return replace(self, purpose=f"{self.purpose}/{purpose}")

    def at(self, step: int | Tensor) -> Draws:
        """The numbers of another step."""
        return replace(self, step=step)

    def to(self, device: torch.device) -> Draws:
        step = self.step.to(device) if isinstance(self.step, Tensor) else self.step
        return replace(self, ids=self.ids.to(device), step=step)

    def __getitem__(self, rows: Tensor | slice) -> Draws:
        step = self.step[rows] if isinstance(self.step, Tensor) else self.step
        return replace(self, ids=self.ids[rows], step=step)

    def uniform(self, *shape: int) -> Tensor:
        """Float32 in [0, 1), of 24 bits."""
        return self._made(shape, 4, lambda words: [word >> 8 for word in words]).mul_(2**-24)

    def noise(self, *shape: int) -> Tensor:
        """Float32 in (-1, 1), uniform and symmetric, of 16 bits: enough for pixels of 8, at half the work."""
        made = self._made(shape, 8, lambda words: [half for word in words for half in (word & 0xFFFF, word >> 16)])
        return made.mul_(2**-15).add_(2**-16 - 1)

    def normal(self, *shape: int) -> Tensor:
        """Float32 of mean 0 and deviation 1, at most 5.8 from it (Box and Muller 1958)."""

        def pairs(words: Words) -> list[Any]:
            u, v, s, t = (torch.as_tensor(word >> 8).to(torch.float32).mul_(2**-24) for word in words)
            return [*_normal_pair(u, v), *_normal_pair(s, t)]

        return self._made(shape, 4, pairs)

    def signs(self, *shape: int) -> Tensor:
        """Float32, -1 or 1."""
        bits = _array(torch.arange(32, device=self.ids.device))
        made = self._made(shape, 4, lambda words: [word[..., None] >> bits & 1 for word in words], width=32)
        return made.mul_(2).sub_(1)

    def integers(self, count: int | Tensor, *shape: int) -> Tensor:
        """Int64 in [0, count), below 2^31, one count for all or one each `(N,)`; uneven by at most count / 2^32."""
        each = count.view(-1, *(1 for _ in shape)) if isinstance(count, Tensor) else count
        return self._made(shape, 4, list, dtype=torch.int64) * each >> 32

    def keys(self, *shape: int) -> Tensor:
        """Int64 of all 64 bits, to sort by: `keys(n).argsort(1)` is a random order, `keys(n).topk(k)` a choice of k."""
        return self._made(
            shape, 2, lambda words: [words[0] << 32 | words[1], words[2] << 32 | words[3]], dtype=torch.int64
        )

    def _made(
        self,
        shape: Sequence[int],
        parts: int,
        form: Callable[[Words], Sequence[Any]],
        *,
        width: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """`(N, *shape)` numbers; `form` makes so many parts of the words of a counter `(N, blocks)`, each so wide."""
        n, size, device = len(self.ids), math.prod(shape), self.ids.device
        digest = hashlib.blake2b(f"{self.seed}/{self.purpose}".encode(), digest_size=8).digest()
        key = int.from_bytes(digest[:4]), int.from_bytes(digest[4:])
        blocks = -(-size // (parts * width))
        numbers = torch.empty((n, blocks, parts, width), dtype=dtype, device=device)
        step = self.step if isinstance(self.step, Tensor) else torch.full((1,), self.step, device=device)
        out, image, turn = _array(numbers), _array(self.ids.view(-1, 1)), _array(step.view(-1, 1))
        stride = max(1, (CACHED if device.type == "cpu" else HELD) // (parts * width * max(1, n)))
        for start in range(0, blocks, stride):
            stop = min(start + stride, blocks)
            block = _array(torch.arange(start, stop, device=device))
            made = form(philox((block, turn, image & WORD, image >> 32 & WORD), key))
            for k, values in enumerate(made):
                out[:, start:stop, k] = values.reshape(n, stop - start, width)
        return numbers.flatten(1)[:, :size].reshape(n, *shape)


def _array(values: Tensor) -> Any:
    """On a processor a NumPy array over the same memory: its operators take less time to call than PyTorch's."""
    return values.numpy() if values.device.type == "cpu" else values


def _normal_pair(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Independent normal numbers from independent uniform ones, which are overwritten."""
    length, angle = u.neg_().log1p_().mul_(-2).sqrt_(), v.mul_(2 * math.pi)
    return length * angle.cos(), length * angle.sin()
