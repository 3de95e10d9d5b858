"""Zero-shot classification: findings that a dual encoder never had as classes, asked for by prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from medaegis.models.classifier import Classifier
from medaegis.models.dual_encoder import EMBEDDING, DualEncoder
from medaegis.models.wrapping import wrap
from medaegis.sizes import Size
from medaegis.zero_shot.sentences import PROMPTS, Phrase, sayings
from medaegis.zero_shot.tokens import Tokenizer


def prompt_tokens(tokenizer: Tokenizer, findings: Sequence[str], prompts: Sequence[Phrase]) -> Tensor:
    """For `DualEncoder.set_prompts`: int64 `(L, 2, P, T)`.

    Raises:
        ConfigError: a prompt that the tokenizer cannot read.
    """
    tokens = tokenizer(sayings(findings, prompts))
    return tokens.view(len(findings), 2, len(prompts), -1)


def zero_shot(
    network: DualEncoder,
    tokenizer: Tokenizer,
    findings: Sequence[str],
    *,
    size: Size,
    backbone: str,
    channels: Literal["gray", "rgb"] = "rgb",
    prompts: Sequence[Phrase] = PROMPTS,
    normalise: str = "clip",
) -> Classifier:
    """A classifier of these findings, which every attack can be aimed at: image encoder and fixed text head.

    Its logit for a finding is the similarity of the image with what is written where it is there, less that with what
    is written where it is not, times the network's scale. The network itself is given the text head.

    Args:
        tokenizer: the one that its text encoder learned with.
        size, channels, normalise: what the image encoder was trained with, as for any network.
        backbone: name that it is rebuilt by when it is saved, as `clip-ViT-B-16`.
        prompts: of each finding, said where it is there and where it is not; their mean is asked for.

    Raises:
        ConfigError: a prompt that the tokenizer cannot read, or images that the network does not take.
    """
    network.set_prompts(prompt_tokens(tokenizer, findings, prompts))
    return wrap(
        network,
        classes=findings,
        size=size,
        normalise=normalise,
        channels=channels,
        taps=(EMBEDDING,),
        outputs="logits",
        task="multi",
        backbone=backbone,
    )
