"""Layers that the DiT is made of, and the fixed tables of positions.

Tables are computed in float32 and kept by size and device, for good, since a CUDA graph may read
them. They are arguments of the layers, not buffers, because casting a model to bfloat16 would cast
its buffers too (errors up to 0.11).
Rotations are written with cosines and sines: complex numbers do not compile.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x * (1 + scale) + shift, the affine map of AdaLN."""
    return torch.addcmul(shift, x, 1 + scale)


def to_patches(x: Tensor, patch_size: int) -> Tensor:
    """Return the patches of images (B, C, H, W), (B, N, C * P * P), tokens in row-major order."""
    (B, C, H, W), P = x.shape, patch_size
    tiles = x.reshape(B, C, H // P, P, W // P, P)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(B, H // P * (W // P), C * P * P)


def from_patches(patches: Tensor, patch_size: int, rows: int) -> Tensor:
    """Return the images, (B, C, H, W), of `to_patches`, with `rows` patches one above another."""
    (B, N, values), P = patches.shape, patch_size
    C, columns = values // P**2, N // rows
    tiles = patches.reshape(B, rows, columns, C, P, P)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(B, C, rows * P, columns * P)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, eps 1e-6, with a weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x, (..., width), normalised, in the dtype of x."""
        return self.weight * normalised(x)


def normalised(x: Tensor) -> Tensor:
    """Return x, (..., width), over its root mean square, summed in float32 or better."""
    exact = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    return (x * torch.rsqrt(norm.square() / x.shape[-1] + 1e-6)).to(x.dtype)


class TimeEmbedding(nn.Module):
    """Embed t in [0, 1] by 256 cosines and sines of maximum period 10, then Linear, SiLU, Linear.

    The features are cos then sin of t * 10**(-k / 128), k = 0..127, computed in float32.
    """

    num_frequencies = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * self.num_frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, t: Tensor) -> Tensor:
        """Return (B, D) for times (B,)."""
        exponents = torch.arange(self.num_frequencies, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * 10 ** (-exponents / self.num_frequencies)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


@cache
def rotary_table(
    rows: int, columns: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the cosines and signed sines that rotate a head's channels on a token grid.

    Positions along x and y run over linspace(0, 16, n) whatever the grid, so they are relative to
    the picture; frequencies are 10000**(-4k / head_dim), k = 0..head_dim/4 - 1; the pairs of
    channels alternate x, y, x, y, ... across the frequencies.

    Returns
    -------
    cos, sin : Tensor
        (rows * columns, head_dim), float32, tokens in row-major order. The sine of the first
        channel of each pair is negated, so that `x * cos + swapped(x) * sin` rotates.
    """
    with torch.inference_mode(False):
        frequencies = 10000 ** (-torch.arange(0, head_dim, 4, device=device) / head_dim)
        along_x = torch.linspace(0, 16, columns, device=device)[:, None] * frequencies
        along_y = torch.linspace(0, 16, rows, device=device)[:, None] * frequencies
        angles = torch.stack(
            [along_x[None].expand(rows, -1, -1), along_y[:, None].expand(-1, columns, -1)], dim=-1
        ).reshape(rows * columns, head_dim // 2)
        sign = torch.tensor([-1.0, 1.0], device=device)
        cos = angles.cos().repeat_interleave(2, dim=-1)
        sin = (angles.sin()[..., None] * sign).flatten(-2)
        return cos.clone(), sin.clone()  # no views: torch.compile looks at what they are views of


def swapped(x: Tensor) -> Tensor:
    """Return x, (..., head_dim), with the two channels of each pair in each other's place."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs of x, (..., N, head_dim), by a `rotary_table`, in float32."""
    cos, sin = rotation
    return torch.addcmul(x * cos, swapped(x), sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and a rotary embedding."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = RMSNorm(width // num_heads)
        self.key_norm = RMSNorm(width // num_heads)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return (B, N, D) for tokens (B, N, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3)  # (B, H, 3, N, .)
        # The weights of the two norms are folded into the rotation: (2, N, head_dim) once for all.
        weight = torch.stack([self.query_norm.weight, self.key_norm.weight])[:, None]
        cos, sin = (
            table * part for table, part in zip(rotation, (weight, swapped(weight)), strict=True)
        )
        q, k = rotate(normalised(qkv[:, :, :2]), (cos, sin)).unbind(2)
        mixed = F.scaled_dot_product_attention(q, k, qkv[:, :, 2])
        return self.output(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """The gated MLP w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner_width, bias=False)
        self.value = nn.Linear(width, inner_width, bias=False)
        self.output = nn.Linear(inner_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) for (..., width)."""
        return self.output(F.silu(self.gate(x)) * self.value(x))


class DiTBlock(nn.Module):
    """Attention and MLP, each behind an RMSNorm that the conditioning shifts, scales and gates."""

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp_norm = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, conditioning: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return (B, N, D) for tokens (B, N, D) and conditioning (B, 1, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(conditioning).chunk(
            6, dim=-1
        )
        mixed = self.attention(modulate(self.attention_norm(x), shift_a, scale_a), rotation)
        x = torch.addcmul(x, gate_a, mixed)
        return torch.addcmul(x, gate_m, self.mlp(modulate(self.mlp_norm(x), shift_m, scale_m)))
