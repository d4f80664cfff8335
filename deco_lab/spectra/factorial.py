"""What a decoder's two inputs do to each band: a factorial experiment of 2 x 2 decodes.

With g the pixel decoder, s the DiT's condition and p the noisy pixels, s0 and p0 what stands for
none of either, four parts sum to the velocity [1]:

    baseline        g(s0, p0)
    condition_main  g(s, p0) - g(s0, p0)                        main effect of the condition
    pixels_main     g(s0, p) - g(s0, p0)                        main effect of the pixels
    interaction     g(s, p) - g(s, p0) - g(s0, p) + g(s0, p0)   what they do only together

and so do the shares in each band k, over all images i, which sum to 1 and may be negative:

    share_k(part) = sum_i <part_i, band_k(velocity_i)> / sum_i <velocity_i, band_k(velocity_i)>

(The Shapley value, which is `decompose`'s default, is the main effect and half of the interaction.)
The same experiment is read for the predicted image, h(s, p) = p + (1 - t) g(s, p): there the pixels
hold the noisy image itself, so their main effect is what a decoder that is told of another image
would leave of this one, noise included.

What stands for none is best an input of *other images*: the condition and the pixels of another
image at the same t, of the same label where there are enough, and the parts' mean over several of
them. A constant is no condition that the decoder has ever seen, nor are grey pixels, and what it
draws then says little of what it does with real ones: on a trained model the interaction may
exceed the whole. Parts that cancel each other have no shares: `cancellation` tells.

References
----------
[1] Box, Hunter, Hunter, "Statistics for Experimenters", 2005, chapter 5.
[2] Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions", arXiv 1705.07874: inputs
    of other examples in the place of an input.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.flow import predicted_image
from deco_lab.labels import Labels
from deco_lab.spectra.decompose import CONDITION_REFERENCES as CONSTANT_CONDITIONS
from deco_lab.spectra.decompose import PIXEL_REFERENCES as CONSTANT_PIXELS
from deco_lab.spectra.decompose import (
    HasDecoder,
    reference_condition,
    reference_pixels,
)
from deco_lab.spectra.frequencies import taper
from deco_lab.spectra.products import band_sums, nan_if_empty
from deco_lab.spectra.states import Batch

Array = NDArray[np.float64]

PARTS = ("baseline", "condition_main", "pixels_main", "interaction")
"""What a velocity, or a predicted image, is the sum of."""

WHOLES = {"velocity": "velocity", "predicted": "predicted image"}
"""What is taken apart, in the order of `answers`, and what to call it."""

OTHERS = "others"
CONDITION_REFERENCES = (OTHERS, *CONSTANT_CONDITIONS)
PIXEL_REFERENCES = (OTHERS, *CONSTANT_PIXELS)

CANCELS = 2.0
"""Parts whose energies sum to more than this of the whole's cancel each other."""

NORMALISATION = "sum over images <part, band> / sum over images <whole, band>"
"""What `part_shares` divides by what, for recipes."""


def partners(labels: NDArray[np.int64], draws: int, seed: int) -> Tensor:
    """Return which images stand for each one's inputs, (R, M), R = min(draws, M - 1) others.

    Of the same label, if every label has images enough for that; else of any.

    Raises
    ------
    ValueError
        For fewer than three images or two draws: what is the drawn images' own could not be told.
    """
    M = len(labels)
    if M < 3 or draws < 2:
        raise ValueError(
            f'images must be at least 3 and draws 2 where "{OTHERS}" stand for an input, got '
            f"{M} and {draws}; add images, or name a constant reference"
        )
    generator = np.random.default_rng(seed)
    alike = labels if np.unique(labels, return_counts=True)[1].min() > draws else np.zeros(M)
    rows = []
    for i in range(M):
        others = np.flatnonzero(alike == alike[i])
        rows.append(generator.permutation(others[others != i])[:draws])
    return torch.from_numpy(np.stack(rows, 1))


@torch.no_grad()
def moment_products(
    model: HasDecoder,
    batches: Iterable[Batch],
    *,
    references: tuple[str, str],
    draws: int,
    seed: int,
    edges: Sequence[float],
    window: str | None = None,
) -> Tensor:
    """Return the inner products of parts and whole of all images at one time, in each band.

    One pass of the DiT (two with the reference "null") for each image; all states and conditions of
    the time are held on the CPU.

    Parameters
    ----------
    model : object
        As for `decompose`.
    batches : iterable of Batch
        Of M images in all.
    references : (str, str)
        What stands for no condition and for no pixels: "others", or as for `decompose`.
    draws : int
        How many other images stand for each one's inputs.
    seed : int
        Of the draws, and of the pixel reference "noise": that of image i is seed + i.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    window : str, optional
        As for `band_products`.

    Returns
    -------
    Tensor
        (M, 2, 6, K): of the velocity, then of the predicted image; the axis of 6 holds the four
        `PARTS` with the whole, the whole with itself, and the sum of the parts' own energies. Per
        pixel and channel, float64, on the CPU.
    """
    held = []
    for batch in batches:
        condition = model.condition(batch.x, batch.t, batch.class_ids)
        on_host = Batch(batch.first, batch.time, batch.t, batch.labels, batch.x.cpu())
        held.append((on_host, condition.cpu()))
    labels = Labels(torch.cat([batch.class_ids for batch, _ in held])).kinds
    all_x = torch.cat([batch.x for batch, _ in held])
    all_conditions = torch.cat([condition for _, condition in held])
    none = torch.empty(0, len(labels), dtype=torch.int64)
    chosen = partners(labels.numpy(), draws, seed) if OTHERS in references else none
    C, H, W = all_x.shape[1:]
    w = taper(H, W, window)

    def transformed(images: Tensor) -> Tensor:
        return torch.fft.rfft2(images.detach().cpu().double() * w)

    found = []
    for batch, host_condition in held:
        t, rows = batch.t, slice(batch.first, batch.first + len(batch.x))
        x, s = batch.x.to(t.device), host_condition.to(t.device)
        if references[0] == OTHERS:
            s0s = [all_conditions[others].to(s) for others in chosen[:, rows]]
        else:
            s0s = [reference_condition(model, references[0], s, x, t, batch.labels)]
        if references[1] == OTHERS:
            p0s = [all_x[others].to(x) for others in chosen[:, rows]]
        else:
            p0s = [reference_pixels(model, references[1], x, seed + batch.first)]
        whole = answers(model, x, s, t)
        R = max(len(s0s), len(p0s))
        mean, each = torch.zeros(()), torch.zeros(())
        for _, s0, p0 in zip(range(R), cycle(s0s), cycle(p0s), strict=False):
            parts = transformed(four_parts(model, whole, x, s, t, p0, s0))
            mean = mean + parts / R
            each = each + _energy(parts).sum(0)
        found.append(band_sums(_products(transformed(whole), mean, each, R), W, edges))
    return torch.cat(found, 2).permute(2, 1, 0, 3) / (C * float(w.square().sum()))


