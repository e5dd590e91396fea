"""Attention in the form that every TensorRT version fuses correctly, for transformers' models.

The query is scaled before the product, which keeps FP16 scores small (TensorRT issues 4328 and
4333). Whatever is added to the scores (relative positions, the mask of shifted windows) is one
constant; between the two products there are only this addition and Softmax. Most models get this
form through transformers' AttentionInterface (`interface`); modules that implement attention
themselves get a new forward (`rewrite`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from edge.errors import require

__all__ = ["interface", "rewrite"]

# Lower bound of a vector's length: FP16's smallest normal number. Shorter vectors are all zeros, as
# those of padding.
SHORTEST = 2.0**-14


def interface(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Attention as transformers' AttentionInterface calls it, [batch, heads, tokens, head size].

    query, key and value have this shape; the result is [batch, tokens, heads, head size]. Pictures
    have no padding: `mask` is what the model adds to the scores, such as relative positions.
    """
    return _mixed(query * scaling, key, value, mask).transpose(1, 2).contiguous(), None


def rewrite(model: Any) -> None:
    """Change the modules of a torch model that would not be exported in the form above.

    The model must then run once before it is traced: values that do not depend on the image are
    computed in that run, and are constants in the trace.
    """
    torch = require("torch")
    written = {
        "DINOv3ViTAttention": _dinov3,
        "SwinAttention": _swin,
        "Swinv2SelfAttention": _swinv2,
        "MobileViTSelfAttention": _mobilevit,
        "SiglipMultiheadAttentionPoolingHead": _siglip_pooling,
    }
    for module in model.modules():
        kind = type(module).__name__
        if kind in written:
            module.forward = written[kind](module)
        elif kind == "BeitRelativePositionBias":
            module.forward = _once(module.forward)
        elif kind in ("SwinLayer", "Swinv2Layer"):
            module.get_attn_mask = _once(module.get_attn_mask)
        elif kind == "AdaptiveAvgPool1d" and module.output_size == 1:
            # It would be exported as a Gather with indices that are computed for each batch.
            module.forward = partial(torch.mean, dim=-1, keepdim=True)


def _once(make: Any) -> Any:
    """A function that always returns the first result of `make`; an engine has one image size."""
    results: list[Any] = []

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not results:
            results.append(make(*arguments, **keywords))
        return results[0]

    return call


def _mixed(query: Any, key: Any, value: Any, bias: Any = None) -> Any:
    """The values mixed by attention, [batch, heads, tokens, head size].

    query, key, value: of the same shape, the query scaled. bias: broadcastable to the scores
    [batch, heads, tokens, tokens].
    """
    scores = query @ key.transpose(2, 3)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ value


def _in_windows(query: Any, key: Any, value: Any, constant: Any) -> Any:
    """Attention within windows, [batch * windows, tokens, channels].

    query, key, value: [batch * windows, heads, tokens, head size]. constant: added to the scores,
    [windows or 1, heads, tokens, tokens]. Where it differs between windows, the windows are treated
    as further heads, so that the constant fits any batch.
    """
    _, heads, tokens, size = query.shape
    if len(constant) > 1:
        many = len(constant) * heads
        query, key, value = (each.reshape(-1, many, tokens, size) for each in (query, key, value))
        constant = constant.reshape(1, many, tokens, tokens)
    mixed = _mixed(query, key, value, constant).reshape(-1, heads, tokens, size)
    return mixed.transpose(1, 2).reshape(-1, tokens, heads * size)


def _added(bias: Any, mask: Any) -> Any:
    """The constant for the scores, [windows or 1, heads, tokens, tokens].

    bias: [heads, tokens, tokens]. mask: of shifted windows, [windows, tokens, tokens].
    """
    return bias[None] if mask is None else bias[None] + mask[:, None]


def _split(states: Any, size: int) -> Any:
    """[batch, tokens, channels] -> [batch, heads, tokens, head size]."""
    return states.view(*states.shape[:2], -1, size).transpose(1, 2)


