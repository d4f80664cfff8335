"""Classifier-free guidance on an interval of time, plain or shaped.

    velocity = uncond + w(t) * (cond - uncond)      where low < t <= high
    velocity = cond                                 elsewhere
    w(t) = 1 + curve(t) * (guidance_scale - 1)

with cond and uncond the velocities for the class and for the null class [1], t the time at which
the solver's step starts, and a curve that is 1 unless one is given. When it is off the pass for
the null class is skipped: `deco_lab.sampling.guided`.

What is made of the pair inside the interval is a rule of its own, a function of a `GuidedPair`.
The first line is `PlainGuidance`; the others, with w for w(t) and every norm, mean and inner
product over one image's channels and pixels:

    BandGuidance        uncond + sum_b w_b P_b (cond - uncond),    P_b the bands of frequency
    RescaledGuidance    plain, with the standard deviation of cond given back in part [3]
    ProjectedGuidance   plain, less what only makes the predicted image stronger [4]
    ZeroStarGuidance    s uncond + w (cond - s uncond),    s = <cond, uncond> / |uncond|^2 [5]

References
----------
[1] Ho, Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
[2] Kynkaanniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality in Diffusion Models", arXiv 2404.07724.
[3] Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891,
    section 3.4, equations 15 and 16.
[4] Sadat et al., "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion
    Models", arXiv 2410.02416, the section on adaptive projected guidance.
[5] Fan et al., "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models",
    arXiv 2503.18886, the sections on the optimized scale and on zero-init.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from deco_lab.sampling.curve import Curve, as_curve, curves_of
from deco_lab.setting import check_number, check_whole


@dataclass(frozen=True, eq=False)
class GuidedPair:
    """What a rule makes the guided velocity of."""

    cond: Tensor
    """(B, 3, H, W), the velocity for the classes."""
    uncond: Tensor
    """(B, 3, H, W), the velocity for the null class."""
    x: Tensor
    """(B, 3, H, W), the state at which both were taken."""
    t: float
    """Its time, in [0, 1)."""
    guidance_scale: float
    """w(t): that of `sample`, of which its curve gives a part in this step."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What a rule keeps from pair to pair of one run; empty when the run starts."""
    factor: float = 1.0
    """What that curve is in this step, for a rule that has scales of its own."""
    started: float | None = None
    """Time at which the solver's step started; None where it is t."""


class GuidanceRule(ABC):
    """How a pair of velocities becomes one; image i of it must not depend on other images."""

    @abstractmethod
    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the guided velocity, (B, 3, H, W)."""

    def is_off(self, guidance_scale: float) -> bool:
        """Return whether the rule gives cond whatever the pair, so that one pass is enough."""
        return guidance_scale == 1

    def rests(self, t: float) -> bool:
        """Return whether the same holds of a step that starts at t, for what the rule has of t."""
        return False

    def skips(self, step: int) -> bool:
        """Return whether step `step`, from 0, leaves the state as it is, without a pass."""
        return False


def brought(scale: float, factor: float) -> float:
    """Return 1 + factor * (scale - 1), the scale itself for a factor of 1."""
    return scale if factor == 1 else 1 + factor * (scale - 1)


@dataclass(frozen=True)
class PlainGuidance(GuidanceRule):
    """uncond + w * (cond - uncond) [1]; what `sample` does without `guidance`."""

    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the guided velocity, (B, 3, H, W)."""
        return pair.uncond + pair.guidance_scale * (pair.cond - pair.uncond)


