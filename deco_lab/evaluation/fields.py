"""The bench of fields: what several trainings of several arms make of images whose best is known.

Primary outcome, fixed before the first training: the excess error of `excess_error` in each band at
t = 0.3, 0.5 and 0.8, its mean over the three Gaussian classes, for which Wiener's filter is the
best there is. Its intervals are over trainings (seeds), Student's; arms are compared with the first
one seed by seed, since runs of one seed have seen the same images, noise and times.

Beside it stand the same excess of the leaves and of their shuffled twins, which have one power
spectrum (so what differs between them is phase); the response of each band by path, to be set
beside Wiener's gain; and what the last block's tokens hold, the same tap in every arm: how much of
the noise and of the image can be read from them, and the paper's Algorithm 3 (Figure 4 of [1]) with
the noise that they copy and without.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.data import FieldSampler, field_power
from deco_lab.spectra import (
    OCTAVES,
    Crops,
    band_names,
    band_response,
    excess_error,
    linear_readout,
    tap_spectrum,
    wiener_filter,
)
from deco_lab.spectra.bands import bands_of
from deco_lab.spectra.bootstrap import over_seeds
from deco_lab.spectra.energy import raw_share
from deco_lab.spectra.frequencies import radial_frequency
from deco_lab.terminal import aligned

Array = NDArray[np.float64]

BENCH_TIMES = (0.3, 0.5, 0.8)
GAUSSIAN = (0, 1, 2)
"""Labels of the classes that the primary outcome is the mean of."""
FIRST_SEED = 4_000_000
"""Of the fields and noise that are measured on; trainings have seen none of them."""


def measure(
    model: Any, *, per_class: int = 128, probed: int = 32, read: int = 128
) -> dict[str, Any]:
    """Return what is asked of one training, JSON-ready.

    Parameters
    ----------
    model : object
        A model of fields, such as `deco_lab.load` returns.
    per_class : int
        Fields of each class for the excess error.
    probed : int
        Fields of each Gaussian class for the response.
    read : int
        Fields of each Gaussian class for what the tokens hold; a third of their patches must be
        more than two for each number of a patch.

    Returns
    -------
    dict
        "excess" (5, T, K) by class; of the Gaussian classes "response" (3, T, Q, K), by the paths
        of "paths", and what `tokens_hold` says.
    """
    excess, response, paths = [], [], ()
    for label in range(model.config.num_classes):
        power = field_power(label, model.config.image_size)
        found = excess_error(model, _fields(model, label, per_class), power)
        excess.append(found.excess.value.tolist())
    for label in GAUSSIAN:
        moved = band_response(model, _fields(model, label, probed, 32), edges=OCTAVES)
        response.append(moved.gain.value.tolist())
        paths = moved.paths
    return {
        "excess": excess,
        "response": response,
        "paths": list(paths),
        **tokens_hold(model, read),
    }


def _fields(model: Any, label: int, count: int, batch_size: int = 64) -> Crops:
    """Return the first fields of a class that are measured on, with their noise."""
    generator = torch.Generator().manual_seed(FIRST_SEED + label)
    labels = torch.full((count,), label)
    sampler = FieldSampler(model.config.image_size)
    images = sampler.sample(count, generator, labels).images
    return Crops(images, labels, BENCH_TIMES, seed=FIRST_SEED, batch_size=batch_size)


class _Tokens:
    """A model whose last block's tokens are read, that of a DeCo as that of a single DiT."""

    def __init__(self, model: Any) -> None:
        self.config, self.features, self._call = model.config, model.features, model

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self._call(x, t, class_ids)


def tokens_hold(model: Any, count: int) -> dict[str, Any]:
    """Return what the last block's tokens hold, of `count` fields of each Gaussian class.

    Returns
    -------
    dict
        "noise_read" and "image_read" (3, T, K), the R^2 of a patch's noise and image by
        `linear_readout`; "noise_share" (3, T), the part of the tokens' energy that is linear in the
        noise, and "algorithm_3" (2, T, n, n), the energy of `tap_spectrum`, mean over the classes,
        as it is and without that part.
    """
    read, shares, energies = [], [], []
    for label in GAUSSIAN:
        fields = _fields(model, label, count)
        read.append(linear_readout(_Tokens(model), fields, sources=("tokens",)))
        both = [tap_spectrum(model, fields, without_noise=less) for less in (False, True)]
        shares.append(both[1].noise_share.value.tolist())
        energies.append([found.energy.value[:-1] for found in both])  # not of all times
    r2 = {
        target: [found.r2.value[:, 0, q].tolist() for found in read]
        for q, target in enumerate(read[0].targets)
    }
    return {
        "noise_read": r2["noise"],
        "image_read": r2["image"],
        "noise_share": shares,
        "algorithm_3": np.mean(energies, axis=0).tolist(),
    }


