"""The straight path between noise and image, and its times.

    x_t = t * image + (1 - t) * noise          velocity = image - noise

Here t = 0 is noise and t = 1 is the image, as in the published code and checkpoints; the text of
the paper [1] runs the other way. From a point on the path and its velocity follow both ends:

    predicted_image = x_t + (1 - t) * velocity          predicted_noise = x_t - t * velocity

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365.
[2] Li, He, "Back to Basics: Let Denoising Generative Models Denoise" (JiT), arXiv 2511.13720.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Time = TypeVar("Time", float, Tensor)


def _per_image(t: Tensor | float, like: Tensor) -> Tensor | float:
    """Give t, (B,) or a number, the trailing axes that multiply it with images (B, ...)."""
    if isinstance(t, Tensor) and t.ndim == 1:
        return t.reshape(-1, *[1] * (like.ndim - 1))
    return t


def interpolate(image: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """Return x_t, (B, C, H, W), for image and noise (B, C, H, W) at t in [0, 1], (B,) or a number.

    Times are kept in their own precision (float32 or better) until they meet the images.
    """
    t = _per_image(t, image)
    return t * image + (1 - t) * noise


def velocity_target(image: Tensor, noise: Tensor) -> Tensor:
    """Return image - noise, what the network learns; the shape of both."""
    return image - noise


MIN_TIME_LEFT = 0.05
"""What 1 - t is taken for, at least, where a velocity is made of an image, as in [2]."""


def velocity_towards(image: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
    """Return (image - x) / max(1 - t, 0.05), the velocity from x at t, (B,) or a number, to image.

    For an image on the path this is image - noise up to t = 0.95, and less after it: the target,
    and the velocity, of a network that predicts the image [2].
    """
    t = _per_image(t, x)
    left = 1 - t
    if isinstance(left, Tensor):
        return (image - x) / left.clamp(min=MIN_TIME_LEFT)
    return (image - x) / max(left, MIN_TIME_LEFT)


def predicted_image(x: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """Return the image that `velocity`, (B, C, H, W), predicts from `x` at t, (B,) or a number."""
    return x + (1 - _per_image(t, x)) * velocity


def shift_time(t: Time, time_shift: float) -> Time:
    """Return t / (t + (1 - t) * time_shift); above 1 it spends more steps near the noise.

    Parameters
    ----------
    t : float or Tensor
        Times in [0, 1].
    time_shift : float
        Greater than 0; 1 leaves the times as they are.
    """
    return t / (t + (1 - t) * time_shift)


def seeded_noise(count: int, shape: Sequence[int], seed: int) -> Tensor:
    """Return standard normal noise, (count, *shape), float32, on the CPU.

    Image i is drawn by a generator of its own, seeded with seed + i: it never depends on its batch.
    PyTorch's CPU generator uses the lower 32 bits of a seed: others that share them are the same.
    """
    generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]
    return torch.stack(
        [torch.randn(*shape, generator=g, dtype=torch.float32, device="cpu") for g in generators]
    )


def sample_times(
    count: int,
    *,
    time_shift: float = 1.0,
    uniform: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw training times, (count,), float32: the sigmoid of a standard normal, shifted.

    Of these, 1 in 600 is above 0.95 and 1 in 20,000 above 0.98, where samplers do step. `uniform`
    is the share of times that are drawn uniformly instead, before the shift. The draw is made on
    the generator's device (the CPU without one).
    """
    device = generator.device if generator is not None else "cpu"
    t = torch.sigmoid(torch.randn(count, generator=generator, device=device))
    if uniform:
        chance = torch.rand(count, generator=generator, device=device)
        t = torch.where(chance < uniform, chance / uniform, t)  # uniform, where it is chosen
    return shift_time(t, time_shift)


def time_grid(num_steps: int, *, time_shift: float = 1.0) -> Tensor:
    """Return the num_steps + 1 sampling times from 0 to 1, (num_steps + 1,), float64, shifted."""
    return shift_time(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64), time_shift)
