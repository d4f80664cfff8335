"""How far a solver's few steps put each band of the image wrong.

A solver's error is the distance of its images from those of a reference with many steps, from the
same noise, as a part of the reference in each band:

    error_k = sqrt( sum |P_k (image - reference)|^2 / sum |P_k reference|^2 )

At guidance scale 1 it falls as a power of the step, the solver's order of convergence.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.result import Estimate, Result, weights_hash
from deco_lab.spectra.bands import OCTAVES
from deco_lab.spectra.bootstrap import (
    RECIPE,
    Groups,
    bootstrap_log_intervals,
    count_groups,
    group_numbers,
)
from deco_lab.spectra.frequencies import check_estimator, check_images
from deco_lab.spectra.products import band_products, nan_if_empty
from deco_lab.spectra.states import RunStep, check_batch_size

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverError(Result):
    """How far S solvers' images are from a reference in K bands, over M images."""

    solvers: tuple[str, ...]
    """S names."""
    num_steps: NDArray[np.int64]
    """(S,), steps."""
    nfe: NDArray[np.int64]
    """(S,), network passes per image."""
    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    error: Estimate
    """(S, K), root of the error's energy as a part of the reference's; NaN in an empty band."""
    reference_energy: Array
    """(K,), mean square of the reference per pixel and channel in each band."""
    reference_solver: str
    """What drew the reference."""
    reference_num_steps: int
    """Its steps."""
    count: int
    """M, images."""


def solver_error(
    draw: Callable[..., Iterable[RunStep]],
    class_ids: Sequence[int],
    settings: Sequence[tuple[str, int]],
    *,
    reference: tuple[str, int] = ("heun", 200),
    seed: int = 0,
    edges: Sequence[float] = OCTAVES,
    window: str | None = None,
    batch_size: int = 16,
    model: Any = None,
    groups: Groups | None = None,
) -> SolverError:
    """Return each setting's error in each band against a reference, with its network passes.

    Parameters
    ----------
    draw : callable
        draw(class_ids, solver=, num_steps=, seed=) -> steps, the last the result, whose image i
        starts from the noise of seed + i: `functools.partial(deco_lab.sample_steps, model)`, with
        the guidance wanted. Its model's velocity should be continuous in t over the run: where
        guidance begins within a step, an error of order 1 stays.
    class_ids : sequence of int
        (M,), labels.
    settings : sequence of (str, int)
        S pairs of solver and num_steps.
    reference : (str, int)
        Solver and num_steps of the reference: many more, or its own error is measured too.
    seed : int
        Image i starts from seed + i, in every setting.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    window : str, optional
        "hann" tapers the images to their borders before they are split; None (default) keeps them.
    batch_size : int
        Images drawn at once; only one batch's results are held.
    model : object, optional
        What `draw` samples, for the recipe's hash of its weights.
    groups : sequence or array, optional
        As for `band_effects`.

    Returns
    -------
    SolverError
        Errors with bootstrap intervals over images.

    Raises
    ------
    ValueError
        Without settings or labels, for a batch_size below 1, or results that are not finite.
    """
    if len(settings) == 0 or len(class_ids) == 0:
        raise ValueError(
            f"solver_error needs a label and a setting, got {len(class_ids)} class_ids and "
            f"{len(settings)} settings; pass such as [0] and [('euler', 10)]"
        )
    check_batch_size(batch_size)
    check_estimator(window)
    numbers = group_numbers(groups, len(class_ids))
    nfe = np.zeros(len(settings), np.int64)
    rows = []
    for first in range(0, len(class_ids), batch_size):
        ids = class_ids[first : first + batch_size]
        wanted, _ = _result(draw, ids, reference, seed + first)
        energy = band_products(wanted, wanted, edges, window)
        values = []
        for s, setting in enumerate(settings):
            image, nfe[s] = _result(draw, ids, setting, seed + first)
            difference = image - wanted
            off = band_products(difference, difference, edges, window)
            values.append(torch.stack([off, energy], 1))
        rows.append(torch.stack(values, 1))
    products = torch.cat(rows).numpy()

    def error(means: Array) -> Array:
        return np.sqrt(means[..., 0, :] / nan_if_empty(means[..., 1, :]))

    return SolverError(
        solvers=tuple(solver for solver, _ in settings),
        num_steps=np.array([steps for _, steps in settings]),
        nfe=nfe,
        edges=np.array(edges, dtype=np.float64),
        error=bootstrap_log_intervals(error, products, groups=numbers),
        reference_energy=products[:, 0, 1].mean(0),
        reference_solver=reference[0],
        reference_num_steps=reference[1],
        count=len(products),
        recipe={
            "weights": weights_hash(model),
            "draw": {name: repr(v) for name, v in getattr(draw, "keywords", {}).items()},
            "class_ids": [int(label) for label in class_ids],
            "groups": count_groups(numbers),
            "seed": seed,
            "window": window,
            "normalisation": "energy of the error by energy of the reference, sums over images",
            "interval": f"{RECIPE}, of the logarithm",
        },
    )


def _result(
    draw: Callable[..., Iterable[RunStep]], class_ids: Sequence[int], setting: Any, seed: int
) -> tuple[Tensor, int]:
    """Return the last state of a run, float64 on the CPU, and its network passes."""
    solver, num_steps = setting
    last = None
    for step in draw(class_ids, solver=solver, num_steps=num_steps, seed=seed):
        last = step
    if last is None or not bool(last.x.isfinite().all()):
        got = "none" if last is None else "NaN or infinity"
        raise ValueError(
            f"draw must give steps to finite images, got {got} from "
            f"{num_steps} steps of {solver}; take more steps"
        )
    check_images(last.x, "the last x of a run")
    return last.x.detach().cpu().double(), last.nfe
