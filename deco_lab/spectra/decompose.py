"""Which of the pixel decoder's two inputs drew the velocity: a two-player Shapley decomposition.

The decoder is a function g(s, p) of the DiT's condition s and the noisy pixels p. With a reference
s0 and p0 for each, four passes say all there is to say about two inputs:

    baseline    = g(s0, p0)
    interaction = [g(s, p) - g(s0, p)] - [g(s, p0) - g(s0, p0)]
    dit         = g(s, p0) - g(s0, p0) + interaction / 2
    decoder     = g(s0, p) - g(s0, p0) + interaction / 2
    baseline + dit + decoder = g(s, p) = velocity

which is half of what an input adds when it comes first and half of what it adds when it comes
second [1]. The parts depend on the references: "nothing" can be said in several ways, and each is
another question.

References
----------
[1] Shapley, "A Value for n-Person Games", Contributions to the Theory of Games II, 1953.
[2] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.flow import seeded_noise
from deco_lab.labels import Labels, check_null, labels_of
from deco_lab.setting import check_choice
from deco_lab.spectra.states import check_decoder

CONDITION_REFERENCES = ("mean", "time", "null")
PIXEL_REFERENCES = ("zero", "patch_mean", "noise")
_NOISE_STREAM = 0x9E3779B9
"""Added to the seed of the pixel reference "noise": sampling starts from noise of small seeds, and
a reference that is the image's own noise would be no reference."""
_DIT_SHARE_OF_INTERACTION = {"shapley": 0.5, "dit_first": 0.0, "pixel_first": 1.0}
ORDERS = tuple(_DIT_SHARE_OF_INTERACTION)
PART_NAMES = {
    "shapley": ("Shapley value of the condition", "Shapley value of the pixels"),
    "dit_first": ("main effect of the condition", "pixels after the condition"),
    "pixel_first": ("condition after the pixels", "main effect of the pixels"),
}
"""What `dit` and `decoder` are, by order: one word for one quantity."""


class HasDecoder(Protocol):
    """What `decompose` needs of a model."""

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor, /) -> Tensor:
        """Return the DiT's condition, (B, N, D)."""
        ...

    def decode(self, x: Tensor, condition: Tensor, /) -> Tensor:
        """Return the velocity, (B, C, H, W), of pixels and a condition."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Decomposition:
    """Parts of a velocity, each (B, C, H, W): baseline + dit + decoder == velocity."""

    baseline: Tensor
    """What the decoder draws of both references."""
    dit: Tensor
    """What the condition adds: by the order "shapley" its Shapley value (see `names`)."""
    decoder: Tensor
    """What the pixels add: the decoder's direct path, past the DiT."""
    interaction: Tensor
    """What neither adds by itself; already in the parts, half in each under the order "shapley"."""
    velocity: Tensor
    """The model's velocity, unguided."""
    condition_reference: str
    """Which condition stood for none: "mean", "time" or "null"."""
    pixel_reference: str
    """Which pixels stood for none: "zero", "patch_mean" or "noise"."""
    order: str
    """Which input came first: "shapley" averages both orders."""
    seed: int
    """Seed of the pixel reference "noise"."""

    @property
    def names(self) -> dict[str, str]:
        """What `dit` and `decoder` are to be called, by the order."""
        return dict(zip(("dit", "decoder"), PART_NAMES[self.order], strict=True))


def one_per_image(name: str, values: Tensor, x: Tensor) -> Tensor:
    """Return one value for each image, (B,), of as many or of one for all; or raise ValueError."""
    if values.ndim > 1 or values.numel() not in (1, x.shape[0]):
        raise ValueError(
            f"{name} must have one value for each image, shape ({x.shape[0]},), or one for all, "
            f"got {tuple(values.shape)}"
        )
    return values.expand(x.shape[0])


def _check_times(t: Tensor) -> None:
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"t must lie in [0, 1], got {t.tolist()}; divide a step by num_steps")


def reference_condition(
    model: Any, kind: str, condition: Tensor, x: Tensor, t: Tensor, labels: Labels
) -> Tensor:
    """Return the condition that stands for none, (B, N, D), of a kind of `decompose`."""
    if kind == "mean":
        return condition.mean(1, keepdim=True).expand_as(condition)
    if kind == "time":
        return model.time_condition(t).expand_as(condition)
    return model.condition(x, t, check_null(labels, model))


