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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.decompose import HasDecoder
from deco_lab.spectra.frequencies import check_images
from deco_lab.spectra.states import check_decoder

_PROBE_SEED = 0x5EED


def directional_derivative(
    function: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> Tensor:
    """Return d/de function(point + e direction) at e = 0."""
    # Of attention's kernels only the plain one has forward derivatives.
    with warnings.catch_warnings(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        # For the first one PyTorch imports a module of its own that calls what PyTorch deprecates.
        warnings.filterwarnings("ignore", "`torch.jit")
        answer = function(*map(forward_ad.make_dual, point, direction))
        derivative = forward_ad.unpack_dual(answer).tangent
    return torch.zeros_like(answer) if derivative is None else derivative


def _narrowest(model: Any, x: Tensor) -> torch.dtype:
    dtypes = [p.dtype for p in model.parameters()] if hasattr(model, "parameters") else []
    return max([x.dtype, *dtypes], key=lambda dtype: torch.finfo(dtype).eps)


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
