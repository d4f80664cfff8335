"""REPA: tokens of one DiT block, projected, agree with what a vision encoder sees in the image.

    REPA = mean over tokens of 1 - cos(MLP(tokens of block k), DINOv2(image))

The encoder is frozen and looks at the clean image, resized so that its patches lie where the
model's do: by 14/16 for P = 16, and the first token of one is the first of the other. Only training
knows the projection; it is no part of the model that is sampled.

References
----------
[1] Yu et al., "Representation Alignment for Generation: Training Diffusion Transformers Is Easier
    Than You Think", arXiv 2410.06940. Differs from [1]: the resize is anti-aliased.
[2] Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", arXiv 2304.07193.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.models import Model

PROJECTION_WIDTH = 2048
"""Of the projection's two inner layers, as in [1]."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]


class Learner(nn.Module):
    """The model and, for REPA, the projection of one block's tokens, in a single forward pass.

    It is what several processes wrap, so that all that is trained takes part in one call.

    Parameters
    ----------
    model : DeCo or DiT
        What is trained.
    features : int
        Width F of the encoder's features; 0 for no projection.
    block : int
        Whose tokens are projected, counted from 1; the last where there are fewer.
    """

    def __init__(self, model: Model, *, features: int = 0, block: int = 8) -> None:
        super().__init__()
        self.model = model
        self.projection: nn.Sequential | None = None
        self._tokens: Tensor | None = None
        if features:
            D, W = model.config.hidden_size, PROJECTION_WIDTH
            self.projection = nn.Sequential(
                nn.Linear(D, W), nn.SiLU(), nn.Linear(W, W), nn.SiLU(), nn.Linear(W, features)
            )
            blocks = model.backbone.blocks
            blocks[min(block, len(blocks)) - 1].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, arguments: tuple[Tensor, ...], tokens: Tensor) -> None:
        self._tokens = tokens

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the velocity, (B, 3, H, W), and the projected tokens, (B, N, F), or None."""
        velocity = self.model(x, t, class_ids)
        if self.projection is None or self._tokens is None:
            return velocity, None
        tokens, self._tokens = self._tokens, None
        return velocity, self.projection(tokens)


class VisionEncoder:
    """A frozen DINOv2: images in, one vector for each patch out.

    Parameters
    ----------
    name : str
        Of a model at Hugging Face, or a folder that holds one, which never touches the network.
    device : torch.device
        Where it runs.
    dtype : torch.dtype
        What its weights and products are in.

    Raises
    ------
    ValueError
        Where transformers is not installed, the model cannot be had, or it has no patches.
    """

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise ValueError(
                "repa needs transformers, which is not installed; pip install transformers"
            ) from error
        try:
            model = AutoModel.from_pretrained(name, local_files_only=Path(name).is_dir())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"repa must be a DINOv2 that can be loaded, got {name!r}; check the name and the "
                "network, or give a folder that save_pretrained wrote"
            ) from error
        if not isinstance(getattr(model.config, "patch_size", None), int):
            raise ValueError(
                f"repa must be an encoder of image patches, got {model.config.model_type!r}; use "
                "facebook/dinov2-base"
            )
        self.patch_size: int = model.config.patch_size
        self.width: int = model.config.hidden_size
        self.dtype = dtype
        self.model = model.to(device, dtype).eval().requires_grad_(False)
        self._mean = torch.tensor(_MEAN, device=device)[:, None, None]
        self._std = torch.tensor(_STD, device=device)[:, None, None]

    @torch.no_grad()
    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the features of a grid of patches.

        Parameters
        ----------
        images : Tensor
            (B, 3, H, W) in [-1, 1].
        grid : tuple of int
            Rows and columns of the model's tokens.

        Returns
        -------
        Tensor
            (B, N, F) with N = rows * columns, in row-major order, in the encoder's dtype; the class
            token and registers, which come first, are left out.
        """
        rows, columns = grid
        size = (rows * self.patch_size, columns * self.patch_size)
        resized = F.interpolate(
            (images + 1) / 2, size, mode="bicubic", antialias=True, align_corners=False
        )
        pixels = (resized - self._mean) / self._std
        with torch.autocast(images.device.type, enabled=False):
            tokens = self.model(pixel_values=pixels.to(self.dtype)).last_hidden_state
        return tokens[:, tokens.shape[1] - rows * columns :]
