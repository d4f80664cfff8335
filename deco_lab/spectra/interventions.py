"""Interventions while sampling: change what the pixel decoder is told, and see which bands move.

A model draws velocity = g(s, p), with s the DiT's condition and p the noisy pixels. `Intervened`
is that model with one or both replaced, g(A(s), B(p)), and any sampler takes it:

    sample(Intervened(model, condition=SpatialMean(), pixels=BandLimit(high=1 / 8)), class_ids)

    condition    None (fresh), OtherRun, SpatialMean, BandLimit on the token grid
    pixels       None (full), BandLimit of radial frequency

The DiT itself always reads the state as it is. Unlike a decomposition of one velocity this lets an
effect grow, or be repaired, on the way; `intervention_effect` says what it did to the final image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deco_lab.labels import Labels, labels_of, null_rows
from deco_lab.spectra.dct import dct_matrix
from deco_lab.spectra.energy import token_grid
from deco_lab.spectra.frequencies import radial_frequency, radius
from deco_lab.spectra.states import State, check_decoder
from deco_lab.wrapper import Wrapper


@dataclass(frozen=True)
class OtherRun:
    """The condition of another run at the same time: another seed, or class, or both.

    Rows of the null class take the other run's states, and stay of the null class.
    """

    steps: Sequence[State] = field(repr=False)
    """Every step of the run, with `t` and `x`: `list(sample_steps(...))`, for the same number of
    images, steps and time shift. With Heun's corrector the state at the step's end stands for the
    one it predicts."""
    class_ids: Sequence[int] | Labels
    """Its labels, one for each image."""


@dataclass(frozen=True)
class SpatialMean:
    """Each image's mean token in every place: nothing of the layout."""


@dataclass(frozen=True)
class BandLimit:
    """What lies in low <= f < high of radial frequency, in cycles per pixel, and nothing else.

    Pixels by FFT. The condition by DCT-II of the token map, whose index u of n is u / (2 n P)
    cycles per pixel, up to 1 / (2 P) along each axis.
    """

    low: float = 0.0
    """0 keeps the mean."""
    high: float = float("inf")
    """Above sqrt(0.5) it keeps all."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(
                f"a band needs 0 <= low < high in cycles per pixel, got {self.low} to {self.high}"
            )


ConditionIntervention = OtherRun | SpatialMean | BandLimit


class Intervened(Wrapper):
    """A model whose decoder is told something else; takes its place in any sampler.

    `features` and `condition_of` are the model's own: the DiT is not intervened in.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` and `decode(x, condition)`; `config.num_classes` tells
        which rows are of the null class, where it has them.
    condition : OtherRun, SpatialMean or BandLimit, optional
        What stands for the condition; None leaves it fresh.
    pixels : BandLimit, optional
        What the decoder sees of the pixels; None is all.

    Raises
    ------
    ValueError
        For a model without a decoder, or an intervention of no known kind.
    """

    def __init__(
        self,
        model: Any,
        *,
        condition: ConditionIntervention | None = None,
        pixels: BandLimit | None = None,
    ) -> None:
        super().__init__(model)
        check_decoder(model)
        if condition is not None and not isinstance(condition, ConditionIntervention):
            raise ValueError(
                f"condition must be None, OtherRun, SpatialMean or BandLimit, got {condition!r}"
            )
        if pixels is not None and not isinstance(pixels, BandLimit):
            raise ValueError(f"pixels must be None or a BandLimit, got {pixels!r}")
        self.on_condition = condition
        self.on_pixels = pixels

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the condition that the decoder is told, (B, N, D)."""
        how = self.on_condition
        if isinstance(how, OtherRun):
            return self._of_other_run(how, x, t, class_ids)
        fresh = self.model.condition(x, t, class_ids)
        if isinstance(how, SpatialMean):
            return fresh.mean(1, keepdim=True).expand_as(fresh)
        if isinstance(how, BandLimit):
            return _band_of_tokens(fresh, x.shape[-2], x.shape[-1], how)
        return fresh

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return what the decoder draws of a condition and the pixels that it is let see."""
        seen = x if self.on_pixels is None else _band_of_pixels(x, self.on_pixels)
        return self.model.decode(seen, condition)

    def _of_other_run(self, run: OtherRun, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        time = float(t[0])
        # Samplers keep times in float64 and models are told them in float32.
        nearest = min(run.steps, key=lambda step: abs(step.t - time), default=None)
        if nearest is None or abs(nearest.t - time) > 1e-6:
            raise ValueError(
                f"the other run must have a step at t={time:.6g}, got none; sample it with the "
                "same num_steps and time_shift"
            )
        count = len(nearest.x)
        if nearest.x.shape[1:] != x.shape[1:] or len(x) % count or len(run.class_ids) != count:
            raise ValueError(
                f"the other run must have as many images as this one, of shape "
                f"{tuple(x.shape[1:])}, and a label for each, got states {tuple(nearest.x.shape)} "
                f"and {len(run.class_ids)} labels"
            )
        passes = len(x) // count  # 2 where the rows of the null class come with their images
        states = nearest.x.to(x).repeat(passes, 1, 1, 1)
        labels = torch.cat([labels_of(run.class_ids, count).values.to(class_ids)] * passes)
        null = null_rows(class_ids, self)
        labels[null] = class_ids[null]
        return self.model.condition(states, t, labels)


def _band_of_tokens(tokens: Tensor, height: int, width: int, band: BandLimit) -> Tensor:
    """Return tokens, (B, N, D), with the frequencies of only that band on their grid."""
    rows, columns = token_grid(tokens, height, width)
    patch = height // rows
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    vertical, horizontal = (dct_matrix(n, dtype, tokens.device) for n in (rows, columns))
    up, along = (torch.arange(n, dtype=torch.float64) for n in (rows, columns))
    frequency = radius(up, 2 * rows * patch, along, 2 * columns * patch)
    kept = ((frequency >= band.low) & (frequency < band.high)).to(tokens.device, dtype)
    grid = tokens.to(dtype).unflatten(1, (rows, columns))
    coefficients = torch.einsum("ur,vc,brcd->buvd", vertical, horizontal, grid)
    limited = torch.einsum("ur,vc,buvd->brcd", vertical, horizontal, coefficients * kept[..., None])
    return limited.flatten(1, 2).to(tokens.dtype)


def _band_of_pixels(x: Tensor, band: BandLimit) -> Tensor:
    """Return images with the frequencies of only that band."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    frequency = radial_frequency(*x.shape[-2:], half=True)
    kept = ((frequency >= band.low) & (frequency < band.high)).to(x.device)
    limited = torch.fft.irfft2(torch.fft.rfft2(x.to(dtype)) * kept, s=x.shape[-2:])
    return limited.to(x.dtype)
