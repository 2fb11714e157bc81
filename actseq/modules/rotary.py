"""Rotary positions: pairs of values that are rotated by an angle.

Source: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), equation 15.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def turns_of(angles: Float[Tensor, "*shape"]) -> Complex[Tensor, "*shape"] | Float[Tensor, "*shape 2"]:
    """What `rotated` multiplies by: complex numbers, or their real and imaginary parts in an export to ONNX.

    ONNX has no complex numbers. Elsewhere they are 20 times as fast on a CPU.
    """
    if torch.onnx.is_in_onnx_export():
        return torch.stack([angles.cos(), angles.sin()], -1).float()
    turns = torch.polar(torch.ones_like(angles), angles)
    return turns.to(torch.complex64)


def rotated(
    x: Float[Tensor, "*batch size"], turns: Complex[Tensor, "*some pairs"] | Float[Tensor, "*some pairs 2"]
) -> Float[Tensor, "*batch size"]:
    """Pairs of neighbouring values, each rotated. This is done in single precision, whatever the precision of `x`.

    Args:
        x: values.
        turns: what `turns_of` gives, of a shape that goes with that of the pairs.
    """
    if not turns.is_complex():
        left, right = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
        cosine, sine = turns.unbind(-1)
        return torch.stack([left * cosine - right * sine, left * sine + right * cosine], -1).flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
