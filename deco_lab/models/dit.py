"""The diffusion transformer: the backbone of all models, and the baseline that is little more.

    tokens_0 = Linear(patches of x_t)
    c        = silu(time + label)
    tokens_i = block_i(tokens_{i-1}, c)                       i = 1 .. depth

The baseline ("single DiT") turns the last tokens into the velocity of whole patches:

    velocity = unpatchify(Linear(LayerNorm(tokens) * (1 + scale(c)) + shift(c)))

or, where the configuration's `predicts` says so, into the image, of which the velocity is made [2]:

    velocity = (image - x_t) / max(1 - t, 0.05)

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.1 and the baseline of Table 1.
[2] Li, He, "Back to Basics: Let Denoising Generative Models Denoise" (JiT), arXiv 2511.13720.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.config import DiTConfig
from deco_lab.flow import velocity_towards
from deco_lab.models.layers import (
    DiTBlock,
    TimeEmbedding,
    from_patches,
    modulate,
    rotary_table,
    to_patches,
)


def check_images(x: Tensor, patch_size: int) -> None:
    """Raise ValueError where x is not a batch of images that the patches tile."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        raise ValueError(
            f"x must be floating-point images of shape (B, 3, H, W), got {tuple(x.shape)} "
            f"of {x.dtype}; stack the images along a first axis"
        )
    for name, size in (("height", x.shape[2]), ("width", x.shape[3])):
        if size % patch_size or size == 0:
            nearest = max(1, -(-size // patch_size)) * patch_size
            raise ValueError(
                f"image {name} must be divisible by patch_size={patch_size}, got {size}; "
                f"resize or pad to {nearest}"
            )


def check_inputs(x: Tensor, t: Tensor, class_ids: Tensor, patch_size: int) -> None:
    """Raise ValueError where x, t and class_ids do not fit each other or the patches.

    Labels are not looked up here: that they are known is checked where a person gives them, since
    to ask would hold up a GPU at every call.
    """
    check_images(x, patch_size)
    if class_ids.is_floating_point():
        raise ValueError(f"class_ids must be integers, got {class_ids.dtype}; use class_ids.long()")
    for name, value in (("t", t), ("class_ids", class_ids)):
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"{name} must have one value for each image, shape ({x.shape[0]},), "
                f"got {tuple(value.shape)}; use {name}.expand({x.shape[0]})"
            )


class BackboneOutput(NamedTuple):
    """What the backbone computes on the way: everything a head may need."""

    tokens: Tensor
    """(B, N, D), the last block's tokens; there is no final norm."""
    time: Tensor
    """(B, 1, D), the time embedding."""
    conditioning: Tensor
    """(B, 1, D), silu(time + label), which modulates every block."""


class Backbone(nn.Module):
    """Patches to tokens, time and label to conditioning, then the blocks."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.run_blocks: Callable[..., Tensor] = run_blocks
        """Or what `deco_lab.fast.native` or `deco_lab.fast.graphs` has put in its place."""
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        self.time_embedding = TimeEmbedding(config.hidden_size)
        self.label_embedding = nn.Embedding(config.num_classes + 1, config.hidden_size)
        self.blocks = nn.ModuleList(
            DiTBlock(config.hidden_size, config.num_heads, config.mlp_width)
            for _ in range(config.depth)
        )
        nn.init.xavier_uniform_(self.patch_embedding.weight)
        nn.init.zeros_(self.patch_embedding.bias)
        nn.init.normal_(self.label_embedding.weight, std=0.02)

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> BackboneOutput:
        """Return tokens, time embedding and conditioning for x (B, 3, H, W), t and labels (B,)."""
        P = self.patch_size
        dtype = self.patch_embedding.weight.dtype
        rows, columns = x.shape[2] // P, x.shape[3] // P
        tokens = self.patch_embedding(to_patches(x.to(dtype), P))
        time, conditioning = self.steering(t, class_ids)
        tokens = self.run_blocks(self.blocks, tokens, conditioning, rows, columns)
        return BackboneOutput(tokens, time, conditioning)

    def steering(self, t: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return time embedding and conditioning, (B, 1, D) each, for t and labels (B,)."""
        time = self.time_embedding(t)[:, None]
        return time, F.silu(time + self.label_embedding(class_ids)[:, None])


def run_blocks(
    blocks: nn.ModuleList, tokens: Tensor, conditioning: Tensor, rows: int, columns: int
) -> Tensor:
    """Return the last block's tokens, for those of a grid (B, N, D) and conditioning (B, 1, D)."""
    head_dim = tokens.shape[-1] // blocks[0].attention.num_heads  # type: ignore[union-attr]
    rotation = rotary_table(rows, columns, head_dim, tokens.device)
    # The first block's input is no view, as no other's is: torch.compile makes one graph of all.
    tokens, conditioning = tokens.clone(), conditioning.clone()
    for block in blocks:
        tokens = block(tokens, conditioning, rotation)
    return tokens


class Backboned(nn.Module):
    """What all models have: a configuration, and a backbone.

    Parameters
    ----------
    config : DiTConfig
        The model's shape; kept as `model.config`.
    """

    trained: Mapping[str, object] = {}
    """Record of its training, where its file has one (`deco_lab.checkpoints.read_training`)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Backbone(config)  # its name in files

    @property
    def backbone(self) -> Backbone:
        """The diffusion transformer, as far as its last block."""
        return self.trunk

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the last block's tokens, (B, N, D), before time joins them; as for the velocity.

        Raises
        ------
        ValueError
            Where the shapes do not fit.
        """
        return self._through_blocks(x, t, class_ids).tokens

    def _through_blocks(self, x: Tensor, t: Tensor, class_ids: Tensor) -> BackboneOutput:
        check_inputs(x, t, class_ids, self.config.patch_size)
        return self.backbone(x, t, class_ids)


class DiT(Backboned):
    """The single-DiT baseline: the backbone and a linear head on whole patches.

    Parameters
    ----------
    config : DiTConfig
        Its shape; kept as `model.config`.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=1e-6, elementwise_affine=False)
        self.final_modulation = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.head = nn.Linear(config.hidden_size, 3 * config.patch_size**2)
        for layer in (self.final_modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the velocity.

        Parameters
        ----------
        x : Tensor
            (B, 3, H, W), the noisy images; H and W are multiples of patch_size.
        t : Tensor
            (B,), times in [0, 1]: 0 is noise.
        class_ids : Tensor
            (B,), integer labels; num_classes is the null class.

        Returns
        -------
        Tensor
            (B, 3, H, W), in the dtype of x.

        Raises
        ------
        ValueError
            Where the shapes do not fit.
        """
        tokens, _, conditioning = self._through_blocks(x, t, class_ids)
        return self._drawn(x, tokens, conditioning, t)

    def from_features(self, x: Tensor, features: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), that the head makes of `features`, (B, N, D)."""
        _, conditioning = self.backbone.steering(t, class_ids)
        return self._drawn(x, features, conditioning, t)

    def _drawn(self, x: Tensor, tokens: Tensor, conditioning: Tensor, t: Tensor) -> Tensor:
        shift, scale = self.final_modulation(conditioning).chunk(2, dim=-1)
        patches = self.head(modulate(self.final_norm(tokens), shift, scale))
        P = self.config.patch_size
        output = from_patches(patches, P, x.shape[2] // P)
        if self.config.predicts == "image":
            output = velocity_towards(output.to(torch.promote_types(x.dtype, torch.float32)), x, t)
        return output.to(x.dtype)


def zero_block_modulation(backbone: Backbone) -> None:
    """Start every block as the identity (AdaLN-zero), which small models train faster from.

    Differs from [1]: the published DeCo keeps PyTorch's default for these layers.
    """
    for block in backbone.blocks:
        for parameter in block.modulation.parameters():  # type: ignore[union-attr]
            nn.init.zeros_(parameter)
