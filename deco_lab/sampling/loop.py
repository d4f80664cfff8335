"""From noise to images: the loop that joins model, guidance, solver and times.

    x_0 = noise                 t_0 = 0 < t_1 < ... < t_n = 1
    x_{i+1} = x_i + (t_{i+1} - t_i) * velocity_i

Each step gives the image that its velocity predicts, x_i + (1 - t_i) * velocity_i; in the last
step this is the result. Times are float64 numbers on the host, states float32. Image i starts from
the noise of its own generator, seeded with seed + i on the CPU, so that an image never depends on
its batch or device beyond rounding.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365.
"""

import math
import operator
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from deco_lab.flow import predicted_image, seeded_noise, time_grid
from deco_lab.sampling.guidance import (
    Guidance,
    GuidanceRule,
    GuidedPair,
    VelocityModel,
    as_rule,
)
from deco_lab.sampling.reuse import with_reuse
from deco_lab.sampling.solvers import SOLVERS, Solver


@dataclass(frozen=True)
class Step:
    """The state that a solver's step reached, and what led there."""

    index: int
    """Number of steps taken: 0 for the noise, num_steps for the result."""
    t: float
    """Time of the state, in [0, 1]."""
    x: Tensor
    """(B, 3, H, W), float32, the state at t."""
    velocity: Tensor | None
    """(B, 3, H, W), the step's guided velocity: x = previous x + (t - previous t) * velocity. With
    Euler it is the network's own; Heun and Adams average it over the step. None at index 0."""
    predicted_image: Tensor | None
    """(B, 3, H, W), previous x + (1 - previous t) * velocity, unclamped. None at index 0."""
    nfe: int
    """Network passes per image since the noise; a guided pair counts 2. With `condition_reuse` k,
    the DiT took part in about one of k."""


def sample(
    model: VelocityModel,
    class_ids: Sequence[int] | Tensor,
    *,
    num_steps: int = 50,
    guidance_scale: float = 3.0,
    guidance_interval: tuple[float, float] = (0.1, 1.0),
    solver: str = "euler",
    time_shift: float = 1.0,
    seed: int = 0,
    noise: Tensor | None = None,
    guidance: GuidanceRule | Callable[[GuidedPair], Tensor] | None = None,
    condition_reuse: int = 1,
) -> Tensor:
    """Return images of the given classes, the last state of `sample_steps`.

    Parameters
    ----------
    model, class_ids, num_steps, guidance_scale, guidance_interval, solver, time_shift, seed, noise
        As for `sample_steps`.
    guidance, condition_reuse
        As for `sample_steps`.

    Returns
    -------
    Tensor
        (B, 3, H, W), float32, on the model's device. Images lie in [-1, 1] but for what the model
        overshoots: nothing is clamped.

    Raises
    ------
    ValueError
        As for `sample_steps`.

    Examples
    --------
    >>> import torch
    >>> from deco_lab.sampling import sample
    >>> noise = torch.ones(1, 3, 8, 8)
    >>> image = sample(lambda x, t, class_ids: -x, [0], noise=noise, num_steps=2, guidance_scale=1)
    >>> image.unique()
    tensor([0.2500])
    """
    x = None
    for step in sample_steps(
        model,
        class_ids,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        solver=solver,
        time_shift=time_shift,
        seed=seed,
        noise=noise,
        guidance=guidance,
        condition_reuse=condition_reuse,
    ):
        x = step.x
    assert x is not None
    return x


