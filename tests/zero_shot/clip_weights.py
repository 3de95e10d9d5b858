"""A tiny CLIP as open_clip writes it, and what it computes by PyTorch's own encoder."""

import torch
from torch import Tensor, nn

WIDTH, NARROW, DIM, PATCH, GRID, LAYERS, WORDS, CONTEXT, HEAD = 16, 12, 6, 8, 2, 2, 20, 9, 4


def open_clip_state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    state = {
        "visual.class_embedding": drawn(WIDTH),
        "visual.positional_embedding": drawn(GRID**2 + 1, WIDTH),
        "visual.conv1.weight": drawn(WIDTH, 3, PATCH, PATCH),
        "visual.proj": drawn(WIDTH, DIM),
        "token_embedding.weight": drawn(WORDS, NARROW),
        "positional_embedding": drawn(CONTEXT, NARROW),
        "text_projection": drawn(NARROW, DIM),
        "logit_scale": torch.tensor(2.0),
    }
    for name, width in (("visual.ln_pre", WIDTH), ("visual.ln_post", WIDTH), ("ln_final", NARROW)):
        state |= {f"{name}.weight": 1 + drawn(width), f"{name}.bias": drawn(width)}
    for tower, width in (("visual.", WIDTH), ("", NARROW)):
        for layer in range(LAYERS):
            block = f"{tower}transformer.resblocks.{layer}"
            state |= {
                f"{block}.attn.in_proj_weight": drawn(3 * width, width),
                f"{block}.attn.in_proj_bias": drawn(3 * width),
                f"{block}.attn.out_proj.weight": drawn(width, width),
                f"{block}.attn.out_proj.bias": drawn(width),
                f"{block}.mlp.c_fc.weight": drawn(4 * width, width),
                f"{block}.mlp.c_fc.bias": drawn(4 * width),
                f"{block}.mlp.c_proj.weight": drawn(width, 4 * width),
                f"{block}.mlp.c_proj.bias": drawn(width),
            }
            for norm in ("ln_1", "ln_2"):
                state |= {f"{block}.{norm}.weight": 1 + drawn(width), f"{block}.{norm}.bias": drawn(width)}
    return state


def hugging_face_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of CLIPModel, queries, keys and values apart."""
    found = {
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(GRID**2 + 1)[None],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    names = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    for theirs, name in (names | {"ln_final": "text_model.final_layer_norm"}).items():
        found |= {f"{name}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    parts = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts |= {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    for tower, name in (("visual.", "vision_model"), ("", "text_model")):
        for layer in range(LAYERS):
            block, other = f"{tower}transformer.resblocks.{layer}", f"{name}.encoder.layers.{layer}"
            for kind in ("weight", "bias"):
                for which, part in zip("qkv", state[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                    found[f"{other}.self_attn.{which}_proj.{kind}"] = part.contiguous()
                found |= {f"{other}.{there}.{kind}": state[f"{block}.{here}.{kind}"] for here, there in parts.items()}
    return found


def _encoder(state: dict[str, Tensor], prefix: str, width: int, *, quick: bool) -> nn.Module:
    activation = (lambda x: x * torch.sigmoid(1.702 * x)) if quick else nn.functional.gelu
    layer = nn.TransformerEncoderLayer(
        width, width // HEAD, 4 * width, dropout=0.0, activation=activation, batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    names = {"attn.": "self_attn.", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2", "ln_1": "norm1", "ln_2": "norm2"}
    weights = {}
    for key, value in state.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            weights[f"layers.{name}"] = value
    encoder.load_state_dict(weights)
    return encoder.double().eval()


def _norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def image_embeddings(state: dict[str, Tensor], x: Tensor, *, quick: bool) -> Tensor:
    double = {key: value.double() for key, value in state.items()}
    cut = x.double().unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    patches = cut @ double["visual.conv1.weight"].flatten(1).T
    first = double["visual.class_embedding"].expand(len(x), 1, -1)
    tokens = torch.cat([first, patches], 1) + double["visual.positional_embedding"]
    encoder = _encoder(state, "visual.transformer.resblocks.", WIDTH, quick=quick)
    seen = encoder(_norm(tokens, double, "visual.ln_pre"))[:, 0]
    return _norm(seen, double, "visual.ln_post") @ double["visual.proj"]


def text_embeddings(state: dict[str, Tensor], tokens: Tensor, *, quick: bool) -> Tensor:
    """Of whole rows, what comes after the end too; a mask keeps it from being seen."""
    double = {key: value.double() for key, value in state.items()}
    x = double["token_embedding.weight"][tokens] + double["positional_embedding"]
    mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT, dtype=torch.float64)
    seen = _norm(
        _encoder(state, "transformer.resblocks.", NARROW, quick=quick)(x, mask=mask, is_causal=True), double, "ln_final"
    )
    ends = [row.index(max(row)) for row in tokens.tolist()]
    return torch.stack([row[end] for row, end in zip(seen, ends, strict=True)]) @ double["text_projection"]
