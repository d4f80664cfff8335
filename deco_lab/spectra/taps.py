"""The paper's Algorithm 3: DCT energy of what the DiT says and of what the model draws, over t.

    E[u, v]  = mean over images, channels and blocks of X[u, v]^2
    curve    = log(1 + E) / max log(1 + E), in zigzag order                          Figure 4 of [1]

read at one of four taps:

    tokens           the last block's tokens h, of a DeCo or of a single DiT
    condition        silu(time + h), what the pixel decoder of a DeCo receives
    velocity         what the model returns, image - noise
    predicted_image  x_t + (1 - t) velocity

The first two are maps with one place for each patch of P x P pixels: their index u is
u / (2 n P) cycles per pixel, and they end at 1 / (2P). The curve depends on the scale of its input,
through the 1 and the maximum, and the velocity's high frequencies are copied noise for the most
part; the raw energies, and the predicted image, are what to compare.

Tokens copy noise too, a single DiT's most of all, and white noise has energy at all frequencies:
raw energies compare two models only once it is taken out. The noise n of re-noised crops is known.
With W_a and W_b the least squares from a patch's noise to its tokens, each fitted on another third
of the photographs, the energies without what is linear in the noise are

    <T (h - W_a n), T (h - W_b n)>,    T the DCT

whose two errors of fitting are independent, so that they add nothing on average.

Differs from [1]: each t is kept beside the average over all of them.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, Figure 4 and Algorithm 3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.flow import predicted_image
from deco_lab.result import Estimate
from deco_lab.spectra.bootstrap import (
    RECIPE,
    bootstrap_intervals,
    bootstrap_log_intervals,
    log_of,
)
from deco_lab.spectra.dct import zigzag_order
from deco_lab.spectra.energy import image_energies, token_grid, token_map
from deco_lab.spectra.frequencies import check_estimator
from deco_lab.spectra.states import (
    Array,
    Batch,
    Crops,
    NoisyBatch,
    OverTime,
    Run,
    States,
    check_finite,
    check_states,
    made_by,
    measured,
    velocity_of,
)

TAPS = ("tokens", "condition", "velocity", "predicted_image")
_METHODS = {"tokens": "features", "condition": "condition"}


@dataclass(frozen=True, kw_only=True, eq=False)
class TapSpectrum(OverTime):
    """Energies at one tap over T times and, in the last of T + 1 rows, over all of them.

    The mean over times is of energies; its curve is that of the mean. n is block_size.
    """

    tap: str
    """One of `TAPS`."""
    patch_size: int
    """P, pixels to a side of the tap's places: 1 where it has pixels."""
    block_size: int
    """n, places to a side of a block."""
    frequency: Array
    """(R,), the rings' centres in cycles per pixel, 0 to the map's Nyquist 1 / (2P)."""
    radial: Estimate
    """(T + 1, R), mean energy of the coefficients of about this radial frequency; those in the
    corners, beyond Nyquist, are left out."""
    radial_curve: Estimate
    """(T + 1, R), log(1 + radial) / max log(1 + energy)."""
    energy: Estimate
    """(T + 1, n, n), raw: mean squared coefficient."""
    curve: Estimate
    """(T + 1, n * n), log(1 + energy) / max, in zigzag order."""
    each: Array
    """(M, T, n, n), energies of each image by itself."""
    noise_share: Estimate
    """(T,), the part of the energy about the mean over images and places that is linear in the
    noise and was taken out; 0 where the noise was left in, not measured."""

    def row(self, t: float | None = None) -> int:
        """Return the row of a time; of the mean over all where none is given.

        Raises
        ------
        ValueError
            For a t that is not among the times.
        """
        if t is None:
            return len(self.times)
        found = np.flatnonzero(np.isclose(self.times, t))
        if not len(found):
            known = ", ".join(f"{time:g}" for time in self.times)
            raise ValueError(
                f"t must be one of the times that were measured, {known}, got {t}; measure it too"
            )
        return int(found[0])


