"""The pixel decoder: an attention-free network on single pixels, steered by the DiT's condition.

For a token's condition s and the pixel at place p of its patch,

    h   = W2(W1[pixel, features of p])            y = the p-th d-vector of W s
    h  += gate * MLP(LayerNorm(h) * (1 + scale) + shift)     [shift, scale, gate] = V silu(y)
    velocity = Linear(LayerNorm(h))

There is no spatial mixing: given s, an output pixel depends on the same input pixel, on its place
and on its patch's token alone. The patch size only unfolds a token's condition onto its pixels.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.2.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.config import DeCoConfig
from deco_lab.models.layers import modulate

NUM_POSITION_FEATURES = 64


@lru_cache(maxsize=32)
def position_features(patch_size: int, device: torch.device) -> Tensor:
    """Return the 64 features of each place in a patch, (P * P, 64), float32, in row-major order.

    Feature (i, j) of place (row, column), both on linspace(0, 1, P), with frequencies f on
    linspace(0, 8, 8), is cos(pi column f_i) cos(pi row f_j) / (1 + f_i f_j), i the outer index.
    """
    with torch.inference_mode(False):
        place = torch.linspace(0, 1, patch_size, device=device)
        frequencies = torch.linspace(0, 8, 8, device=device)
        waves = torch.cos(torch.pi * place[:, None] * frequencies)
        damping = 1 / (1 + frequencies[:, None] * frequencies)
        features = torch.einsum("ci,rj,ij->rcij", waves, waves, damping)
        return features.reshape(patch_size**2, NUM_POSITION_FEATURES)


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


class PixelDecoder(nn.Module):
    """Noisy pixels and the DiT's condition to velocity, pixel by pixel."""

    def __init__(self, config: DeCoConfig) -> None:
        super().__init__()
        P, d = config.patch_size, config.decoder_width
        self.patch_size = P
        self.pixel_embedding = nn.Linear(3 + NUM_POSITION_FEATURES, d)
        self.input_projection = nn.Linear(d, d)
        self.condition_projection = nn.Linear(config.hidden_size, P * P * d)
        self.blocks = nn.ModuleList(PixelBlock(d) for _ in range(config.decoder_depth))
        self.final_norm = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(d, 3)
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
            (P * P, 64), `position_features`.
        """
        P = self.patch_size
        dtype = self.head.weight.dtype
        # (B, 3 * P * P, rows, columns) -> (B, N, P * P, 3)
        pixels = F.pixel_unshuffle(x.to(dtype), P).flatten(2).transpose(1, 2)
        pixels = pixels.unflatten(2, (3, P * P)).transpose(2, 3)
        places = position.to(dtype).expand(*pixels.shape[:2], -1, -1)
        h = self.input_projection(self.pixel_embedding(torch.cat([pixels, places], dim=-1)))
        steering = self.condition_projection(condition).unflatten(2, (P * P, -1))
        steering = F.silu(steering)
        for block in self.blocks:
            h = block(h, steering)
        velocity = self.head(self.final_norm(h))
        grid = velocity.transpose(2, 3).flatten(2).transpose(1, 2)
        grid = grid.unflatten(2, (x.shape[2] // P, x.shape[3] // P))
        return F.pixel_shuffle(grid, P)
