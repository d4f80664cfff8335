"""DeCo: a DiT that decides what is where, and a pixel decoder that draws it.

    condition = silu(time + tokens)                 (B, N, D), all that crosses between pixels
    velocity  = decoder(x_t, condition)             (B, 3, H, W)

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.config import DeCoConfig
from deco_lab.models.decoder import PixelDecoder, position_features
from deco_lab.models.dit import Backboned, check_images


class DeCo(Backboned):
    """The frequency-decoupled pixel diffusion model, conditioned on a class.

    Parameters
    ----------
    config : DeCoConfig
        Its shape; kept as `model.config`.
    """

    def __init__(self, config: DeCoConfig) -> None:
        super().__init__(config)
        self.config: DeCoConfig = config
        self.decoder = PixelDecoder(config)

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return what the pixel decoder receives, silu(time + tokens), (B, N, D)."""
        tokens, time, _ = self._through_blocks(x, t, class_ids)
        return F.silu(time + tokens)

    def condition_of(self, features: Tensor, t: Tensor) -> Tensor:
        """Return silu(time + tokens), (B, N, D), of `features` (B, N, D), at times (B,)."""
        return F.silu(self.backbone.time_embedding(t)[:, None] + features)

    def from_features(self, x: Tensor, features: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), that is decoded from `features`, (B, N, D).

        Labels are looked at by a single DiT only, which has the same method.
        """
        return self.decode(x, self.condition_of(features, t))

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), that the decoder makes of pixels and a condition.

        Parameters
        ----------
        x : Tensor
            (B, 3, H, W), the noisy images; H and W are multiples of patch_size.
        condition : Tensor
            (B, N, D) with N = H * W / patch_size**2, tokens in row-major order.

        Returns
        -------
        Tensor
            (B, 3, H, W), in the dtype of x.

        Raises
        ------
        ValueError
            Where the shapes do not fit.
        """
        P = self.config.patch_size
        check_images(x, P)
        expected = (x.shape[0], (x.shape[2] // P) * (x.shape[3] // P), self.config.hidden_size)
        if tuple(condition.shape) != expected:
            raise ValueError(
                f"condition must have one vector for each patch, shape (B, N, D)={expected}, "
                f"got {tuple(condition.shape)}; compute it with model.condition on the same sizes"
            )
        position = position_features(self.decoder.grid_side, x.device)
        pixels = x if self.config.decoder_sees_pixels else torch.zeros_like(x)
        return self.decoder(pixels, condition, position).to(x.dtype)

    def time_condition(self, t: Tensor) -> Tensor:
        """Return silu of the time embedding, (B, 1, D): the condition of tokens that are zero."""
        return F.silu(self.backbone.time_embedding(t))[:, None]

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), in the dtype of x.

        Parameters
        ----------
        x : Tensor
            (B, 3, H, W), the noisy images; H and W are multiples of patch_size.
        t : Tensor
            (B,), times in [0, 1]: 0 is noise.
        class_ids : Tensor
            (B,), integer labels; num_classes is the null class.

        Raises
        ------
        ValueError
            Where the shapes do not fit.
        """
        return self.decode(x, self.condition(x, t, class_ids))
