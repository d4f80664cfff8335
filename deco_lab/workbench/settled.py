"""When each band of a run's first image is settled, once the run has ended.

A band is settled at the t from which the prediction's correlation with the last one stays at
`LEVEL` or above, as `deco_lab.spectra.settling` has it. For that a run keeps its predictions: of
long runs, and of large images, every second, every fourth and so on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.spectra import MEAN_AND_OCTAVES
from deco_lab.spectra.settling import final_correlation, settled_at
from deco_lab.workbench.history import Spaced

LEVEL = 0.9
"""Correlation from which a band is settled."""
MOST_BYTES = 64 * 2**20
"""Of the predictions that a run keeps."""
MOST = 128
"""Predictions at most, and at least: fewer would say too little of when."""
LEAST = 6


class Settled(NamedTuple):
    """When bands are settled; the channels' means first."""

    steps: list[int]
    """(S,), whose predictions were kept; the last is the final one."""
    correlation: NDArray[np.float64]
    """(S, 5), of each with the final one."""
    times: NDArray[np.float64]
    """(5,), in t; NaN where a band is not settled before the final prediction."""


class Settling:
    """The predictions of a run's first image."""

    def __init__(self) -> None:
        self._kept = Spaced(first=1)
        self._last: tuple[int, tuple[float, Tensor]] | None = None
        self._found: Settled | None = None

    def add(self, step: int, t_start: float, predicted: Tensor) -> None:
        """Keep what a step that started at a time predicted, (1, 3, H, W), where it has a place."""
        self._last, self._found = (step, (t_start, predicted)), None
        self._kept.add(step, (t_start, predicted), predicted.nbytes)
        while len(self._kept.values) > max(
            LEAST, min(MOST, MOST_BYTES // max(1, predicted.nbytes))
        ):
            self._kept.thin()

    def found(self) -> Settled | None:
        """Return when bands are settled, the last prediction being final; None of a short run."""
        if self._last is None or self._found is not None:
            return self._found
        kept = self._kept.values | dict([self._last])
        if len(kept) < LEAST:
            return None
        starts, images = zip(*kept.values(), strict=True)
        correlation = final_correlation(list(images), MEAN_AND_OCTAVES)
        times = settled_at(correlation, np.array(starts), (LEVEL,))
        self._found = Settled(list(kept), correlation[0], times[0, :, 0])
        return self._found
