"""The bench of fields: what several trainings of several arms make of images whose best is known.

Primary outcome, fixed before the first training: the excess error of `excess_error` in each band at
t = 0.3, 0.5 and 0.8, its mean over the three Gaussian classes, for which Wiener's filter is the
best there is. Its intervals are over trainings (seeds), Student's; arms are compared with the first
one seed by seed, since runs of one seed have seen the same images, noise and times.

Beside it stand the same excess of the leaves and of their shuffled twins, which have one power
spectrum (so what differs between them is phase), and the response of each band by path, to be set
beside Wiener's gain.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deco_lab.data import FieldSampler, field_power
from deco_lab.evaluation.report import aligned
from deco_lab.spectra import (
    OCTAVES,
    band_names,
    band_response,
    excess_error,
    wiener_filter,
)
from deco_lab.spectra.bands import bands_of
from deco_lab.spectra.bootstrap import Intervals, over_seeds
from deco_lab.spectra.frequencies import radial_frequency

Array = NDArray[np.float64]

BENCH_TIMES = (0.3, 0.5, 0.8)
GAUSSIAN = (0, 1, 2)
"""Labels of the classes that the primary outcome is the mean of."""
FIRST_SEED = 4_000_000
"""Of the fields and noise that are measured on; trainings have seen none of them."""


def measure(model: Any, *, per_class: int = 128, probed: int = 32) -> dict[str, Any]:
    """Return what is asked of one training, JSON-ready.

    Parameters
    ----------
    model : object
        A model of fields, such as `deco_lab.load` returns.
    per_class : int
        Fields of each class for the excess error.
    probed : int
        Fields of each Gaussian class for the response.

    Returns
    -------
    dict
        "excess" (5, T, K) by class; "response" (3, T, Q, K) of the Gaussian classes, by the paths
        of "paths".
    """
    config = model.config
    sampler = FieldSampler(config.image_size)
    excess, response, paths = [], [], ()
    for label in range(sampler.num_classes):
        generator = torch.Generator().manual_seed(FIRST_SEED + label)
        labels = torch.full((per_class,), label)
        images = sampler.sample(per_class, generator, labels).images
        power = field_power(label, config.image_size)
        found = excess_error(model, images, labels, power, times=BENCH_TIMES, seed=FIRST_SEED)
        excess.append(found.excess.tolist())
        if label in GAUSSIAN:
            moved = band_response(
                model,
                images[:probed],
                labels[:probed],
                times=BENCH_TIMES,
                seed=FIRST_SEED,
                edges=OCTAVES,
                batch_size=32,
            )
            response.append(moved.gain.tolist())
            paths = moved.paths
    return {"excess": excess, "response": response, "paths": list(paths)}


def wiener_response(size: int) -> Array:
    """Return the mean gain of Wiener's filter in each band, (3, T, K), of the Gaussian classes."""
    band = bands_of(radial_frequency(size, size), OCTAVES).numpy()
    return np.array(
        [
            [
                [wiener_filter(field_power(label, size), t)[band == k].mean() for k in range(4)]
                for t in BENCH_TIMES
            ]
            for label in GAUSSIAN
        ]
    )


def primary_outcome(measured: Sequence[Mapping[str, Any]]) -> Array:
    """Return the primary outcome of each training, (S, T, K)."""
    return np.array([found["excess"] for found in measured])[:, list(GAUSSIAN)].mean(1)


def table(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the primary outcome of each arm and what differs from the first, a table for each t.

    Parameters
    ----------
    arms : mapping
        By name, what `measure` says of each training, in the order of the seeds.
    """
    outcome = {arm: primary_outcome(measured) for arm, measured in arms.items()}
    first = next(iter(outcome))
    lines = []
    for i, t in enumerate(BENCH_TIMES):
        rows = [[f"t = {t:g}", *band_names(OCTAVES)]]
        for arm, values in outcome.items():
            rows.append([arm, *_cells(over_seeds(values[:, i]))])
        lines += [aligned(rows), ""]
        rows = [[f"t = {t:g}, less {first}", *band_names(OCTAVES)]]
        for arm, values in outcome.items():
            if arm != first:
                n = min(len(values), len(outcome[first]))
                rows.append([arm, *_cells(over_seeds((values[:n] - outcome[first][:n])[:, i]))])
        lines += [aligned(rows), ""]
    return "\n".join(lines)


def _cells(found: Intervals) -> list[str]:
    return [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in zip(*found, strict=True)]


def bundled_bench() -> dict[str, list[dict[str, Any]]]:
    """Return what `measure` says of each of the thirty trainings of the package's own bench.

    By arm, in the order of the seeds; the weights of two of them are bundled as `fields` and
    `fields-dit`. The command that made it is `python -m deco_lab.training.fields`.
    """
    stored = files("deco_lab") / "weights" / "fields-bench.json"
    return json.loads(stored.read_text(encoding="utf-8"))["arms"]
