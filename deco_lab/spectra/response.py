"""How an image that a model predicts moves with the noisy one, band by band and path by path.

With s the DiT's condition and g the pixel decoder, the predicted image is

    D = x + (1 - t) g(x, s(x))

and by the chain rule it moves with the noisy image x along two paths, exactly:

    dD = [I + (1-t) dg/dp] delta                directly, through the pixels
       + (1-t) dg/ds (ds/dx) delta              through the DiT

There is neither a reference in this nor an interaction. White noise delta_k that is limited to band
k asks what becomes of the band: over all images i, for each path and for both,

    gain_k    = sum_i <response_i, delta_ki> / sum_i <delta_ki, delta_ki>
    leaving_k = sum_i |response_i outside of band k|^2 / sum_i <delta_ki, delta_ki>

The gain is the mean of the path's own filter over the band's frequencies, and a filter of Wiener's
kind has nothing that leaves. How much of the answer this linear map is, taken at x itself,

    linear_k  = sum_i <J_i x_i, band_k(D_i)> / sum_i <D_i, band_k(D_i)>

says: 1 for a linear model. A pixel decoder is pointwise, so its own gain is about the same at every
frequency: that the pixels' *share* of an image differs between bands is the input's spectrum then,
not the decoder's choice of frequencies.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.
[2] Kadkhodaie, Guth, Simoncelli, Mallat, "Generalization in diffusion models arises from
    geometry-adaptive harmonic representations", arXiv 2310.02557: a denoiser by its Jacobian.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deco_lab.flow import predicted_image, seeded_noise
from deco_lab.result import Estimate
from deco_lab.spectra.bands import MEAN_AND_OCTAVES, split_bands
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.jacobian import directional_derivative
from deco_lab.spectra.products import nan_if_empty
from deco_lab.spectra.states import (
    Array,
    Batch,
    InBands,
    States,
    check_states,
    made_by,
    measured,
    velocity_of,
)

PATHS = ("direct", "through the DiT", "total")
"""Of a model with a pixel decoder; any other has its total only."""
WHOLES = ("predicted", "velocity")
_PROBE_STREAM = 0xC2B2AE35
"""Added to seeds: a probe that is the image's own noise would be found again in x."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BandResponse(InBands):
    """Linear response in K bands at T times by Q paths, over M images."""

    paths: tuple[str, ...]
    """Names along the axis of Q: `PATHS`, or the total only."""
    of: str
    """What responds: "predicted", the predicted image, or "velocity"."""
    gain: Estimate
    """(T, Q, K), response along a probe of the band, per probe; the paths sum to the total. NaN,
    as all values, in a band that has no frequency."""
    leaving: Estimate
    """(T, Q, K), power of the response that leaves the band, for a probe of power 1."""
    linear: Estimate
    """(T, Q, K), share of the band of the answer that the linear map makes of x; NaN in a band
    without energy."""


def _responses(model: Any, batch: Batch, condition: Tensor | None, direction: Tensor) -> Tensor:
    """Return the velocity's derivative along a direction by each path, (Q, B, C, H, W)."""
    x, t, labels = batch.x, batch.t, batch.class_ids
    if condition is None:
        total = directional_derivative(lambda x: model(x, t, labels), (x,), (direction,))
        return total[None]
    moved = directional_derivative(lambda x: model.condition(x, t, labels), (x,), (direction,))
    direct = directional_derivative(lambda x: model.decode(x, condition), (x,), (direction,))
    through = directional_derivative(lambda s: model.decode(x, s), (condition,), (moved,))
    return torch.stack([direct, through, direct + through])


def _products(model: Any, batch: Batch, *, of: str, seed: int, edges: Sequence[float]) -> Tensor:
    """Return each image's sums, (B, 3 Q + 2, K): what the fields divide, probes', answers' own."""
    x, condition = batch.x, None
    if hasattr(model, "condition") and hasattr(model, "decode"):
        condition = model.condition(x, batch.t, batch.class_ids)
        velocity = model.decode(x, condition)
    else:
        velocity = velocity_of(model, batch)

    def responses(direction: Tensor) -> Tensor:
        found = _responses(model, batch, condition, direction).cpu().double()
        if of == "predicted":
            found = (1 - batch.time) * found
            found[[0, -1]] += direction.cpu()  # the only one, or directly and in total
        return found

    answer = velocity if of == "velocity" else predicted_image(x, velocity, batch.t)
    of_bands = split_bands(answer.cpu().double(), edges)
    white = seeded_noise(len(x), x.shape[1:], _PROBE_STREAM + seed + batch.first)
    probes = split_bands(white.double(), edges)
    gain, leaving = [], []
    for band, probe in enumerate(probes):
        found = responses(probe.to(x))
        inside = torch.stack([split_bands(path, edges)[band] for path in found])
        gain.append((found * probe).sum((2, 3, 4)))
        leaving.append((found.square() - inside.square()).sum((2, 3, 4)))
    linear = torch.einsum("qbchw,kbchw->kqb", responses(x), of_bands)
    sums = [torch.stack(gain), torch.stack(leaving), linear]
    own = torch.stack([bands.square().sum((2, 3, 4)) for bands in (probes, of_bands)], 1)
    return torch.cat([*sums, own], 1).movedim(2, 0).transpose(1, 2)


def _ratios(sums: Array) -> Array:
    """Return gain, leaving and linear, (..., 3, Q, K), of summed products, (..., 3 Q + 2, K)."""
    probe, answer = nan_if_empty(sums[..., -2, :]), nan_if_empty(sums[..., -1, :])
    by = np.stack([probe, probe, answer], -2)[..., None, :]
    return sums[..., :-2, :].reshape(*by.shape[:-2], -1, by.shape[-1]) / by


@torch.no_grad()
def band_response(
    model: Any,
    states: States,
    *,
    of: str = "predicted",
    edges: Sequence[float] = MEAN_AND_OCTAVES,
) -> BandResponse:
    """Return how each band of a noisy image passes through a model, by path.

    Costs, for each image and time, K + 1 forward derivatives of the model for K bands, of the
    decoder twice as many; memory is that of a batch and of its K bands. Models that were loaded
    fast are derived by their plain code.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` and `decode(x, condition)`; or any callable
        (x, t, class_ids) -> velocity of differentiable operations, which has a total only.
    states : Crops or Run
        M images. By their seed is, from another stream than the noise, the probe of each.
    of : str
        "predicted" (default): the predicted image. "velocity": the velocity, whose direct gain is
        mostly that of the noise which it subtracts.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel. One at 0, as in the default, parts off the
        channels' means, which are few numbers and most of the energy.

    Returns
    -------
    BandResponse
        The paths sum to the total.

    Raises
    ------
    ValueError
        For an unknown `of`, edges that do not rise, answers that are not finite, or as for `Crops`
        and `Run`.
    """
    check_states(states)
    if of not in WHOLES:
        raise ValueError(f"of must be one of {', '.join(WHOLES)}, got {of!r}")
    times, values = measured(
        model,
        states,
        lambda batch: _products(model, batch, of=of, seed=states.seed, edges=edges),
    )
    found = bootstrap_intervals(_ratios, values, groups=states.groups)
    gain, leaving, linear = (found[:, i] for i in range(3))
    return BandResponse(
        times=times,
        edges=np.array(edges, dtype=np.float64),
        paths=PATHS if gain.value.shape[1] > 1 else PATHS[-1:],
        of=of,
        gain=gain,
        leaving=leaving,
        linear=linear,
        count=len(values),
        recipe=made_by(model, states, probes="white noise in each band, one an image"),
    )
