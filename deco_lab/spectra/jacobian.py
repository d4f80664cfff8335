"""How a pixel's velocity moves with the pixel: the decoder's exact 3 x 3 Jacobian at every place.

Given the condition, the pixel decoder is pointwise: v[p] depends on x[p] and on no other pixel. So
all of its Jacobian with respect to the pixels is one 3 x 3 matrix for each pixel, and three
directional derivatives, each along one colour of all pixels at once, give it exactly:

    J[p][:, c] = d/de decode(x + e 1_c, s)[:, p] at e = 0            1_c: channel c is 1 everywhere

Its gain is Frobenius(J) / sqrt(3), the root mean square gain over all directions of colour (the
identity has 1); the spectral norm, the largest over directions, lies between 1 and sqrt(3) of it.

What to compare it with: a pixel of which the condition leaves the variance S unknown, all else
being Gaussian, has the best velocity's slope

    g = (t S - (1 - t)) / (t^2 S + (1 - t)^2)      S = 0: -1 / (1 - t)      S -> infinity: 1 / t

A slope of -1 / (1 - t) is that of a predicted image which does not depend on the pixel. A condition
that knows the pixel has it, and so has one that draws the same grey everywhere: only where the
predicted image's error is low as well does the condition know the pixel.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.2.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.flow import predicted_image
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bootstrap import RECIPE, Estimate, Groups, estimates
from deco_lab.spectra.decompose import HasDecoder
from deco_lab.spectra.frequencies import check_images
from deco_lab.spectra.states import check_crops, check_decoder

Array = NDArray[np.float64]

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
_PROBE_SEED = 0x5EED


@dataclass(frozen=True, kw_only=True)
class DecoderGain(Analysis):
    """The pixel decoder's Jacobians on M re-noised images at T times; axes in each field."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    gain: Array
    """(T, M), each image's mean over pixels of Frobenius(J) / sqrt(3)."""
    slope: Array
    """(T, M), each image's mean over pixels of trace(J) / 3, with its sign."""
    error: Array
    """(T, M), squared error of each predicted image over the image's square about its own mean
    colour: 0 where the image is known, 1 where it is its mean colour; NaN for a single colour."""
    gain_map: Array
    """(T, H, W), the gain at each pixel, mean over images."""
    place_map: Array
    """(T, P, P), the gain at each place of a patch, mean over images and patches."""
    jacobian: Array
    """(T, 3, 3), mean over images and pixels: row is the velocity's channel, column the pixel's."""
    known_slope: Array
    """(T,), -1 / (1 - t): the slope where the predicted image does not depend on the pixel, be it
    known or constant; -inf at t = 1."""
    groups: NDArray[np.int64] | None = None
    """(M,), the group of each image, a number from 0; None where every image is by itself."""

    def gains(self) -> list[Estimate]:
        """Return the mean gain at each time with its interval over images, of whatever class."""
        return estimates(lambda means: means, self.gain.T, groups=self.groups)

    def slopes(self) -> list[Estimate]:
        """Return the mean slope at each time with its interval over images, of whatever class."""
        return estimates(lambda means: means, self.slope.T, groups=self.groups)

    def errors(self) -> list[Estimate]:
        """Return the mean error at each time with its interval over images, of whatever class."""
        return estimates(lambda means: means, self.error.T, groups=self.groups)


