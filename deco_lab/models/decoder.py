"""The pixel decoder: an attention-free network on single pixels, steered by the DiT's condition.

For a token's condition s and the pixel at place p of its patch,

    h   = W2(W1[pixel, features of p])            y = the p-th d-vector of W s
    h  += gate * MLP(LayerNorm(h) * (1 + scale) + shift)     [shift, scale, gate] = V silu(y)
    velocity = Linear(LayerNorm(h))

There is no spatial mixing: given s, an output pixel depends on the same input pixel, on its place
and on its patch's token alone. The patch size only unfolds a token's condition onto its pixels.

Two ablations of Table 4 in [1] are options of the configuration. With `decoder_patch` q, the
decoder works on units of q x q pixels as it does on single ones: a unit's 3 q^2 values come in,
3 q^2 go out, and its place is one of the (P/q) x (P/q) in the patch. With `decoder_conditioning`
"add", y joins h once and no block is modulated (see `PlainBlock`):

    h   = W2(W1[pixel, features of p]) + y
    h  += MLP(LayerNorm(h))

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.2 and Table 4.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.config import DeCoConfig
from deco_lab.models.layers import modulate

NUM_POSITION_FEATURES = 64


@lru_cache(maxsize=32)
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


class PixelBlock(nn.Module):
    """LayerNorm, AdaLN and a two-layer MLP on each pixel's vector, with a gated residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, steering: Tensor) -> Tensor:
        """Return (..., d) for pixel vectors (..., d) and silu(y) (..., d)."""
        shift, scale, gate = self.modulation(steering).chunk(3, dim=-1)
        return h + gate * self.mlp(modulate(self.norm(h), shift, scale))


class PlainBlock(nn.Module):
    """LayerNorm and a two-layer MLP on each pixel's vector, h + MLP(LayerNorm(h)), unmodulated.

    Differs from [1]'s published decoder: this is its ablation, which adds the condition instead.
    The start is our choice: the MLP's last layer is zero, so that every block starts as the
    identity, as the published ones do by their gates.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.xavier_uniform_(self.mlp[0].weight)  # type: ignore[arg-type]
        for parameter in (self.mlp[0].bias, self.mlp[2].weight, self.mlp[2].bias):
            nn.init.zeros_(parameter)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        """Return (..., d) for pixel vectors (..., d)."""
        return h + self.mlp(self.norm(h))


class PixelDecoder(nn.Module):
    """Noisy pixels and the DiT's condition to velocity, pixel by pixel (or unit by unit)."""

    def __init__(self, config: DeCoConfig) -> None:
        super().__init__()
        d = config.decoder_width
        self.adds = config.decoder_conditioning == "add"
        self.unit_side = config.decoder_patch
        self.grid_side = config.patch_size // config.decoder_patch
        values = 3 * self.unit_side**2
        self.pixel_embedding = nn.Linear(values + NUM_POSITION_FEATURES, d)
        self.input_projection = nn.Linear(d, d)
        self.condition_projection = nn.Linear(config.hidden_size, self.grid_side**2 * d)
        Block = PlainBlock if self.adds else PixelBlock
        self.blocks = nn.ModuleList(Block(d) for _ in range(config.decoder_depth))
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
        dtype = self.head.weight.dtype
        # A unit's 3 * q * q values become the channels of one pixel; q = 1 leaves x as it is.
        x = F.pixel_unshuffle(x.to(dtype), q)
        rows, columns = x.shape[2] // G, x.shape[3] // G
        # (B, 3 * q * q * G * G, rows, columns) -> (B, N, G * G, 3 * q * q)
        pixels = F.pixel_unshuffle(x, G).flatten(2).transpose(1, 2)
        pixels = pixels.unflatten(2, (-1, G * G)).transpose(2, 3)
        places = position.to(dtype).expand(*pixels.shape[:2], -1, -1)
        h = self.input_projection(self.pixel_embedding(torch.cat([pixels, places], dim=-1)))
        y = self.condition_projection(condition).unflatten(2, (G * G, -1))
        if self.adds:
            h = h + y
            for block in self.blocks:
                h = block(h)
        else:
            steering = F.silu(y)
            for block in self.blocks:
                h = block(h, steering)
        velocity = self.head(self.final_norm(h))
        grid = velocity.transpose(2, 3).flatten(2).transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(F.pixel_shuffle(grid, G), q)
