"""Sentences to token numbers: by words, or by the byte pairs of published CLIP weights (Sennrich 2016)."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from medaegis.errors import ConfigError
from medaegis.models.dual_encoder import CONTEXT, WORDS

_WORD = re.compile(r"[a-z0-9-]+")
_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")  # of ASCII, as CLIP cuts it
_START, _END, _LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
_MERGES = 49152 - 256 - 2  # of the published file, the first ones


class Tokenizer(ABC):
    """Sentences to int64 `(M, context)`: a start, the tokens, an end, which has the largest number, and zeros.

    Attributes:
        start, end: numbers of the first and the last token; context: the most tokens of a sentence, these two included.
    """

    start: int
    end: int
    context: int

    @abstractmethod
    def numbers(self, sentence: str) -> list[int]:
        """Of the tokens of one sentence; ConfigError where it has none."""

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Token numbers.

        Raises:
            ConfigError: a sentence that is too long, or that it cannot read.
        """
        tokens = torch.zeros(len(sentences), self.context, dtype=torch.int64)
        for row, sentence in zip(tokens, sentences, strict=True):
            found = [self.start, *self.numbers(sentence), self.end]
            if len(found) > self.context:
                problem = f"has {len(found)} tokens, and its text encoder reads {self.context}"
                raise ConfigError(f"sentence {sentence!r:.80}", problem, "make it shorter")
            row[: len(found)] = torch.tensor(found)
        return tokens


class WordTokenizer(Tokenizer):
    """A number for each word.

    >>> tokenizer = WordTokenizer.of(["there is a nodule", "no nodule"], size=16, context=6)
    >>> tokenizer(["No nodule."]).tolist()
    [[14, 3, 4, 15, 0, 0]]

    Args:
        words: all there are, without repetition.
        size: rows of the text encoder's table; as context, those of the small text encoder unless given.

    Raises:
        ConfigError: more words than the table has room for.
    """

    def __init__(self, words: Sequence[str], *, size: int = WORDS, context: int = CONTEXT) -> None:
        if len(words) > size - 3:
            raise ConfigError("words", f"there are {len(words)}, room is for {size - 3}", "take fewer findings")
        self.words, self.context = tuple(words), context
        self.start, self.end = size - 2, size - 1
        self._numbers = {word: number for number, word in enumerate(words, 1)}

    @classmethod
    def of(cls, sentences: Sequence[str], *, size: int = WORDS, context: int = CONTEXT) -> WordTokenizer:
        """For all words of these sentences."""
        words = {word for text in sentences for word in _WORD.findall(text.lower())}
        return cls(sorted(words), size=size, context=context)

    def numbers(self, sentence: str) -> list[int]:
        words = _WORD.findall(sentence.lower())
        for word in words:
            if word not in self._numbers:
                near = get_close_matches(word, self.words, n=3)
                remedy = f"near it: {', '.join(near)}" if near else f"it knows {', '.join(self.words[:20])} …"
                raise ConfigError(f"sentence {sentence!r:.80}", f"{word!r} was in no sentence it learned from", remedy)
        return [self._numbers[word] for word in words]


class BytePairs(Tokenizer):
    """The tokens of published CLIP weights. English in ASCII alone: what else would be read as, no local file says.

    Args:
        numbers: token -> number; merges: pairs of tokens, those that are joined first in front.

    Raises:
        ConfigError: numbers that do not fit the pairs.
    """

    def __init__(self, numbers: dict[str, int], merges: Sequence[tuple[str, str]], *, context: int = 77) -> None:
        missing = [token for token in (_START, _END, *map("".join, merges)) if token not in numbers]
        if missing:
            problem = f"{len(missing)} tokens that pairs are joined to have no number, as {missing[0]!r:.40}"
            raise ConfigError("byte pairs", problem, "give the two files of one tokenizer")
        self.start, self.end, self.context = numbers[_START], numbers[_END], context
        if self.end != max(numbers.values()):
            raise ConfigError("byte pairs", f"{_END} is not the last number", "give the tokenizer of a CLIP model")
        self._numbers, self._ranks = numbers, {pair: rank for rank, pair in enumerate(merges)}
        self._joined = cache(self._join)

    @classmethod
    def read(cls, merges: Path, vocabulary: Path | None = None, *, context: int = 77) -> BytePairs:
        """From Hugging Face's `merges.txt` and `vocab.json`, or `bpe_simple_vocab_16e6.txt` (.gz) alone.

        Raises:
            ConfigError: no such files, or others.
        """
        try:
            raw = merges.read_bytes()
            lines = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode().split("\n")
            told = None if vocabulary is None else json.loads(vocabulary.read_text(encoding="utf-8"))
        except (OSError, EOFError, ValueError, zlib.error) as error:  # a damaged .gz, no UTF-8, no JSON
            raise ConfigError(merges, f"cannot be read: {error}", "give the tokenizer's own files") from error
        pairs = [(pair[0], pair[1]) for line in lines[1 : _MERGES + 1] if len(pair := line.split()) == 2]
        if not pairs:
            raise ConfigError(merges, "holds no pairs of tokens", "give merges.txt or bpe_simple_vocab_16e6.txt")
        if told is None:
            letters = _letters()
            tokens = [*letters, *(letter + _LAST for letter in letters), *map("".join, pairs), _START, _END]
            told = {token: number for number, token in enumerate(tokens)}
        if not isinstance(told, dict) or not all(type(number) is int for number in told.values()):
            raise ConfigError(vocabulary or merges, "holds no numbers of tokens", "give vocab.json")
        return cls(told, pairs, context=context)

    def numbers(self, sentence: str) -> list[int]:
        if not sentence.isascii():
            raise ConfigError(f"sentence {sentence!r:.80}", "is not in ASCII", "write it in plain English letters")
        tokens = [token for piece in _PIECE.findall(sentence.lower()) for token in self._joined(piece)]
        unknown = [token for token in tokens if token not in self._numbers]
        if unknown:
            raise ConfigError(f"sentence {sentence!r:.80}", f"{unknown[0]!r} has no number", "leave it out")
        return [self._numbers[token] for token in tokens]

    def _join(self, piece: str) -> tuple[str, ...]:
        """Letters, of which the last is marked, joined pair by pair, the earliest known pair first."""
        parts = (*piece[:-1], piece[-1] + _LAST)
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda one: self._ranks.get(one, len(self._ranks)))
            if pair not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                # The left half of a pair stands at the end of what is joined so far.
                if joined and (joined[-1], part) == pair:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = tuple(joined)
        return parts


def _letters() -> list[str]:
    """The 256 bytes in the order of their numbers, each as the visible character that stands for it."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [*map(chr, seen), *(chr(256 + place) for place in range(len(hidden)))]
