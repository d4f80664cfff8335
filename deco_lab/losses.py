"""What training minimises.

    L = FM + lambda FreqFM (+ 0.5 REPA)

    FM     = mean (v_predicted - v_target)^2
    FreqFM = mean w_{c,u,v} (DCT(YCbCr(v_predicted - v_target))_{c,u,v})^2
    REPA   = mean (1 - cos(projected tokens, features of a vision encoder))

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.3.
[2] Yu et al., "Representation Alignment for Generation: Training Diffusion Transformers Is Easier
    Than You Think", arXiv 2410.06940.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.jpeg import frequency_weights, rgb_to_ycbcr


def _check_pair(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"{names[1]} must have the shape of {names[0]}, {tuple(first.shape)}, "
            f"got {tuple(second.shape)}; compare like with like"
        )


def flow_matching_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of the velocity, a scalar in float32.

    Parameters
    ----------
    predicted, target : Tensor
        (B, 3, H, W), velocities.

    Raises
    ------
    ValueError
        Where the shapes differ.
    """
    _check_pair(predicted, target, ("predicted", "target"))
    return F.mse_loss(predicted.float(), target.float())


@lru_cache(maxsize=32)
def _weights_on(quality: int, gamma: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return frequency_weights(quality, gamma).to(device, torch.float32)


def frequency_loss(
    predicted: Tensor, target: Tensor, quality: int = 85, gamma: float = 1.0
) -> Tensor:
    """Return the frequency-aware flow-matching loss of [1], a scalar in float32.

    The transform is linear, so it is taken once, of the difference; in float32, autocast off.

    Parameters
    ----------
    predicted, target : Tensor
        (B, 3, H, W), velocities in RGB; sizes that are no multiple of 8 are padded by reflection.
    quality : int
        JPEG quality of the tables, 1 to 100.
    gamma : float
        Exponent of the weights, at least 0.

    Raises
    ------
    ValueError
        Where the shapes differ, or quality or gamma is out of range.
    """
    _check_pair(predicted, target, ("predicted", "target"))
    with torch.autocast(predicted.device.type, enabled=False):
        error = rgb_to_ycbcr(predicted.float() - target.float())
        energy = block_dct(error).square().mean((0, 2, 3))
        return (energy * _weights_on(quality, gamma, error.device)).mean()


def alignment_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Return the representation alignment loss of [2], the mean of 1 - cosine similarity.

    Parameters
    ----------
    projected : Tensor
        (B, N, F), the model's tokens after the projection.
    features : Tensor
        (B, N, F), the vision encoder's patch features of the clean images.

    Returns
    -------
    Tensor
        A scalar in [0, 2], float32.

    Raises
    ------
    ValueError
        Where the shapes differ.
    """
    _check_pair(projected, features, ("projected", "features"))
    return 1 - F.cosine_similarity(projected.float(), features.float(), dim=-1).mean()
