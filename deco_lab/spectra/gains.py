"""A model whose two parts are louder or softer, band by band: draw with the DiT alone, or without.

    velocity = baseline + sum_b P_b (a_b(t) dit + c_b(t) decoder)

with P_b the octave bands of `split_bands` and the parts those of `decompose` at each pass, at time
t. A gain is a number or a function of t; gains of 1 are the model itself. What is taken away at one
step changes the state of the next, so this tells what a part does to the image, where a
decomposition tells what it does to one velocity.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from deco_lab.spectra.bands import OCTAVES, check_edges, split_bands
from deco_lab.spectra.decompose import decompose
from deco_lab.spectra.states import check_decoder
from deco_lab.wrapper import Wrapper

Gain = float | Callable[[float], float]
"""A number, or a function of t, such as a `deco_lab.sampling.Curve`."""


class PartGains(Wrapper):
    """A model with a gain on each part of its velocity in each band; takes its place in a sampler.

    Guidance comes afterwards: the class's and the null class's velocity have their gains alike.
    `condition` and `decode` are the model's own: gains change no part, only their sum.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` and `decode(x, condition)`.
    dit, decoder : sequence of float or callable
        Gains of the two parts, one a band, lowest first; 1 leaves the part, 0 takes it away. What
        varies over t is a function of t in [0, 1], such as a `deco_lab.sampling.Curve`; t is that
        of each pass, so the second of a Heun step has its own.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel, for K gains.
    condition_reference, pixel_reference : str
        As for `decompose`: they decide what belongs to which part.

    Raises
    ------
    ValueError
        For a model without a decoder, or gains that are not finite or not one for each band.
    """

    def __init__(
        self,
        model: Any,
        *,
        dit: Sequence[Gain] = (1.0,) * (len(OCTAVES) + 1),
        decoder: Sequence[Gain] = (1.0,) * (len(OCTAVES) + 1),
        edges: Sequence[float] = OCTAVES,
        condition_reference: str = "mean",
        pixel_reference: str = "zero",
    ) -> None:
        super().__init__(model)
        check_decoder(model)
        check_edges(edges)
        for name, gains in (("dit", dit), ("decoder", decoder)):
            are_known = all(callable(gain) or math.isfinite(gain) for gain in gains)
            if len(gains) != len(edges) + 1 or not are_known:
                raise ValueError(
                    f"{name} must be {len(edges) + 1} finite gains, one for each band, "
                    f"got {tuple(gains)}; {len(edges)} edges cut so many"
                )
        self.dit = tuple(dit)
        self.decoder = tuple(decoder)
        self.edges = tuple(edges)
        self.condition_reference = condition_reference
        self.pixel_reference = pixel_reference

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the velocity, (B, C, H, W), with its parts' gains."""
        gains = [_gains_at(part, t) for part in (self.dit, self.decoder)]
        if not any(map(_changes, [*gains[0], *gains[1]])):
            return self.model(x, t, class_ids)
        parts = decompose(
            self.model,
            x,
            t,
            class_ids,
            condition_reference=self.condition_reference,
            pixel_reference=self.pixel_reference,
        )
        velocity = parts.velocity
        # Only what is changed is split, so that a gain of 1 is the part itself.
        for part, of_part in zip((parts.dit, parts.decoder), gains, strict=True):
            if any(map(_changes, of_part)):
                for gain, band in zip(of_part, split_bands(part, self.edges), strict=True):
                    if _changes(gain):
                        velocity = velocity + (gain - 1) * band
        return velocity.to(x.dtype)


def _gains_at(gains: Sequence[Gain], t: Tensor) -> list[float | Tensor]:
    """Return the gains at times, (B,): (B, 1, 1, 1) where the images differ, else numbers."""
    if not any(map(callable, gains)):
        return [gain for gain in gains if not callable(gain)]
    times = t.tolist()
    found: list[float | Tensor] = []
    for gain in gains:
        values = [gain(time) if callable(gain) else gain for time in times]
        if len(set(values)) > 1:
            found.append(t.new_tensor(values).reshape(-1, 1, 1, 1))
        else:
            found.append(values[0])
    return found


def _changes(gain: float | Tensor) -> bool:
    return isinstance(gain, Tensor) or gain != 1