def directional_derivative(
    function: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> Tensor:
    """Return d/de function(point + e direction) at e = 0."""
    with warnings.catch_warnings():
        # For the first one PyTorch imports a module of its own that calls what PyTorch deprecates.
        warnings.filterwarnings("ignore", "`torch.jit")
        return torch.func.jvp(function, point, direction)[1]


def _narrowest(model: Any, x: Tensor) -> torch.dtype:
    dtypes = [p.dtype for p in model.parameters()] if hasattr(model, "parameters") else []
    return max([x.dtype, *dtypes], key=lambda dtype: torch.finfo(dtype).eps)


def check_patch_size(model: Any) -> int:
    """Return the model's patch size; raise ValueError where it has none."""
    P = getattr(getattr(model, "config", None), "patch_size", None)
    if P is None:
        raise ValueError(
            f"model must have config.patch_size, which a {type(model).__name__} has not; "
            "pass a DeCo"
        )
    return P


def check_colours(images: Tensor) -> None:
    """Raise ValueError for images that are not RGB."""
    if images.ndim == 4 and images.shape[1] != 3:
        raise ValueError(
            f"images must be RGB, of shape (M, 3, H, W), got {tuple(images.shape)}; repeat a grey "
            "channel three times"
        )


@takes_arrays
@torch.no_grad()
def pixel_jacobian(model: HasDecoder, x: Tensor, condition: Tensor) -> Tensor:
    """Return the decoder's Jacobian at every pixel, at a fixed condition.

    Costs three directional derivatives, and a fourth that checks that the decoder is pointwise.

    Parameters
    ----------
    model : object
        With `decode(x, condition)`.
    x : Tensor
        (B, 3, H, W), the noisy images; computed with in float32 or, if they are, float64.
    condition : Tensor
        (B, N, D), what `model.condition` returned.

    Returns
    -------
    Tensor
        (B, H, W, 3, 3), d velocity[row] / d pixel[column], in the dtype computed with.

    Raises
    ------
    ValueError
        For a model without a decoder, x that is not (B, 3, H, W), empty or not finite, or a
        decoder that is not pointwise, such as one with decoder_patch above 1. A fresh decoder,
        whose last layer is zero, has the Jacobian zero, whatever its decoder_patch.
    """
    check_decoder(model)
    check_images(x, "x")
    if x.shape[1] != 3 or not bool(x.isfinite().all()):
        raise ValueError(
            f"x must be RGB of shape (B, 3, H, W) and finite, got {tuple(x.shape)} with "
            f"{int((~x.isfinite()).sum())} pixels that are not; pass what the model was given"
        )
    x = x if x.dtype == torch.float64 else x.float()

    def derivative(direction: Tensor) -> Tensor:
        return directional_derivative(lambda p: model.decode(p, condition), (x,), (direction,))

    columns = []
    for channel in range(3):
        direction = torch.zeros_like(x)
        direction[:, channel] = 1
        columns.append(derivative(direction).movedim(1, -1))
    jacobian = torch.stack(columns, -1)

    # Along a direction that differs from pixel to pixel, only a pointwise decoder moves by J.
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    probe = torch.randn(x.shape, generator=generator).to(x)
    moved = derivative(probe).movedim(1, -1)
    expected = (jacobian @ probe.movedim(1, -1)[..., None])[..., 0]
    if not bool(moved.isfinite().all() and jacobian.isfinite().all()):
        raise ValueError(
            "model.decode must return finite numbers, got NaN or infinity; check its weights, or "
            "load it with a wider dtype"
        )
    off = (moved - expected).norm()
    if off > torch.finfo(_narrowest(model, x)).eps ** 0.5 * moved.norm():
        raise ValueError(
            "model.decode must be pointwise, but its pixels also move with their neighbours "
            f"({float(off / moved.norm()):.0%} of the motion); a decoder with decoder_patch above "
            "1 draws units of pixels: use one with decoder_patch=1"
        )
    return jacobian


def gain_of(jacobian: Tensor) -> Tensor:
    """Return Frobenius(J) / sqrt(3), (...,), of Jacobians (..., 3, 3): rms over colours."""
    return jacobian.square().sum((-2, -1)).div(3).sqrt()


@takes_arrays
@torch.no_grad()
def decoder_gain(
    model: Any,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float] = TIMES,
    seed: int = 0,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> DecoderGain:
    """Return the decoder's gain and slope on re-noised images, by time and by place.

    Costs, for each image and time, one pass of the model and four derivatives of the decoder;
    memory is that of one batch.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)`, `decode(x, condition)` and `config.patch_size`.
    images : Tensor
        (M, 3, H, W) in [-1, 1], real images; sides are multiples of patch_size.
    class_ids : Tensor or sequence of int
        (M,), labels.
    times : sequence of float
        T times in [0, 1].
    seed : int
        Image i is re-noised by seed + i, at every time alike.
    batch_size : int
        Images a pass.
    groups : sequence or array, optional
        As for `band_effects`.

    Raises
    ------
    ValueError
        For a model without a decoder or one that is not pointwise, images that are not finite, not
        (M, 3, H, W), empty or no multiple of patch_size, labels or times that do not fit.
    """
    check_decoder(model)
    check_colours(images)
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    M, _, H, W = images.shape
    P = check_patch_size(model)
    gain, slope, error = np.zeros((3, len(times), M))
    gain_map = np.zeros((len(times), H, W))
    jacobian = np.zeros((len(times), 3, 3))
    for k, (_, batches) in enumerate(crops.moments()):
        for batch in batches:
            rows = slice(batch.first, batch.first + len(batch.x))
            condition = model.condition(batch.x, batch.t, batch.class_ids)
            J = pixel_jacobian(model, batch.x, condition).cpu().double()
            gains = gain_of(J)
            gain[k, rows] = gains.mean((1, 2)).numpy()
            slope[k, rows] = J.diagonal(dim1=-2, dim2=-1).mean((1, 2, 3)).numpy()
            gain_map[k] += gains.sum(0).numpy() / M
            jacobian[k] += J.mean((1, 2)).sum(0).numpy() / M
            predicted = predicted_image(batch.x, model.decode(batch.x, condition), batch.time)
            contrast = batch.image - batch.image.mean((2, 3), keepdim=True)
            off, most = (
                v.cpu().double().square().sum((1, 2, 3)).numpy()
                for v in (predicted - batch.image, contrast)
            )
            error[k, rows] = off / np.where(most > 0, most, np.nan)
    with np.errstate(divide="ignore"):
        known_slope = -1 / (1 - np.array(crops.times))
    return DecoderGain(
        times=np.array(crops.times),
        gain=gain,
        slope=slope,
        error=error,
        gain_map=gain_map,
        place_map=gain_map.reshape(-1, H // P, P, W // P, P).mean((1, 3)),
        jacobian=jacobian,
        known_slope=known_slope,
        groups=crops.groups,
        recipe=crops.recipe()
        | {
            "weights": weights_hash(model),
            "gain": "Frobenius / sqrt(3)",
            "interval": RECIPE,
        },
    )