def _dinov3(module: Any) -> Any:
    """DINOv3: rotary positions (RoPE), as two constants for all tokens.

    Where rotary positions are computed in the graph, or tiled, TensorRT computes wrong ones or
    splits the graph (romav2-onnx 6, lightly-train 783, TensorRT 4723). The class token and the
    registers are not rotated: their cosine is 1 and their sine 0.
    """
    torch = require("torch")
    size = module.head_dim

    def prefixed(table: Any, tokens: int, value: float) -> Any:
        prefix = torch.full((tokens - len(table), size), value)
        return torch.cat((prefix, table))

    def tables(positions: tuple[Any, Any], tokens: int) -> tuple[Any, Any]:
        cos, sin = positions
        first, second = sin.chunk(2, -1)  # (-b, a) * sin is (b, a) * (-first, second)
        return prefixed(cos, tokens, 1.0), prefixed(torch.cat((-first, second), -1), tokens, 0.0)

    constant = _once(tables)

    def rotated(states: Any, factor: float) -> Any:
        cos, sin = constant()
        first, second = states.chunk(2, -1)
        return states * (cos * factor) + torch.cat((second, first), -1) * (sin * factor)

    def forward(
        hidden_states: Any, attention_mask: Any = None, position_embeddings: Any = None, **_: Any
    ) -> tuple[Any, None]:
        constant(position_embeddings, hidden_states.shape[1])
        query, key, value = (
            _split(each(hidden_states), size)
            for each in (module.q_proj, module.k_proj, module.v_proj)
        )
        mixed = _mixed(rotated(query, module.scaling), rotated(key, 1.0), value)
        return module.o_proj(mixed.transpose(1, 2).flatten(2)), None

    return forward


def _swin(module: Any) -> Any:
    size = module.head_dim
    constant = _once(lambda mask: _added(module.relative_position_bias()[0], mask))

    def forward(states: Any, mask: Any = None, **_: Any) -> tuple[Any, None]:
        query = _split(module.q_proj(states), size) * module.scaling
        key, value = (_split(each(states), size) for each in (module.k_proj, module.v_proj))
        return module.o_proj(_in_windows(query, key, value, constant(mask))), None

    return forward


def _swinv2(module: Any) -> Any:
    """Swinv2: the scores are cosines, times a factor per head; the mask is added twice."""
    torch = require("torch")
    size, area = module.attention_head_size, module.window_size[0] * module.window_size[1]
    shortest = torch.tensor(SHORTEST)

    def positions() -> Any:
        table = module.continuous_position_bias_mlp(module.relative_coords_table)
        table = table.view(-1, module.num_attention_heads)[module.relative_position_index.view(-1)]
        return 16 * torch.sigmoid(table.view(area, area, -1).permute(2, 0, 1).contiguous())

    constant = _once(lambda mask: _added(positions(), None if mask is None else 2 * mask))
    scale = _once(lambda: torch.clamp(module.logit_scale, max=math.log(100)).exp())

    def unit(states: Any) -> Any:
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        # Not clamp: TensorRT gives a Clip without a maximum FP32's largest number as maximum.
        return states / torch.maximum(length, shortest)

    def forward(states: Any, mask: Any = None, *_: Any, **__: Any) -> tuple[Any]:
        query, key, value = (
            _split(each(states), size) for each in (module.query, module.key, module.value)
        )
        return (_in_windows(unit(query) * scale(), unit(key), value, constant(mask)),)

    return forward


def _mobilevit(module: Any) -> Any:
    size = module.attention_head_size

    def forward(states: Any) -> Any:
        query, key, value = (
            _split(each(states), size) for each in (module.query, module.key, module.value)
        )
        mixed = _mixed(query * size**-0.5, key, value)
        return mixed.transpose(1, 2).reshape(*states.shape[:2], -1)

    return forward


def _siglip_pooling(module: Any) -> Any:
    """SigLIP's pooling: tokens [batch, tokens, channels] -> [batch, channels]; constant query.

    The graph of torch's MultiheadAttention would have no Linears like those of a block.
    """
    linear, inside = require("torch").nn.functional.linear, module.attention
    size = inside.head_dim
    weights, biases = inside.in_proj_weight.chunk(3), inside.in_proj_bias.chunk(3)
    query = _split(linear(module.probe, weights[0], biases[0]), size) * size**-0.5

    def forward(tokens: Any) -> Any:
        key, value = (_split(linear(tokens, weights[at], biases[at]), size) for at in (1, 2))
        mixed = _mixed(query, key, value).transpose(1, 2).flatten(2)
        residual = inside.out_proj(mixed)
        return (residual + module.mlp(module.layernorm(residual)))[:, 0]

    return forward
