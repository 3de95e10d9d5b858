"""Published CLIP weights from local files: state dicts of open_clip (and OpenAI's), and Hugging Face's CLIPModel.

Sizes are read from the weights. Two things they do not tell: the activation, and how many heads an attention has.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.models.dual_encoder import DualEncoder, TextTransformer
from medaegis.models.vit import QuickGELU, VisionTransformer
from medaegis.models.weights import load_state, read_weights

# What the two call the same weights, and what they are called here. Rules apply in this order, each to what is left.
_OPEN_CLIP = (
    (r"^(?!visual\.|logit_scale|text\.)", "text."),
    (r"^visual\.class_embedding$", "visual.cls_token"),
    (r"\bpositional_embedding$", "pos_embed"),
    (r"^visual\.conv1\.", "visual.patch_embed.proj."),
    (r"^visual\.ln_pre\.", "visual.norm_pre."),
    (r"\b(ln_post|ln_final)\.", "norm."),
    (r"\.(proj|text_projection)$", ".head.weight"),
    (r"\.transformer\.resblocks\.", ".blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_HUGGING_FACE = (
    (r"^vision_model\.", "visual."),
    (r"^text_model\.", "text."),
    (r"^(visual|text)_projection\.", r"\1.head."),
    (r"\.embeddings\.class_embedding$", ".cls_token"),
    (r"\.embeddings\.position_embedding\.weight$", ".pos_embed"),
    (r"\.embeddings\.patch_embedding\.", ".patch_embed.proj."),
    (r"\.embeddings\.token_embedding\.", ".token_embedding."),
    (r"\.pre_layrnorm\.", ".norm_pre."),  # so they spell it
    (r"\.(post_layernorm|final_layer_norm)\.", ".norm."),
    (r"\.encoder\.layers\.", ".blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
_NO_WEIGHTS = re.compile(r"(^|\.)(input_resolution|context_length|vocab_size|attn_mask|position_ids)$")


def load_clip(path: Path, *, quick_gelu: bool, head_width: int = 64) -> DualEncoder:
    """The dual encoder of a local .safetensors or .pth file, in eval mode, without a text head yet (see `zero_shot`).

    Args:
        quick_gelu: whether it was trained with CLIP's approximation of GELU: OpenAI's weights were, and Hugging Face's
            copies ("hidden_act": "quick_gelu" in config.json); those that open_clip trained mostly not.
        head_width: channels of one attention head: 64 in all published sizes but the very largest.

    Raises:
        ConfigError: unreadable file, another kind of network (ResNet towers among them), or weights that do not fit.
    """
    path = Path(path)
    state = {name: value for name, value in read_weights(path).items() if not _NO_WEIGHTS.search(name)}
    renamed = _from_hugging_face(state) if "visual_projection.weight" in state else _from_open_clip(state)
    act: type[nn.Module] = QuickGELU if quick_gelu else nn.GELU
    try:
        network = _shaped(renamed, act, head_width)
    except (KeyError, IndexError, ValueError, RuntimeError, AssertionError) as error:
        problem = f"is no CLIP with a vision transformer, by its names and shapes: {error}"
        raise ConfigError(path, problem, "give a state dict of open_clip, or a CLIPModel of Hugging Face") from error
    renamed["head"] = network.head
    load_state(network, renamed, path)
    return network.eval()


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {_renamed(name, _OPEN_CLIP): value.float() for name, value in state.items()}
    for name in ("visual.head.weight", "text.head.weight"):  # there they are multiplied from the right
        if name in found:
            found[name] = found[name].T
    return _shapes_of_tables(found)


def _from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        part = re.fullmatch(r"(.*\.)self_attn\.q_proj\.(weight|bias)", name)
        if part is not None:
            each = [state.get(f"{part[1]}self_attn.{which}_proj.{part[2]}", torch.empty(0)) for which in "qkv"]
            found[_renamed(f"{part[1]}attn.qkv.{part[2]}", _HUGGING_FACE)] = torch.cat(each).float()
        elif not re.search(r"\.self_attn\.[kv]_proj\.", name):
            found[_renamed(name, _HUGGING_FACE)] = value.float()
    return _shapes_of_tables(found)


def _shapes_of_tables(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in ("visual.cls_token", "visual.pos_embed"):
        if name in state:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(())
    return state


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _shaped(state: dict[str, Tensor], act: type[nn.Module], head_width: int) -> DualEncoder:
    """An empty network of the sizes that the weights have."""

    def layers(tower: str) -> int:
        return len({name.split(".")[2] for name in state if name.startswith(f"{tower}.blocks.")})

    def heads(width: int) -> int:
        if width % head_width:
            raise ValueError(f"{width} channels are no multiple of head_width={head_width}")
        return width // head_width

    width, _, patch, _ = state["visual.patch_embed.proj.weight"].shape
    grid = round((state["visual.pos_embed"].shape[1] - 1) ** 0.5)
    dim, seen = state["visual.head.weight"].shape[0], state["text.pos_embed"]
    words, narrow = state["text.token_embedding.weight"].shape
    visual = VisionTransformer(
        dim, width=width, heads=heads(width), layers=layers("visual"), patch=patch, grid=grid, clip=act
    )
    text = TextTransformer(
        dim, words=words, context=len(seen), width=narrow, heads=heads(narrow), layers=layers("text"), act=act
    )
    return DualEncoder(visual, text, dim=dim)