def wiener_response(size: int) -> Array:
    """Return the mean gain of Wiener's filter in each band, (3, T, K), of the Gaussian classes."""
    band = bands_of(radial_frequency(size, size), OCTAVES).numpy()
    gains = np.array(
        [[wiener_filter(field_power(i, size), t) for t in BENCH_TIMES] for i in GAUSSIAN]
    )
    return np.stack([gains[..., band == k].mean(-1) for k in range(4)], -1)


def primary_outcome(measured: Sequence[Mapping[str, Any]]) -> Array:
    """Return the primary outcome of each training, (S, T, K)."""
    return np.array([found["excess"] for found in measured])[:, list(GAUSSIAN)].mean(1)


def fine_share(measured: Sequence[Mapping[str, Any]]) -> Array:
    """Return how much of the tokens' energy is fine in each training, (S, 2, T), in [0, 1].

    The share of the upper half of the zigzag order in the raw energy without DC, as it is and
    without the noise; 8/15 of white tokens.
    """
    energies = np.array([found["algorithm_3"] for found in measured])
    shares = [raw_share(energy[None]) for energy in energies.reshape(-1, *energies.shape[-2:])]
    return np.reshape(shares, energies.shape[:-2])


def table(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the primary outcome of each arm and what differs from the first, a table for each t.

    Parameters
    ----------
    arms : mapping
        By name, what `measure` says of each training, in the order of the seeds.
    """
    outcome = {arm: primary_outcome(measured) for arm, measured in arms.items()}
    return "\n".join(
        _compared(f"t = {t:g}", band_names(OCTAVES), {arm: o[:, i] for arm, o in outcome.items()})
        for i, t in enumerate(BENCH_TIMES)
    )


def tokens_table(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return what the tokens of each arm hold: noise and image read from them, and Algorithm 3.

    Parameters
    ----------
    arms
        As for `table`.
    """
    times, tables = [f"t = {t:g}" for t in BENCH_TIMES], []

    def of_all(name: str) -> dict[str, Array]:
        """Return the mean over classes of what each training says, (S, T, ...)."""
        return {arm: np.array([each[name] for each in of]).mean(1) for arm, of in arms.items()}

    for kind in ("noise", "image"):
        read = of_all(f"{kind}_read")
        for i, t in enumerate(times):
            values = {arm: each[:, i] for arm, each in read.items()}
            tables.append(_arms(f"{kind} read, {t}", band_names(OCTAVES), values))
    tables.append(_arms("energy linear in the noise", times, of_all("noise_share")))
    fine = {arm: fine_share(measured) for arm, measured in arms.items()}
    for i, noise in enumerate(("with the noise", "without it")):
        values = {arm: each[:, i] for arm, each in fine.items()}
        tables.append(_compared(f"fine share, {noise}", times, values))
    return "\n".join(tables)


def _arms(title: str, columns: Sequence[str], values: Mapping[str, Array]) -> str:
    """Return a table of what trainings say, (S, columns) by arm."""
    rows = [[title, *columns]]
    for arm, each in values.items():
        rows.append([arm, *(f"{found:.3f}" for found in over_seeds(each))])
    return aligned(rows) + "\n"


def _compared(title: str, columns: Sequence[str], values: Mapping[str, Array]) -> str:
    """Return a table of what trainings say, and one of what differs from the first arm."""
    first, *others = values
    less = {arm: values[arm] - values[first] for arm in others}
    return f"{_arms(title, columns, values)}\n{_arms(f'{title}, less {first}', columns, less)}"


def bundled_bench() -> dict[str, list[dict[str, Any]]]:
    """Return what `measure` says of each of the thirty trainings of the package's own bench.

    By arm, in the order of the seeds; the weights of two of them are bundled as `fields` and
    `fields-dit`. The command that made it is `python -m deco_lab.training.fields`.
    """
    stored = files("deco_lab") / "weights" / "fields-bench.json"
    return json.loads(stored.read_text(encoding="utf-8"))["arms"]
