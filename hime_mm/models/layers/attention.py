# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor


def masked_attention(attn: MultiheadAttention, x: Tensor,
                     key_mask: Tensor) -> Tensor:
    """Run MMPretrain's attention with some keys left out.

    MMPretrain's module takes no mask. This one is broadcast over heads and
    queries by the fused kernels: no map of tokens x tokens is made for it.

    Args:
        attn (:obj:`MultiheadAttention`): The module whose weights are used.
        x (Tensor): Tokens, shape (B, L, D).
        key_mask (Tensor): bool, shape (B, L), True where a token may be
            attended to. Each row needs at least one True.

    Returns:
        Tensor: Shape (B, L, D).
    """
    b, length, _ = x.shape
    q, k, v = attn.qkv(x).reshape(b, length, 3, attn.num_heads,
                                  attn.head_dims).permute(2, 0, 3, 1, 4)
    out = attn.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=key_mask[:, None, None, :],
        dropout_p=attn.attn_drop if attn.training else 0.)
    out = attn.proj(out.transpose(1, 2).reshape(b, length, attn.embed_dims))
    out = attn.out_drop(attn.gamma1(attn.proj_drop(out)))
    return v.squeeze(1) + out if attn.v_shortcut else out