@dataclass(frozen=True)
class BandGuidance(GuidanceRule):
    """uncond + sum_b w_b P_b (cond - uncond): a scale of its own for each band of frequency.

    P_b keeps the radial frequencies from edge b - 1 to below edge b: the bands of
    `deco_lab.spectra.split_bands`. Equal scales are plain guidance to rounding; a scale of 0 leaves
    its band as the null class has it, 1 as the class has it. The `guidance_scale` of `sample` is
    without effect here, and so is off only where every scale is 1. A curve over t says for its band
    how much of w_b - 1 there is at each time, as `guidance_curve` of `sample` for all bands.
    """

    scales: Sequence[float]
    """(w_0, ..., w_K), at least 0, lowest band first."""
    edges: Sequence[float] = (1 / 16, 1 / 8, 1 / 4)
    """K rising edges in cycles per pixel, between 0 and sqrt(0.5)."""
    curves: Sequence[Curve | Sequence[float] | None] = ()
    """A curve of each band, or its values, or None; empty is none in any band."""

    def __post_init__(self) -> None:
        for name in ("scales", "edges"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        curves = tuple(as_curve("curves", curve) for curve in self.curves)
        object.__setattr__(self, "curves", curves)
        for scale in self.scales:
            check_number("each of scales", scale, 0)
        for edge in self.edges:
            check_number("each of edges", edge, 0, 0.5**0.5, "; it is in cycles per pixel", True)
        rising = all(low < high for low, high in pairwise(self.edges))
        if not rising or len(self.scales) != len(self.edges) + 1:
            raise ValueError(
                f"edges must rise and be one fewer than the {len(self.scales)} scales, "
                f"got {self.edges}"
            )
        if self.curves and len(self.curves) != len(self.scales):
            raise ValueError(
                f"curves must be one for each of the {len(self.scales)} scales, got "
                f"{len(self.curves)}; None leaves a band as it is"
            )

    def scales_at(self, t: float, factor: float = 1.0) -> tuple[float, ...]:
        """Return the scales of a step that starts at t, with a factor for all bands."""
        own = [curve(t) if curve else 1 for curve in self._curves] or [1] * len(self.scales)
        return tuple(brought(w, factor * of) for w, of in zip(self.scales, own, strict=True))

    @property
    def _curves(self) -> Sequence[Curve | None]:
        return self.curves  # type: ignore[return-value]  # since __post_init__

    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the guided velocity, (B, 3, H, W)."""
        size, t = pair.x.shape[-2:], pair.t if pair.started is None else pair.started
        masks = _masks_on(tuple(self.edges), *size, pair.x.dtype, pair.x.device)
        # By numbers, which a GPU is given without a wait.
        scale = sum(w * mask for w, mask in zip(self.scales_at(t, pair.factor), masks, strict=True))
        spectrum = scale * torch.fft.rfft2(pair.cond - pair.uncond)
        return pair.uncond + torch.fft.irfft2(spectrum, s=size)

    def is_off(self, guidance_scale: float) -> bool:
        """Return whether every scale is 1, or never has a part."""
        never = [curve is not None and not any(curve.values) for curve in self._curves]
        pairs = zip(self.scales, never or [False] * len(self.scales), strict=True)
        return all(scale == 1 or is_never for scale, is_never in pairs)

    def rests(self, t: float) -> bool:
        """Return whether every scale is 1 in a step that starts at t."""
        return all(scale == 1 for scale in self.scales_at(t))


@lru_cache(maxsize=32)
def _masks_on(
    edges: tuple[float, ...], height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return which coefficients that rfft2 keeps are in each band, (K, H, W // 2 + 1), 0 or 1."""
    with torch.inference_mode(False):
        # Of whole numbers, so that a frequency on an edge is not below it by rounding.
        up = (torch.fft.fftfreq(height, dtype=torch.float64) * height).round()[:, None]
        along = torch.arange(width // 2 + 1, dtype=torch.float64)
        frequency = ((up * width) ** 2 + (along * height) ** 2).sqrt() / (height * width)
        borders = torch.tensor(edges, dtype=torch.float64)
        band = torch.bucketize(frequency, borders, right=True)
        masks = band == torch.arange(len(edges) + 1)[:, None, None]
        return masks.to(device, dtype)


@dataclass(frozen=True)
class RescaledGuidance(GuidanceRule):
    """Plain guidance with a part of its growth in contrast taken back [3].

        rescaled = plain * std(cond) / std(plain)                        (15)
        velocity = rescale * rescaled + (1 - rescale) * plain            (16)

    What is rescaled is the model's output, its mean included, with each image's own standard
    deviation. Differs from [3]: the output is there the v of a variance-preserving diffusion, here
    the velocity, image - noise, in which strong guidance makes the predicted image too strong.
    """

    rescale: float = 0.7
    """phi in [0, 1]: 0 is plain, 1 keeps cond's standard deviation."""

    def __post_init__(self) -> None:
        check_number("rescale", self.rescale, 0, 1)

    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the guided velocity, (B, 3, H, W)."""
        plain = PlainGuidance()(pair)
        wanted, found = (v.std((1, 2, 3), correction=0, keepdim=True) for v in (pair.cond, plain))
        # A velocity without any contrast has none to take back.
        ratio = torch.where(found > 0, wanted / found, 1)
        return self.rescale * (plain * ratio) + (1 - self.rescale) * plain


@dataclass(frozen=True)
class ProjectedGuidance(GuidanceRule):
    """Adaptive projected guidance (APG) [4], in the space of predicted images.

    With D = x + (1 - t) * velocity the predicted image of a velocity, D_cond that of cond, and k
    counting the pairs of a run:

        update_k  = (D_cond - D_uncond) + momentum * update_{k-1},       update_{-1} = 0
        shortened = update_k * min(1, norm_threshold / |update_k|)
        parallel  = <shortened, D_cond> / |D_cond|^2 * D_cond
        D_guided  = D_cond + (w - 1) * (shortened - parallel + eta * parallel)
        velocity  = (D_guided - x) / (1 - t)

    The parallel part makes the predicted image stronger as it is, which oversaturates; eta = 1
    without threshold and momentum is plain guidance. The momentum's state belongs to the run and
    the image, is fed by every pair (two in a step of Heun's), and rests outside the interval.
    Differs from [4]: the predicted image is in pixels, so a threshold from there, for latents,
    means something else here.
    """

    eta: float = 0.0
    """How much of the parallel part stays: 1 is all, 0 none."""
    norm_threshold: float = math.inf
    """Greatest norm of an update, over an image's channels and pixels: it grows as the root of
    their number. Infinite is no limit."""
    momentum: float = 0.0
    """beta in [-1, 1]: [4] recommends negative ones, which push away from the last updates."""

    def __post_init__(self) -> None:
        check_number("eta", self.eta)
        check_number("momentum", self.momentum, -1, 1, "; 0 is none")
        if not self.norm_threshold > 0:
            raise ValueError(f"norm_threshold must be above 0, or inf, got {self.norm_threshold}")

    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the guided velocity, (B, 3, H, W)."""
        remaining = 1 - pair.t
        update = remaining * (pair.cond - pair.uncond)
        if "update" in pair.memory:
            update = update + self.momentum * pair.memory["update"]
        pair.memory["update"] = update

        norm = _inner(update, update).sqrt()
        update = update * (self.norm_threshold / _positive(norm)).clamp(max=1)
        image = pair.x + remaining * pair.cond
        parallel = _inner(update, image) / _positive(_inner(image, image)) * image
        update = update - (1 - self.eta) * parallel
        return pair.cond + (pair.guidance_scale - 1) * update / remaining


@dataclass(frozen=True)
class ZeroStarGuidance(GuidanceRule):
    """CFG-Zero* [5]: the null class's velocity scaled to fit the class's, and no first steps.

        s        = <cond, uncond> / |uncond|^2
        velocity = s * uncond + w * (cond - s * uncond)
        velocity = 0                                           in the first zero_init_steps steps

    s is the scale at which uncond comes nearest to cond, one for each image. The first steps move
    no pixel, whatever the interval (which never guides the step from t = 0); time goes on.
    Differs from [5]: those steps take no pass of the network, and no place in the history of
    solvers that keep one. With a guidance_scale of 1 all of it is off.
    """

    zero_init_steps: int = 1
    """Steps from t = 0 that leave the noise as it is; less than num_steps. 0 is none."""

    def __post_init__(self) -> None:
        check_whole("zero_init_steps", self.zero_init_steps, 0, remedy="; 0 is none")

    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the guided velocity, (B, 3, H, W)."""
        cond, uncond = pair.cond, pair.uncond
        fitted = _inner(cond, uncond) / _positive(_inner(uncond, uncond)) * uncond
        return fitted + pair.guidance_scale * (cond - fitted)

    def skips(self, step: int) -> bool:
        """Return whether the step is one of the first."""
        return step < self.zero_init_steps


@dataclass(frozen=True)
class NamedRule:
    """A rule that command lines, forms and links can name."""

    label: str
    """What a form calls it."""
    make: Callable[..., GuidanceRule]
    """Makes it of those settings of a `Plan` that it takes."""
    settings: tuple[str, ...] = ("guidance_scale",)
    """Which of a plan's settings it looks at; `make` takes all but guidance_scale, a pair's own."""

    def of(self, plan: Any) -> GuidanceRule:
        """Return the rule with a plan's settings."""
        return self.make(*(getattr(plan, s) for s in self.settings if s != "guidance_scale"))


def _by_band(scales: Sequence[float], factors: Sequence[float]) -> BandGuidance:
    return BandGuidance(scales, curves=curves_of(factors, len(scales)))


GUIDANCE: dict[str, NamedRule] = {
    "plain": NamedRule("Plain: one scale for all bands", PlainGuidance),
    "by band": NamedRule(
        "By band: a scale for each band", _by_band, ("band_scales", "band_curves")
    ),
    "rescaled": NamedRule("Rescaled: contrast given back", RescaledGuidance),
    "projected": NamedRule("Projected (APG): no oversaturation", ProjectedGuidance),
    "zero-star": NamedRule("CFG-Zero*: fitted, zero first step", ZeroStarGuidance),
}
"""The rules by name, as `SOLVERS` has the solvers."""


@dataclass(frozen=True)
class _Function(GuidanceRule):
    """A rule that someone passed as a function."""

    function: Callable[[GuidedPair], Tensor]

    def __call__(self, pair: GuidedPair) -> Tensor:
        return self.function(pair)


def as_rule(guidance: GuidanceRule | Callable[[GuidedPair], Tensor] | None) -> GuidanceRule:
    """Return the rule that `guidance` is, plain for None; a function is off at scale 1.

    Raises
    ------
    ValueError
        For anything that cannot be called with a pair.
    """
    if guidance is None:
        return PlainGuidance()
    if isinstance(guidance, GuidanceRule):
        return guidance
    if not callable(guidance) or isinstance(guidance, type):
        raise ValueError(
            f"guidance must be a rule or a function of a GuidedPair, got {guidance!r}; "
            "pass None for plain guidance, or such as RescaledGuidance(0.7)"
        )
    return _Function(guidance)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Return each image's inner product, (B, 1, 1, 1)."""
    return (first * second).sum((1, 2, 3), keepdim=True)


def _positive(values: Tensor) -> Tensor:
    """Return values at least 0 as divisors: 0 becomes the least number, so that 0 / 0 is 0."""
    return values.clamp(min=torch.finfo(values.dtype).tiny)