def reference_pixels(model: Any, kind: str, x: Tensor, seed: int) -> Tensor:
    """Return the pixels that stand for none, as x, (B, C, H, W), of a kind of `decompose`."""
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "patch_mean":
        P = model.config.patch_size
        return F.interpolate(F.avg_pool2d(x, P), scale_factor=P, mode="nearest")
    return seeded_noise(x.shape[0], x.shape[1:], _NOISE_STREAM + seed).to(x)


@takes_arrays
@torch.no_grad()
def decompose(
    model: HasDecoder,
    x: Tensor,
    t: Tensor | float,
    class_ids: Tensor | Sequence[int] | Labels,
    *,
    condition_reference: str = "mean",
    pixel_reference: str = "zero",
    order: str = "shapley",
    seed: int = 0,
) -> Decomposition:
    """Split a velocity into what the DiT's condition and what the pixels' direct path supply.

    Costs one pass of the DiT (two with the condition reference "null") and four of the decoder.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` and `decode(x, condition)`; for the references "time",
        "null" and "patch_mean" also `time_condition(t)`, `config.num_classes` and
        `config.patch_size`.
    x : Tensor
        (B, C, H, W), the noisy images; computed with in float32 or, if they are, float64.
    t : Tensor or float
        (B,) or one for all, times in [0, 1]: 0 is noise.
    class_ids : Tensor or sequence of int
        (B,) or one for all, labels.
    condition_reference : str
        The condition that stands for none. "mean" (default): each image's mean token, so the DiT
        part is what differs from place to place. "time": the condition of tokens that are zero.
        "null": the condition of the null class, so the DiT part is what the class adds.
    pixel_reference : str
        The pixels that stand for none. "zero" (default): mid-grey. "patch_mean": each patch's mean
        colour, so the decoder part is what it reads within patches. "noise": other standard
        normal noise, image i drawn on the CPU from its own stream of seed + i, never that of
        `sample`.
    order : str
        "shapley" (default): the interaction is shared equally. "dit_first": all of it goes to the
        decoder. "pixel_first": all of it goes to the DiT.
    seed : int
        Of the pixel reference "noise".

    Returns
    -------
    Decomposition
        baseline + dit + decoder == velocity, to rounding. dit is exactly 0 where the condition
        equals its reference, decoder where the pixels do; interaction is 0, to rounding, for a
        decoder that adds a function of each.

    Raises
    ------
    ValueError
        For a model without a pixel decoder, an unknown reference or order, t or class_ids that do
        not fit x, a t outside [0, 1], or, where the model has a config, a label it does not know.
    """
    check_decoder(model)
    check_choice("condition_reference", condition_reference, CONDITION_REFERENCES)
    check_choice("pixel_reference", pixel_reference, PIXEL_REFERENCES)
    check_choice("order", order, ORDERS)
    x = x if x.dtype == torch.float64 else x.float()
    t = one_per_image("t", torch.as_tensor(t, dtype=torch.float32), x)
    _check_times(t.cpu())  # where a GPU need not be waited for
    if not isinstance(class_ids, Labels):
        class_ids = one_per_image("class_ids", torch.as_tensor(class_ids), x)
    t, labels = t.to(x.device), labels_of(class_ids, len(x), model).to(x.device)

    s = model.condition(x, t, labels.values)
    s0 = reference_condition(model, condition_reference, s, x, t, labels)
    p0 = reference_pixels(model, pixel_reference, x, seed)
    # Four passes of one shape, not one of 4B rows: equal inputs then give equal outputs to the
    # last bit, which is what makes the zero cases exact.
    velocity = model.decode(x, s)
    only_dit = model.decode(p0, s)
    only_pixels = model.decode(x, s0)
    baseline = model.decode(p0, s0)

    interaction = (velocity - only_pixels) - (only_dit - baseline)
    share = _DIT_SHARE_OF_INTERACTION[order]
    return Decomposition(
        baseline=baseline,
        dit=(only_dit - baseline) + share * interaction,
        decoder=(only_pixels - baseline) + (1 - share) * interaction,
        interaction=interaction,
        velocity=velocity,
        condition_reference=condition_reference,
        pixel_reference=pixel_reference,
        order=order,
        seed=seed,
    )
