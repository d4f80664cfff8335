"""The pixel decoder: an attention-free network on single pixels, steered by the DiT's condition.

For a token's condition s and the pixel at place p of its patch,

    h   = W2(W1[pixel, features of p])            y = the p-th d-vector of W s
    h  += gate * MLP(LayerNorm(h) * (1 + scale) + shift)     [shift, scale, gate] = V silu(y)
    velocity = Linear(LayerNorm(h))

There is no spatial mixing: given s, an output pixel depends on the same input pixel, on its place
and on its patch's token only. The patch size only unfolds a token's condition onto its pixels.

Two ablations of Table 4 in [1] are options of the configuration. With `decoder_patch` q, the
decoder works on units of q x q pixels as it does on single ones: a unit's 3 q^2 values come in,
3 q^2 go out, and its place is one of the (P/q) x (P/q) in the patch. With `decoder_conditioning`
"add", y joins h once and no block is modulated:

    h   = W2(W1[pixel, features of p]) + y
    h  += MLP(LayerNorm(h))

What does not depend on pixels is multiplied out first, exactly: the two layers before h become one
3 x d matrix and a table of one d-vector a place, and the LayerNorm's affine part joins the AdaLN:

    LayerNorm(h) * (1 + scale) + shift = n * A + C,      n = (h - mean) / std

with A, C and gate of all blocks from one linear layer of silu(y). Without gradients the pixels are
decoded in pieces, whose vectors fit a CPU's cache, and which bound the memory of a GPU.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.2 and Table 4.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.config import DeCoConfig

NUM_POSITION_FEATURES = 64
UNITS_AT_ONCE_ON_A_CPU, UNITS_AT_ONCE = 2**12, 2**21
"""Units that are decoded together: of width 32, half a MiB for each vector of all of them on a CPU,
and elsewhere in bfloat16 1.2 GB for three blocks' C, A and gate."""


@cache
def position_features(side: int, device: torch.device) -> Tensor:
    """Return the 64 features of each place of a grid, (G * G, 64), float32, in row-major order.

    The grid is that of a patch's units, G = P / q of them along a side: its pixels where q is 1.
    Feature (i, j) of place (row, column), both on linspace(0, 1, G), with frequencies f on
    linspace(0, 8, 8), is cos(pi column f_i) cos(pi row f_j) / (1 + f_i f_j), i the outer index.
    """
    with torch.inference_mode(False):
        place = torch.linspace(0, 1, side, device=device)
        frequencies = torch.linspace(0, 8, 8, device=device)
        waves = torch.cos(torch.pi * place[:, None] * frequencies)
        damping = 1 / (1 + frequencies[:, None] * frequencies)
        features = torch.einsum("ci,rj,ij->rcij", waves, waves, damping)
        return features.reshape(side**2, NUM_POSITION_FEATURES)


def _exact(weight: Tensor) -> Tensor:
    """Return a weight in float32 or better, to be multiplied out."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


class PixelBlock(nn.Module):
    """LayerNorm, AdaLN and a two-layer MLP on each pixel's vector, with a gated residual.

    Without modulation h + MLP(LayerNorm(h)), for the ablation that adds the condition. How it
    starts is our choice: the MLP's last layer is zero, so that every block starts as the identity,
    as the published ones do by their gates.
    """

    def __init__(self, width: int, modulated: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        first, last = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        self.modulation = nn.Linear(width, 3 * width) if modulated else None
        nn.init.xavier_uniform_(first.weight)
        if self.modulation is not None:
            nn.init.xavier_uniform_(last.weight)
        zero = last if self.modulation is None else self.modulation
        for parameter in (first.bias, last.bias, *zero.parameters()):
            nn.init.zeros_(parameter)

    def folded_modulation(self) -> tuple[Tensor, Tensor]:
        """Return weight (3d, d) and bias (3d,) of the layer from silu(y) to C, A and gate."""
        assert self.modulation is not None
        shift, scale, gate = _exact(self.modulation.weight).chunk(3)
        shift_bias, scale_bias, gate_bias = _exact(self.modulation.bias).chunk(3)
        weight, bias = _exact(self.norm.weight), _exact(self.norm.bias)
        folded = [shift + bias[:, None] * scale, weight[:, None] * scale, gate]
        biases = [shift_bias + bias * (1 + scale_bias), weight * (1 + scale_bias), gate_bias]
        return torch.cat(folded), torch.cat(biases)

    def forward(self, h: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Return (..., d) for pixel vectors (..., d) and their C, A and gate, (..., 3d), if any."""
        if modulation is None:
            return h + self.mlp(self.norm(h))
        C, A, gate = modulation.chunk(3, dim=-1)
        normal = F.layer_norm(h, h.shape[-1:], eps=self.norm.eps)
        return torch.addcmul(h, gate, self.mlp(torch.addcmul(C, normal, A)))