def sample_steps(
    model: VelocityModel,
    class_ids: Sequence[int] | Tensor,
    *,
    num_steps: int = 50,
    guidance_scale: float = 3.0,
    guidance_interval: tuple[float, float] = (0.1, 1.0),
    solver: str = "euler",
    time_shift: float = 1.0,
    seed: int = 0,
    noise: Tensor | None = None,
    guidance: GuidanceRule | Callable[[GuidedPair], Tensor] | None = None,
    condition_reuse: int = 1,
) -> Generator[Step, None, None]:
    """Check the arguments, then give the noise and each step towards the images as it is computed.

    Parameters
    ----------
    model : callable
        (x, t, class_ids) -> velocity, in shapes (B, 3, H, W), (B,), (B,) -> (B, 3, H, W). The
        noise's size is `model.config.image_size` and the null class `model.config.num_classes`,
        where it has them. It is called without gradients, on the device of its parameters, if any.
    class_ids : sequence of int or Tensor
        B labels, one for each image, from 0 to num_classes - 1.
    num_steps : int
        Solver steps, at least 1.
    guidance_scale : float
        w in uncond + w * (cond - uncond), at least 0; 1 is off.
    guidance_interval : tuple of float
        (low, high] in t, 0 <= low < high <= 1: steps that start in it are guided, throughout. The
        lower end is open, so the step that starts from pure noise, t = 0, is never guided.
    solver : str
        A name in `SOLVERS`.
    time_shift : float
        Greater than 0; above 1 spends more steps near the noise, 1 spaces them evenly.
    seed : int
        Image i draws its noise with seed + i.
    noise : Tensor, optional
        (B, 3, H, W), the start instead of a drawn one; `seed` is then without effect.
    guidance : GuidanceRule or callable, optional
        What to make of the class's and the null class's velocity inside the interval, instead of
        plain guidance: a `BandGuidance` (which has scales of its own), `RescaledGuidance`,
        `ProjectedGuidance` or `ZeroStarGuidance`, or a function of a `GuidedPair` that returns the
        velocity, (B, 3, H, W).
    condition_reuse : int
        Evaluations of the velocity for which one pass of the DiT serves, at least 1, which is
        none: see `ReusedCondition`. Needs a model with a pixel decoder; what is around the model,
        such as an `Intervened`, stays around it.

    Yields
    ------
    Step
        num_steps + 1 of them; the first is the noise. Closing the generator early is safe.

    Raises
    ------
    ValueError
        At the call, not at the first step, where an argument breaks a rule above or the model
        has no config and the argument that stands in for it is missing.
    """
    config = getattr(model, "config", None)
    num_classes = getattr(config, "num_classes", None)
    labels = _labels(class_ids, num_classes)
    num_steps = _whole("num_steps", num_steps, least=1)
    guidance_scale = _number("guidance_scale", guidance_scale)
    if guidance_scale < 0:
        raise ValueError(f"guidance_scale must be at least 0, got {guidance_scale}; 1 is off")
    rule = as_rule(guidance)
    if not rule.is_off(guidance_scale) and num_classes is None:
        raise ValueError(
            "guidance needs the null class, model.config.num_classes, which this model does not "
            "have; pass guidance_scale=1 and no guidance of its own scales"
        )
    if not rule.is_off(guidance_scale) and rule.skips(num_steps - 1):
        raise ValueError(
            f"guidance must leave a step to take, got {rule}, which skips all {num_steps}; "
            "take more steps"
        )
    guidance_interval = _interval(guidance_interval)
    time_shift = _number("time_shift", time_shift)
    if time_shift <= 0:
        raise ValueError(f"time_shift must be greater than 0, got {time_shift}; 1 is no shift")
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if noise is None:
        noise = _draw_noise(len(labels), getattr(config, "image_size", None), seed)
    else:
        _whole("seed", seed, least=0)
        _check_noise(noise, len(labels), getattr(config, "patch_size", 1))

    condition_reuse = _whole("condition_reuse", condition_reuse, least=1)
    parameters = getattr(model, "parameters", tuple)
    device = next((parameter.device for parameter in parameters()), noise.device)
    guided_model = Guidance(
        model if condition_reuse == 1 else with_reuse(model, condition_reuse),
        torch.tensor(labels, device=device),
        num_classes,
        guidance_scale,
        guidance_interval,
        rule,
    )
    times = time_grid(num_steps, time_shift=time_shift).tolist()
    start = noise.detach().to(device=device, dtype=torch.float32)
    return _steps(guided_model, SOLVERS[solver](), start, times)


def _steps(
    guidance: Guidance, solver: Solver, x: Tensor, times: list[float]
) -> Generator[Step, None, None]:
    yield Step(0, times[0], x, None, None, 0)
    for index, (t, t_next) in enumerate(pairwise(times), start=1):
        # Not around the yield: the caller's own code, and its gradients, run there.
        with torch.no_grad():
            if guidance.skips(index - 1):
                velocity = torch.zeros_like(x)
            else:
                velocity = solver.step(guidance.field(t), x, t, t_next)
            image = predicted_image(x, velocity, t)
            x = x + (t_next - t) * velocity
        yield Step(index, t_next, x, velocity, image, guidance.nfe)


def _whole(name: str, value: Any, *, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


def _interval(value: Any) -> tuple[float, float]:
    rule = "guidance_interval must be two times (low, high) with 0 <= low < high <= 1"
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{rule}, got {value!r}")
    low, high = (_number("guidance_interval", bound) for bound in value)
    if not 0 <= low < high <= 1:
        raise ValueError(f"{rule}, got ({low}, {high})")
    return low, high


def _labels(class_ids: Any, num_classes: int | None) -> list[int]:
    values = class_ids.tolist() if hasattr(class_ids, "tolist") else class_ids
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) == 0:
        raise ValueError(
            f"class_ids must be one label for each image, got {class_ids!r}; pass a list like [0]"
        )
    labels = [_whole("each of class_ids", value, least=0) for value in values]
    if num_classes is not None and max(labels) >= num_classes:
        raise ValueError(
            f"class_ids must be at most {num_classes - 1}, since the model knows {num_classes} "
            f"classes, got {max(labels)}"
        )
    return labels


def _draw_noise(count: int, image_size: int | None, seed: Any) -> Tensor:
    if image_size is None:
        raise ValueError(
            "noise is needed, of shape (B, 3, H, W), since the model has no config.image_size"
        )
    first = _whole("seed", seed, least=0)
    if first + count > 2**32:
        raise ValueError(
            f"seed must be below 2**32 for every image, got {seed}, since PyTorch's CPU generator "
            "uses no more of it; use a smaller one"
        )
    return seeded_noise(count, (3, image_size, image_size), first)


def _check_noise(noise: Tensor, count: int, patch_size: int) -> None:
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise ValueError(
            f"noise must be a floating-point tensor of shape (B, 3, H, W), got {type(noise)}"
        )
    if noise.ndim != 4 or noise.shape[:2] != (count, 3):
        raise ValueError(
            f"noise must have the shape (B, 3, H, W) with B={count}, the number of class_ids, "
            f"got {tuple(noise.shape)}"
        )
    if any(size % patch_size or size == 0 for size in noise.shape[2:]):
        raise ValueError(
            f"noise height and width must be divisible by patch_size={patch_size}, "
            f"got {tuple(noise.shape[2:])}; draw it in another size"
        )
    if not noise.isfinite().all():
        raise ValueError("noise must be finite, got NaN or infinite values; draw it anew")
