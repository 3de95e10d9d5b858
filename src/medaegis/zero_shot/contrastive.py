"""CLIP's training as a recipe: an image and its own sentence are to be closer than any other pair of the batch.

Radford et al. 2021, figure 3. The trainer takes the steps, as for every classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.draws import Draws
from medaegis.errors import ConfigError
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier
from medaegis.models.dual_encoder import EMBEDDING, DualEncoder
from medaegis.models.learning import Batch, Trainer
from medaegis.zero_shot.prompts import prompt_tokens
from medaegis.zero_shot.sentences import PHRASES, PROMPTS, Phrase, report, sayings
from medaegis.zero_shot.tokens import WordTokenizer


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean of the two cross-entropies: of each image's own text among all, and of each text's own image.

    Args:
        images, texts: embeddings `(N, D)` of any length, in the same order.
        scale: what cosines are multiplied with.
    """
    logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@dataclass(frozen=True)
class Contrastive:
    """Images with findings, and sentences about these that are drawn anew for each step.

    After each step the text head is made of the prompts anew, so that what is measured and saved is the zero-shot
    classifier of these findings.

    Attributes:
        findings: their names, in the order of the labels.
        prompts: what the text head asks.
    """

    findings: tuple[str, ...]
    prompts: tuple[Phrase, ...] = PROMPTS
    replays, average, awp = 1, 0.0, 0.0

    @cached_property
    def tokenizer(self) -> WordTokenizer:
        """For the words of all sentences that are learned from."""
        return WordTokenizer.of(sayings(self.findings, PHRASES))

    def identity(self) -> dict[str, Any]:
        """Its `words` make the tokenizer again."""
        told = {"phrases": PHRASES, "prompts": self.prompts, "findings": self.findings, "words": self.tokenizer.words}
        return {"kind": "contrastive"} | told

    def losses(self, learner: Trainer, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        network = learner.classifier.network
        if not isinstance(network, DualEncoder):
            problem = f"{learner.classifier.backbone} has no text encoder"
            raise ConfigError("contrastive training", problem, "take clip-resnet18, or another backbone behind clip-")
        u = Draws(batch.seed, batch.ids, "report").uniform(len(self.findings), 3)
        told = [report(self.findings, there, of) for there, of in zip(batch.labels.tolist(), u, strict=True)]
        tokens = self.tokenizer(told).to(batch.x.device)
        yield lambda: contrastive_loss(learner.features(batch.x, EMBEDDING), network.text(tokens), network.scale)
        network.set_prompts(prompt_tokens(self.tokenizer, self.findings, self.prompts))

    def score(self, classifier: Classifier, dataset: Dataset, places: Sequence[int], *, seed: int) -> dict[str, Any]:
        return {}