def answers(model: HasDecoder, pixels: Tensor, condition: Tensor, t: Tensor) -> Tensor:
    """Return velocity and predicted image, (2, B, C, H, W), of pixels and a condition at t."""
    velocity = model.decode(pixels, condition)
    return torch.stack([velocity, predicted_image(pixels, velocity, t)])


def four_parts(
    model: HasDecoder,
    whole: Tensor,
    pixels: Tensor,
    condition: Tensor,
    t: Tensor,
    other_pixels: Tensor,
    other_condition: Tensor,
) -> Tensor:
    """Return the `PARTS` of velocity and predicted image, (4, 2, B, C, H, W), in three decodes.

    Parameters
    ----------
    model : object
        With `decode(x, condition)`.
    whole : Tensor
        (2, B, C, H, W), what `answers` returns of pixels and condition.
    pixels, other_pixels : Tensor
        (B, C, H, W), p and p0.
    condition, other_condition : Tensor
        (B, N, D), s and s0.
    t : Tensor
        (B,), times.
    """
    baseline = answers(model, other_pixels, other_condition, t)
    of_s = answers(model, other_pixels, condition, t)
    of_p = answers(model, pixels, other_condition, t)
    interaction = (whole - of_p) - (of_s - baseline)
    return torch.stack([baseline, of_s - baseline, of_p - baseline, interaction])


def draws_products(whole: Tensor, draws: Tensor) -> Tensor:
    """Return the products of one image's parts and whole at each frequency, where they are.

    Parameters
    ----------
    whole : Tensor
        (..., C, H, W), such as `answers` of it.
    draws : Tensor
        (4, ..., R, C, H, W), its `PARTS` in each of R draws.

    Returns
    -------
    Tensor
        (6, ..., H, W // 2 + 1), of the axis of 6 in `moment_products`; summed by `band_sums` they
        are for `part_shares` and `cancellation`.
    """
    R = draws.shape[-4]
    of_draws = torch.fft.rfft2(draws.float())
    each = _energy(of_draws).sum(-3).sum(0)
    return _products(torch.fft.rfft2(whole.float()), of_draws.mean(-4), each, R)


def _products(whole: Tensor, parts: Tensor, each: Tensor, draws: int) -> Tensor:
    """Return a sixfold of products at each frequency, (6, ..., H, W // 2 + 1), of transforms.

    Of the mean over draws of the parts, (4, ..., C, H, W // 2 + 1), with the whole, of the whole
    with itself, and the parts' own, added up; `each` is that of each draw, added up.
    """
    own = _energy(parts).sum(0)
    if draws > 1:  # without what is of the images that were drawn: products of different draws
        own = (draws**2 * own - each) / (draws * (draws - 1))
    with_whole = (torch.cat([parts, whole[None]]) * whole.conj()).real.sum(-3)
    return torch.cat([with_whole, own[None]])


def _energy(transforms: Tensor) -> Tensor:
    return (transforms * transforms.conj()).real.sum(-3)


def unshared(
    cancels: NDArray[np.bool_], times: Sequence[float], bands: Sequence[str], whole: str
) -> str:
    """Return a sentence about bands without shares, "" where there are none.

    Parameters
    ----------
    cancels : array
        (T, K), where `cancellation` is beyond CANCELS.
    times : sequence of float
        T times.
    bands : sequence of str
        Names of the K bands.
    whole : str
        What is taken apart, such as "predicted image".
    """
    found: dict[str, list[str]] = {}
    for name, cancel in zip(bands, cancels.T, strict=True):
        if cancel.any():
            at = ", ".join(f"{t:g}" for t in np.asarray(times)[cancel])
            found.setdefault(at, []).append(name)
    if not found:
        return ""
    said = "; ".join(f"{', '.join(names)} at t = {at}" for at, names in found.items())
    return (
        f"No shares of the {whole} ({said}): there the parts cancel, their energies being more "
        f"than {CANCELS:g} times its own."
    )


def part_shares(sums: Array) -> Array:
    """Return the parts' shares, (..., 4, K), of summed inner products, (..., 6, K).

    NaN in a band where the whole has less than 1e-12 of its energy.
    """
    return sums[..., :4, :] / nan_if_empty(sums[..., 4:5, :])


def cancellation(sums: Array) -> Array:
    """Return sum |part|^2 / |whole|^2, (..., K), of the same sums: 1 for parts without overlap."""
    return sums[..., 5, :] / nan_if_empty(sums[..., 4, :])