def check_tap(model: Any, tap: str) -> None:
    """Raise ValueError for an unknown tap, or one that the model has not."""
    if tap not in TAPS:
        raise ValueError(f"tap must be one of {', '.join(TAPS)}, got {tap!r}")
    method = _METHODS.get(tap, "__call__")
    if not hasattr(model, method):
        raise ValueError(
            f'tap "{tap}" needs a model with the method {method}, which a {type(model).__name__} '
            'has not; a single DiT has the taps "tokens", "velocity" and "predicted_image"'
        )


def tap_maps(model: Any, batch: Batch, tap: str) -> Tensor:
    """Return what stands at a tap, as images: (B, D, H / P, W / P) of tokens or (B, C, H, W)."""
    if tap == "velocity":
        return velocity_of(model, batch)
    if tap == "predicted_image":
        return predicted_image(batch.x, velocity_of(model, batch), batch.time)
    tokens = getattr(model, _METHODS[tap])(batch.x, batch.t, batch.class_ids)
    return token_map(tokens, *token_grid(tokens, *batch.x.shape[-2:]))


@torch.no_grad()
def tap_spectrum(
    model: Any,
    states: States,
    *,
    tap: str = "tokens",
    block_size: int | None = None,
    offset: int = 0,
    average: str = "power",
    without_noise: bool = False,
) -> TapSpectrum:
    """Return the DCT energies at one tap over t.

    Parameters
    ----------
    model : object
        With `features`, `condition` or a call, whichever the tap needs.
    states : Crops or Run
        M images.
    tap : str
        "tokens" (default), "condition", "velocity" or "predicted_image".
    block_size : int, optional
        Side of a block, in pixels or, of a token map, in patches; 8, or the side of a smaller map,
        when not given.
    offset : int
        Where the first block begins, in pixels or patches, as for `dct_energy`.
    average : str
        Over images and times: "power" (default), the mean, or "log", the geometric mean.
    without_noise : bool
        Take out what is linear in the noise of the same patch, or pixel. Needs crops of three
        groups, the "power" average (an image's own energy may come out below 0), and holds what
        stands at the tap for all images of one time.

    Returns
    -------
    TapSpectrum
        Raw energies, the paper's curve and rings of physical frequency, with intervals.

    Raises
    ------
    ValueError
        As for `Crops`, `Run` and `dct_energy`, for a tap that the model has not, or for too few
        groups to take out the noise by.
    """
    check_states(states, Crops if without_noise else (Crops, Run))
    check_tap(model, tap)
    check_estimator(average=average)
    if without_noise and average != "power":
        raise ValueError(f'without_noise needs average="power", got "{average}"; leave it out')
    patch_size = 0

    def energies(batch: Batch, maps: Tensor) -> Tensor:
        nonlocal patch_size
        patch_size = batch.x.shape[-2] // maps.shape[-2]
        return image_energies(
            maps, min(8, *maps.shape[-2:]) if block_size is None else block_size, offset
        )

    if without_noise:
        found, rows, sums = [], [], []
        for time, batches in states.moments(model):
            some = list(batches)
            maps, a, b = _without_noise(model, some, tap, states.groups)
            found.append(time)
            rows.append((energies(some[0], a + b) - energies(some[0], a - b)) / 4)  # <T a, T b>
            mean = maps.mean((0, 2, 3), keepdim=True)
            pairs = ((a - mean) * (b - mean), (maps - mean).square())
            sums.append(torch.stack([pair.sum((1, 2, 3)) for pair in pairs], 1))
        times, each = np.array(found), torch.stack(rows, 1).numpy()
        noise = bootstrap_intervals(
            lambda means: 1 - means[..., 0] / means[..., 1],
            torch.stack(sums, 1).numpy(),
            groups=states.groups,
        )
    else:
        times, each = measured(
            model, states, lambda batch: energies(batch, tap_maps(model, batch, tap))
        )
        noise = Estimate(*np.zeros((3, len(times))), count=len(each))
    n = each.shape[-1]
    ring, rings = _rings(n)
    order = list(zigzag_order(n))

    values = log_of(each) if average == "log" else each
    values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
    values = values.reshape(*values.shape[:2], -1)

    def energies_and_rings(means: Array) -> Array:
        energy = np.exp(means) if average == "log" else means
        return np.concatenate([energy, energy @ rings.T], -1)

    def curves(means: Array) -> Array:
        raw = np.log1p(np.maximum(energies_and_rings(means), 0))
        largest = raw[..., : n * n].max(-1, keepdims=True)
        return raw / np.where(largest > 0, largest, 1)

    # Without noise an energy may come out below 0, and has no logarithm.
    intervals = bootstrap_intervals if without_noise else bootstrap_log_intervals
    raw = intervals(energies_and_rings, values, groups=states.groups)
    drawn = bootstrap_intervals(curves, values, groups=states.groups, within=(0, 1))
    square = Estimate(*(end[:, : n * n].reshape(-1, n, n) for end in raw.ends), count=raw.count)
    return TapSpectrum(
        tap=tap,
        times=times,
        patch_size=patch_size,
        block_size=n,
        frequency=ring / (2 * n * patch_size),
        energy=square,
        radial=raw[:, n * n :],
        curve=drawn[:, order],
        radial_curve=drawn[:, n * n :],
        each=each,
        noise_share=noise,
        count=len(each),
        recipe=made_by(
            model,
            states,
            tap=tap,
            offset=offset,
            average=average,
            noise="its linear part taken out" if without_noise else "left in",
            normalisation="orthonormal DCT; white noise of variance 1 has energy 1",
            interval=RECIPE if without_noise else f"{RECIPE}; of energies, of the logarithm",
        ),
    )


