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

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from deco_lab.flow import predicted_image, seeded_noise, time_grid
from deco_lab.labels import Labels, class_labels
from deco_lab.sampling.curve import Curve, as_curve
from deco_lab.sampling.guidance import GuidanceRule, GuidedPair, as_rule
from deco_lab.sampling.guided import Guidance, VelocityModel
from deco_lab.sampling.plan import Plan, check_seeds
from deco_lab.sampling.reuse import with_reuse
from deco_lab.sampling.solvers import SOLVERS, Solver
from deco_lab.sampling.start import Start, State, check_time


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
    """(B, 3, H, W), previous x + (1 - previous t) * velocity, unclamped; where a `Start` keeps its
    picture, that. None at index 0."""
    nfe: int
    """Network passes per image since the noise; a guided pair counts 2. With `condition_reuse` k,
    the DiT took part in about one of k."""


def sample(
    model: VelocityModel,
    class_ids: Sequence[int] | Tensor | Labels,
    *,
    num_steps: int = 50,
    guidance_scale: float = 3.0,
    guidance_interval: tuple[float, float] = (0.1, 1.0),
    guidance_curve: Curve | Sequence[float] | None = None,
    solver: str = "euler",
    time_shift: float = 1.0,
    seed: int = 0,
    noise: Tensor | None = None,
    guidance: GuidanceRule | Callable[[GuidedPair], Tensor] | None = None,
    condition_reuse: int = 1,
    start: Start | State | None = None,
) -> Tensor:
    """Return images of the given classes, the last state of `sample_steps`.

    Parameters
    ----------
    model, class_ids, num_steps, guidance_scale, guidance_interval, solver, time_shift, seed
        As for `sample_steps`, as are guidance_curve, noise, guidance, condition_reuse and start.

    Returns
    -------
    Tensor
        (B, 3, H, W), float32, on the model's device. Images lie in [-1, 1] except where the
        model overshoots: nothing is clamped.

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
    steps = sample_steps(**locals())  # of the same arguments
    x = next(steps).x
    for step in steps:
        x = step.x
    return x


def sample_steps(
    model: VelocityModel,
    class_ids: Sequence[int] | Tensor | Labels,
    *,
    num_steps: int = 50,
    guidance_scale: float = 3.0,
    guidance_interval: tuple[float, float] = (0.1, 1.0),
    guidance_curve: Curve | Sequence[float] | None = None,
    solver: str = "euler",
    time_shift: float = 1.0,
    seed: int = 0,
    noise: Tensor | None = None,
    guidance: GuidanceRule | Callable[[GuidedPair], Tensor] | None = None,
    condition_reuse: int = 1,
    start: Start | State | None = None,
) -> Generator[Step, None, None]:
    """Check the arguments, then give the noise and each step towards the images as it is computed.

    Parameters
    ----------
    model : callable
        (x, t, class_ids) -> velocity, in shapes (B, 3, H, W), (B,), (B,) -> (B, 3, H, W). The
        noise's size is `model.config.image_size` and the null class `model.config.num_classes`,
        where it has them. It is called without gradients, on the device of its parameters, if any.
    class_ids : sequence of int, Tensor or Labels
        B labels, one for each image, from 0 to num_classes - 1; or whatever else the model is
        conditioned on, as `deco_lab.labels.Labels`.
    num_steps : int
        Solver steps, at least 1.
    guidance_scale : float
        w in uncond + w * (cond - uncond), at least 0; 1 is off.
    guidance_interval : tuple of float
        (low, high] in t, 0 <= low < high <= 1: steps that start in it are guided, throughout. The
        lower end is open, so the step that starts from pure noise, t = 0, is never guided.
    guidance_curve : Curve or sequence of float, optional
        How much of guidance the steps in the interval have, by the time at which they start:
        1 + curve(t) * (w - 1) in place of w, and of each scale of `BandGuidance`. At least 0, where
        a step is not guided; None is 1 throughout. Numbers are the values of a `Curve`.
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
    start : Start or Step, optional
        Where to start instead of the noise: a picture with noise at a time, of which some may stay
        as it is (see `Start`), or the state of another run, such as one of its steps, to go on from
        with other settings. Of the num_steps those are taken that end later, the first from there.

    Yields
    ------
    Step
        num_steps + 1 of them without a `start`; the first is the noise, or the start. Closing the
        generator early is safe.

    Raises
    ------
    ValueError
        At the call, not at the first step, where an argument breaks a rule above or the model
        has no config and the argument that stands in for it is missing.
    """
    plan = Plan(
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        solver=solver,
        time_shift=time_shift,
        seed=seed,
        condition_reuse=condition_reuse,
    )
    config = getattr(model, "config", None)
    if isinstance(class_ids, Labels):
        labels = class_ids
    else:
        labels = class_labels(class_ids, getattr(config, "num_classes", None))
    if start is not None:
        noise = _noise_of(start, noise, plan.seed, len(labels))
    if noise is not None:
        _check_noise(noise, len(labels), getattr(config, "patch_size", 1))
    elif side := getattr(config, "image_size", None):
        check_seeds(plan.seed, len(labels))
        noise = seeded_noise(len(labels), (3, side, side), plan.seed)
    else:
        raise ValueError("noise is needed, (B, 3, H, W), since the model has no config.image_size")
    parameters = getattr(model, "parameters", tuple)
    device = next((parameter.device for parameter in parameters()), noise.device)
    guided = Guidance(
        with_reuse(model, plan.condition_reuse),
        labels.to(device),
        plan.guidance_scale,
        plan.guidance_interval,
        as_rule(guidance),
        as_curve("guidance_curve", guidance_curve),
    )
    if guided.is_on and labels.null is None:
        raise ValueError(
            "guidance needs the null class, model.config.num_classes, which this model does not "
            "have; pass guidance_scale=1 and no guidance of its own scales"
        )
    if guided.skips(plan.num_steps - 1):
        raise ValueError(
            f"guidance must leave a step to take, got {guidance}, which skips all {num_steps}; "
            "take more steps"
        )
    times = time_grid(plan.num_steps, time_shift=plan.time_shift).tolist()
    noise = noise.detach().to(device=device, dtype=torch.float32)
    x, first = noise, 0
    if start is not None:
        x = start.begun(noise) if isinstance(start, Start) else noise
        left = [t for t in times if t > start.t + 1e-9]
        first = len(times) - len(left) - 1
        times = [start.t, *left]
    kept = start if isinstance(start, Start) and start.keep is not None else None
    return _steps(guided, SOLVERS[plan.solver](), x, times, noise, kept, first)


def _steps(
    guidance: Guidance,
    solver: Solver,
    x: Tensor,
    times: list[float],
    noise: Tensor,
    kept: Start | None,
    first: int,
) -> Generator[Step, None, None]:
    yield Step(0, times[0], x, None, None, 0)
    for index, (t, t_next) in enumerate(pairwise(times), start=1):
        # Not around the yield: the caller's own code, and its gradients, run there.
        with torch.no_grad():
            if guidance.skips(first + index - 1):
                velocity = torch.zeros_like(x)
            else:
                velocity = solver.step(guidance.field(t), x, t, t_next)
            image = predicted_image(x, velocity, t)
            x = x + (t_next - t) * velocity
            if kept is not None:
                x = kept.kept(x, noise, t_next)
                image = kept.kept(image, noise, 1.0)
        yield Step(index, t_next, x, velocity, image, guidance.nfe)


def _noise_of(start: Start | State, noise: Tensor | None, seed: int, count: int) -> Tensor:
    """Return the noise of a run that starts from a picture; of one that goes on, its state."""
    if not isinstance(start, Start):
        check_time(start.t)
        if noise is not None:
            raise ValueError("noise must be left out where start is a state, which has its own")
        return start.x
    sizes = {
        len(tensor)
        for tensor in (start.image, start.keep, start.x)
        if tensor is not None and tensor.ndim == 4
    }
    if not sizes <= {1, count}:
        raise ValueError(
            f"start must have one image and one mask, or {count}, the number of class_ids, got "
            f"{max(sizes)}"
        )
    if noise is None:
        check_seeds(seed, count)
        return seeded_noise(count, start.image.shape[1:], seed)
    if noise.shape[1:] != start.image.shape[1:]:
        raise ValueError(
            f"noise must have the size of the start's image, {tuple(start.image.shape[1:])}, got "
            f"{tuple(noise.shape[1:])}"
        )
    return noise


def _check_noise(noise: Tensor, count: int, patch_size: int) -> None:
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise ValueError(f"noise must be a floating-point tensor (B, 3, H, W), got {type(noise)}")
    sides = noise.shape[2:]
    if noise.shape[:2] != (count, 3) or len(sides) != 2 or any(n % patch_size for n in sides):
        raise ValueError(
            f"noise must have the shape (B, 3, H, W) with B={count}, the number of class_ids, and "
            f"H and W divisible by patch_size={patch_size}, got {tuple(noise.shape)}"
        )
    if not noise.isfinite().all():
        raise ValueError("noise must be finite, got NaN or infinite values; draw it again")
