"""Null controls: what an analysis must say of input in which there is nothing to find.

    white_noise       images without any frequency that stands out
    phase_shuffled    images with the power spectrum of photographs, and none of their edges: a
                      random-phase texture. What a model does to them it does to the spectrum only
    untrained         a model of the same architecture that has learned nothing; use several seeds

An effect that remains under a control is the estimator's, or the architecture's, not the thing
that was asked about.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from deco_lab.arrays import takes_arrays
from deco_lab.flow import seeded_noise
from deco_lab.spectra.frequencies import check_images

Module = TypeVar("Module", bound=nn.Module)

_STREAM = 0x85EBCA6B
"""Added to seeds: analyses and sampling draw the noise of an image from small ones, and a control
made of that same noise would be found again in it."""


def _check(images: Tensor) -> None:
    check_images(images)
    if not images.is_floating_point() or not bool(images.isfinite().all()):
        raise ValueError(
            f"images must be floating point and finite, got {images.dtype} with "
            f"{int((~images.isfinite()).sum())} values that are not; use images.float() / 127.5 - 1"
        )


@takes_arrays
def white_noise(images: Tensor, seed: int = 0) -> Tensor:
    """Return white noise with each image's mean and standard deviation, in each channel.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), floating point, any range.
    seed : int
        Image i has its own stream, by seed + i, which is not that of a sample's or crop's
        noise of a small seed.

    Returns
    -------
    Tensor
        As images. Values may leave [-1, 1].

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W), empty, not floating point or not finite.
    """
    _check(images)
    noise = seeded_noise(len(images), images.shape[1:], _STREAM + seed).double()
    mean, spread = noise.mean((2, 3), keepdim=True), noise.std((2, 3), keepdim=True)
    pixels = images.detach().cpu().double()
    own = pixels.std((2, 3), keepdim=True)
    white = (noise - mean) / spread * own + pixels.mean((2, 3), keepdim=True)
    return white.to(images)


@takes_arrays
def phase_shuffled(images: Tensor, seed: int = 0) -> Tensor:
    """Return images with the same power at every frequency, and phases of white noise.

    All channels are turned by the same phases, so colours stay those of the image and each
    channel's power spectrum, and every pair's cross-spectrum, is kept exactly.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), floating point, any range.
    seed : int
        Image i has its own stream, by seed + i, which is not that of a sample's or crop's
        noise of a small seed.

    Returns
    -------
    Tensor
        As images, with the same mean. Values may leave [-1, 1].

    Raises
    ------
    ValueError
        Where images are not (B, C, H, W), empty, not floating point or not finite.

    References
    ----------
    [1] Oppenheim, Lim, "The importance of phase in signals", Proceedings of the IEEE 69, 1981.
    """
    _check(images)
    B, _, H, W = images.shape
    turned = torch.fft.rfft2(seeded_noise(B, (1, H, W), _STREAM + seed).double())
    turned = turned / turned.abs()  # of a real image, so the result is real
    turned[..., 0, 0] = 1
    spectrum = torch.fft.rfft2(images.detach().cpu().double())
    return torch.fft.irfft2(spectrum * turned, s=(H, W)).to(images)


def untrained(model: Module, seed: int = 0) -> Module:
    """Return a fresh model of the same architecture, as it is before training.

    Layers that start at zero, so that the model draws nothing until it is trained, have random
    weights of variance 1 / fan-in: an analysis of no velocity would say nothing.

    Parameters
    ----------
    model : nn.Module
        With a `config` that its class is built from, as a `DeCo` or a `DiT`. Left as it is.
    seed : int
        Of the weights. One draw is not the architecture: look at several.

    Returns
    -------
    nn.Module
        On the device, in the dtype and the mode of the model.

    Raises
    ------
    ValueError
        For a model without a config.
    """
    if not hasattr(model, "config"):
        raise ValueError(
            f"model must have a config to be built from, which a {type(model).__name__} has not; "
            "pass a DeCo or a DiT"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(model.config)  # type: ignore[reportCallIssue]
        with torch.no_grad():
            for weight in fresh.parameters():
                if weight.ndim > 1 and not weight.any():
                    weight.normal_(std=weight.shape[1] ** -0.5)
    like = next(model.parameters())
    fresh.to(like.device, like.dtype).train(model.training).requires_grad_(like.requires_grad)
    return fresh