def _without_noise(
    model: Any, batches: Iterable[NoisyBatch], tap: str, groups: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what stands at a tap, and less what two fits say of its noise, (M, D, h, w) each."""
    pairs = [(check_finite(tap_maps(model, b, tap), b.time).cpu(), b.noise.cpu()) for b in batches]
    maps, noise = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    patches = F.pixel_unshuffle(noise, noise.shape[-2] // maps.shape[-2]).flatten(2).mT
    places = (maps - maps.mean((0, 2, 3), keepdim=True)).flatten(2).mT
    third = torch.from_numpy(np.unique(groups, return_inverse=True)[1]) % 3
    fits = []
    for k in range(3):
        n, h = patches[third == k].flatten(0, 1), places[third == k].flatten(0, 1)
        if len(n) <= 2 * n.shape[1]:
            raise ValueError(
                "without_noise needs three groups, and in a third of them more than twice as many "
                f"places as a place has numbers of noise, {n.shape[1]}, got {len(n)}; add images"
            )
        fits.append(torch.linalg.lstsq(n, h).solution)
    less = []
    for other in (1, 2):
        of_noise = torch.stack(
            [
                patch @ fits[(k + other) % 3]
                for patch, k in zip(patches, third.tolist(), strict=True)
            ]
        )
        less.append(maps - of_noise.mT.unflatten(2, maps.shape[-2:]))
    return maps, less[0], less[1]


def _rings(n: int) -> tuple[NDArray[np.int64], Array]:
    """Return the rings of an n x n DCT, (R,), and the means over each, (R, n * n): rows sum to 1.

    Ring k gathers the coefficients whose radius rounds to k, from 0 to at most n, the map's
    Nyquist.
    """
    u = np.arange(n)
    ring = np.rint(np.hypot(u[:, None], u)).ravel().astype(np.int64)
    kept = np.unique(ring[ring <= n])
    members = (ring == kept[:, None]).astype(np.float64)
    return kept, members / members.sum(1, keepdims=True)
