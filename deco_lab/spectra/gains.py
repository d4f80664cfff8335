"""A model whose two parts are louder or softer, band by band: draw with the DiT alone, or without.

    velocity = baseline + sum_b P_b (a_b dit + c_b decoder)

with P_b the octave bands of `split_bands` and the parts those of `decompose` at each pass. Gains of
1 are the model itself. What is taken away at one step changes the state of the next, so this tells
what a part does to the image, where a decomposition tells what it does to one velocity.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from deco_lab.spectra.bands import OCTAVES, check_edges, split_bands
from deco_lab.spectra.decompose import decompose
from deco_lab.spectra.states import check_decoder
from deco_lab.wrapper import Wrapper


class PartGains(Wrapper):
    """A model with a gain on each part of its velocity in each band; takes its place in a sampler.

    Guidance comes afterwards: the class's and the null class's velocity have their gains alike.
    `condition` and `decode` are the model's own: gains change no part, only their sum.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` and `decode(x, condition)`.
    dit, decoder : sequence of float
        Gains of the two parts, one a band, lowest first; 1 leaves the part, 0 takes it away.
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
        dit: Sequence[float] = (1.0,) * (len(OCTAVES) + 1),
        decoder: Sequence[float] = (1.0,) * (len(OCTAVES) + 1),
        edges: Sequence[float] = OCTAVES,
        condition_reference: str = "mean",
        pixel_reference: str = "zero",
    ) -> None:
        super().__init__(model)
        check_decoder(model)
        check_edges(edges)
        for name, gains in (("dit", dit), ("decoder", decoder)):
            if len(gains) != len(edges) + 1 or not all(math.isfinite(gain) for gain in gains):
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
        if all(gain == 1 for gain in self.dit + self.decoder):
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
        for part, gains in ((parts.dit, self.dit), (parts.decoder, self.decoder)):
            if any(gain != 1 for gain in gains):
                for gain, band in zip(gains, split_bands(part, self.edges), strict=True):
                    velocity = velocity + (gain - 1) * band
        return velocity.to(x.dtype)
