"""What interventions while sampling did to the final images, band by band.

With a the final image and b that of the same model left alone, from the same noise and classes,
over all images and in each band of radial frequency

    energy = <a, a> / <b, b>        correlation = <a, b> / sqrt(<a, a> <b, b>)

Energy tells whether a band is still drawn, correlation whether the same thing is drawn there. The
channels' means are a band of their own: colours that stay would hide a layout that does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.result import Estimate, Result, weights_hash
from deco_lab.spectra.bands import EMPTY, MEAN_AND_OCTAVES
from deco_lab.spectra.bootstrap import (
    RECIPE,
    Groups,
    bootstrap_intervals,
    bootstrap_log_intervals,
    count_groups,
    group_numbers,
)
from deco_lab.spectra.frequencies import check_estimator, check_images
from deco_lab.spectra.interventions import BandLimit, ConditionIntervention, Intervened
from deco_lab.spectra.products import band_products, nan_if_empty

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class InterventionEffect(Result):
    """What interventions did to final images in K bands, over M images."""

    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    energy: Estimate
    """(..., K), energy over that of the images left alone; 1 is no change. NaN, as all values,
    where those have none."""
    correlation: Estimate
    """(..., K), from -1 to 1: 1 where a band is the same at any strength, -1 its reverse."""
    count: int
    """M, images."""
    conditions: tuple[str, ...] = ()
    """Names along the first axis of what was crossed; none for a single intervention."""
    pixels: tuple[str, ...] = ()
    """Names along the second axis of what was crossed."""


def _effect_products(
    final: Tensor, baseline: Tensor, edges: Sequence[float], window: str | None
) -> Array:
    """Return each image's <a, b>, <a, a> and <b, b> by band, (M, 3, K)."""
    check_images(final, "final")
    if final.shape != baseline.shape:
        raise ValueError(
            f"baseline_final must have the shape of final, {tuple(final.shape)}, "
            f"got {tuple(baseline.shape)}; draw both with the same class_ids"
        )
    for name, images in (("final", final), ("baseline_final", baseline)):
        if not bool(images.isfinite().all()):
            raise ValueError(
                f"{name} must be finite, got NaN or infinity; guide less, or take more steps"
            )
    rows = []
    for a, b in zip(final.split(16), baseline.split(16), strict=True):
        both = torch.stack([a, b.to(a)])
        with_b = band_products(both, b, edges, window)
        rows.append(torch.stack([with_b[0], band_products(a, a, edges, window), with_b[1]], 1))
    return torch.cat(rows).numpy()


def _energy(sums: Array) -> Array:
    """Return the energy, (..., K), of <a, b>, <a, a>, <b, b>, (..., 3, K)."""
    _, ours, theirs = np.moveaxis(sums, -2, 0)
    return ours / nan_if_empty(theirs)


def _correlation(sums: Array) -> Array:
    """Return the correlation, (..., K), likewise."""
    cross, ours, theirs = np.moveaxis(sums, -2, 0)
    theirs = nan_if_empty(theirs)
    drawn = np.where(ours > EMPTY * np.nansum(theirs, -1, keepdims=True), ours, np.nan)
    return cross / np.sqrt(drawn * theirs)


@takes_arrays
def intervention_effect(
    final: Tensor,
    baseline_final: Tensor,
    *,
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    window: str | None = None,
    groups: Groups | None = None,
) -> InterventionEffect:
    """Return how an intervention changed the final images, band by band.

    Parameters
    ----------
    final : Tensor
        (M, C, H, W), images of the model that was intervened in.
    baseline_final : Tensor
        (M, C, H, W), images of the model left alone, from the same noise and classes.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel; a first edge of 0 (default) parts off the mean.
    window : str, optional
        "hann" tapers the images to their borders before they are split, and so spreads the mean
        into the next band; None (default) keeps them.
    groups : sequence or array, optional
        As for `band_effects`.

    Returns
    -------
    InterventionEffect
        Arrays of (K,).

    Raises
    ------
    ValueError
        Where the images are empty, misshapen, not finite, or of different shapes.
    """
    check_estimator(window)
    products = _effect_products(final, baseline_final, edges, window)
    return _effect(products, edges, groups, {"window": window})


def crossed_effects(
    draw: Callable[[Any], Tensor],
    model: Any,
    *,
    conditions: Mapping[str, ConditionIntervention | None],
    pixels: Mapping[str, BandLimit | None],
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    window: str | None = None,
    groups: Groups | None = None,
) -> InterventionEffect:
    """Return the effect of every condition intervention with every pixel intervention.

    Parameters
    ----------
    draw : callable
        From a model to its final images, (M, C, H, W), always from the same noise and classes:
        `lambda model: sample(model, class_ids, seed=0)`. Called once for the model left alone and
        once for each pair that changes anything.
    model : object
        As for `Intervened`.
    conditions : mapping of str to an intervention or None
        Q of them by name; None is the fresh condition.
    pixels : mapping of str to BandLimit or None
        R of them by name; None is all pixels.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    window, groups
        As for `intervention_effect`.

    Returns
    -------
    InterventionEffect
        Arrays of (Q, R, K). All pairs are drawn again alike, so intervals of pairs compare.

    Raises
    ------
    ValueError
        As for `Intervened` and `intervention_effect`, or where there is nothing to cross.
    """
    if not conditions or not pixels:
        raise ValueError("conditions and pixels must name one each at least; None changes nothing")
    check_estimator(window)
    alone = draw(model)
    products = [
        _effect_products(
            alone if how is None and seen is None
            else draw(Intervened(model, condition=how, pixels=seen)),
            alone,
            edges,
            window,
        )
        for how in conditions.values()
        for seen in pixels.values()
    ]  # fmt: skip
    crossed = np.stack(products, 1)
    values = crossed.reshape(len(alone), len(conditions), len(pixels), *crossed.shape[2:])
    recipe = {
        "weights": weights_hash(model),
        "window": window,
        "conditions": {name: repr(how) for name, how in conditions.items()},
        "pixels": {name: repr(seen) for name, seen in pixels.items()},
    }
    return _effect(values, edges, groups, recipe, tuple(conditions), tuple(pixels))


def _effect(
    values: Array,
    edges: Sequence[float],
    groups: Groups | None,
    recipe: dict[str, Any],
    conditions: tuple[str, ...] = (),
    pixels: tuple[str, ...] = (),
) -> InterventionEffect:
    """Return the analysis of inner products, (M, ..., 3, K)."""
    numbers = group_numbers(groups, len(values))
    return InterventionEffect(
        edges=np.array(edges, dtype=np.float64),
        energy=bootstrap_log_intervals(_energy, values, groups=numbers),
        correlation=bootstrap_intervals(_correlation, values, groups=numbers, within=(-1, 1)),
        count=len(values),
        conditions=conditions,
        pixels=pixels,
        recipe=recipe
        | {
            "groups": count_groups(numbers),
            "normalisation": "sums over images <a, b> by band",
            "interval": f"{RECIPE}; of energies, of the logarithm",
        },
    )