class PixelDecoder(nn.Module):
    """Noisy pixels and the DiT's condition to velocity, pixel by pixel (or unit by unit)."""

    def __init__(self, config: DeCoConfig) -> None:
        super().__init__()
        d = config.decoder_width
        self.decode_units: Callable[..., Tensor] = decode_units
        """Or what `deco_lab.fast.native` or `deco_lab.fast.graphs` has put in its place."""
        self.decode_piece = decode_piece
        """Or its compiled form, where `deco_lab.fast.regions` has switched that on."""
        self.adds = config.decoder_conditioning == "add"
        self.unit_side = config.decoder_patch
        self.grid_side = config.patch_size // config.decoder_patch
        values = 3 * self.unit_side**2
        self.pixel_embedding = nn.Linear(values + NUM_POSITION_FEATURES, d)
        self.input_projection = nn.Linear(d, d)
        self.condition_projection = nn.Linear(config.hidden_size, self.grid_side**2 * d)
        self.blocks = nn.ModuleList(
            PixelBlock(d, modulated=not self.adds) for _ in range(config.decoder_depth)
        )
        self.final_norm = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(d, values)
        for layer in (self.pixel_embedding, self.input_projection, self.condition_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, condition: Tensor, position: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W).

        Parameters
        ----------
        x : Tensor
            (B, 3, H, W), the noisy images.
        condition : Tensor
            (B, N, D), one vector for each patch in row-major order.
        position : Tensor
            (G * G, 64), `position_features` of the G x G units of a patch, G = P / q.
        """
        q, G = self.unit_side, self.grid_side
        B, _, H, W = x.shape
        tiles = x.reshape(B, 3, H // (G * q), G, q, W // (G * q), G, q)
        # A unit's 3 * q * q values, of each of the G * G units, of each token.
        units = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, G * G, 3 * q * q)
        velocity = self.decode_units(self, units, condition.flatten(0, 1), position)
        grid = velocity.view(B, H // (G * q), W // (G * q), G, G, 3, q, q)
        return grid.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(x.shape)


def decode_units(decoder: PixelDecoder, units: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
    """Return the velocities of units (M, G * G, values) of M tokens (M, D), shaped as units.

    Without gradients piece by piece, each of `UNITS_AT_ONCE` units or a token more.
    """
    units = units.to(decoder.head.weight.dtype)
    with torch.autocast(units.device.type, enabled=False):
        parts = [part.to(units.dtype) for part in folded(decoder, position)]
    at_once = UNITS_AT_ONCE_ON_A_CPU if units.device.type == "cpu" else UNITS_AT_ONCE
    pieces = 1
    if not torch.is_grad_enabled():
        pieces = max(1, -(-units.shape[0] * units.shape[1] // at_once))
    velocities = [
        # Copies: torch.compile would tell views apart by what they are views of.
        decoder.decode_piece(decoder, *(rows.clone() for rows in piece), *parts)
        for piece in zip(units.chunk(pieces), tokens.chunk(pieces), strict=True)
    ]
    return torch.cat(velocities) if pieces > 1 else velocities[0]


def folded(decoder: PixelDecoder, position: Tensor) -> list[Tensor]:
    """Return what `decode_piece` multiplies by: embedding, table, layer of all modulations."""
    outer, inner = decoder.input_projection, decoder.pixel_embedding
    weight = _exact(outer.weight)
    embed, of_place = (weight @ _exact(inner.weight)).split(
        [inner.in_features - NUM_POSITION_FEATURES, NUM_POSITION_FEATURES], dim=1
    )
    bias = weight @ _exact(inner.bias) + _exact(outer.bias)
    table = torch.addmm(bias, position.to(weight.dtype), of_place.T)
    if decoder.adds:
        return [embed, table]
    steering = [block.folded_modulation() for block in decoder.blocks]  # type: ignore[operator]
    weights, biases = zip(*steering, strict=True)
    return [embed, table, torch.cat(weights), torch.cat(biases)]


def decode_piece(
    decoder: PixelDecoder,
    units: Tensor,
    tokens: Tensor,
    embed: Tensor,
    table: Tensor,
    modulation: Tensor | None = None,
    modulation_bias: Tensor | None = None,
) -> Tensor:
    """Return the velocities of units (M, G * G, values) of M tokens (M, D), shaped as units."""
    # Rows of one matrix: a layer of more axes would first copy its bias to every row.
    shape, h = units.shape, F.linear(units.flatten(0, 1), embed)
    h = (h.unflatten(0, shape[:2]) + table).flatten(0, 1)
    y = decoder.condition_projection(tokens).view_as(h)
    steering: Sequence[Tensor | None] = [None] * len(decoder.blocks)
    if modulation is None:
        h = h + y
    else:
        steering = F.linear(F.silu(y), modulation, modulation_bias).chunk(len(steering), dim=-1)
    for block, own in zip(decoder.blocks, steering, strict=True):
        h = block(h, own)
    return decoder.head(decoder.final_norm(h)).view(shape)
