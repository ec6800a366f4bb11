"""Attention for decoding on a CPU: one query token against a long cache.

torch's CPU kernel for scaled_dot_product_attention repeats grouped key heads and is slow for a single query: half of a
decoding step of a small model. Two batched matrix products read each key and value once.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "longloom_cpu"
_OTHER_MATHS = ("softcap", "s_aux", "sinks", "position_bias")  # arguments of architectures with other attention


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers asks of an attention function: query (batch, heads, 1, size), key and value (batch, key heads,
    length, size), a boolean mask (batch, 1, 1, length) or None; returns (batch, 1, heads, size)."""
    batch, heads, length, size = query.shape
    if length > 1 or any(options.get(name) is not None for name in _OTHER_MATHS):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return result
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
    scores = (grouped @ key.transpose(2, 3)).float() * (scaling if scaling is not None else size**-0.5)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, float("-inf"))
    mixed = scores.softmax(-1).to(value.dtype) @ value
    return mixed.view(batch, 1, heads, size), None


def register() -> str:
    """The name to load a model with (`attn_implementation`)."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
