"""Image and text: dual encoders that are asked for findings by prompts, trained here or published."""

from medaegis.zero_shot.checkpoints import load_clip
from medaegis.zero_shot.contrastive import Contrastive, contrastive_loss
from medaegis.zero_shot.prompts import zero_shot
from medaegis.zero_shot.sentences import PHRASES, PROMPTS, report
from medaegis.zero_shot.tokens import BytePairs, Tokenizer, WordTokenizer

__all__ = [
    "PHRASES",
    "PROMPTS",
    "BytePairs",
    "Contrastive",
    "Tokenizer",
    "WordTokenizer",
    "contrastive_loss",
    "load_clip",
    "report",
    "zero_shot",
]
