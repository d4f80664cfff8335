"""Fields: images without end whose best denoiser is known, for models that a minute can train.

Five classes, all of the same variance in every channel, on a torus (an image's left edge goes on at
its right one), so that every frequency of the discrete Fourier transform is by itself:

    gaussian 1/f^a          a = 1, 2, 3: Gaussian, of power c / f^a; of the mean, as of f = 1 / N
    leaves                  dead leaves [1]: opaque discs of random colours, the radii with density
                            r^-3, one before the other; edges, and power of about 1 / f^2
    leaves, phases shuffled the same with all phases replaced by those of white noise: their power,
                            and no edges. What differs between the two is only phase

Channels are drawn independently, except for the leaves' outlines, so that no two of them correlate.
From x_t = t image + (1 - t) noise the linear denoiser of least error is Wiener's [2], per frequency
with the class's power S:

    gain = t S / (t^2 S + (1 - t)^2)          error = (1 - t)^2 S / (t^2 S + (1 - t)^2)

For the Gaussian classes no denoiser at all is better; for the others, where phases or the share of
an image in its class's power tell more, one may be. `optimal_velocity` is this denoiser, with the
arguments of a model.

References
----------
[1] Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 41, 2001.
[2] Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949.
"""

from functools import lru_cache
from math import log10

import torch
from torch import Tensor

from deco_lab.config import FIELDS
from deco_lab.data.crops import CropSource, ImageBatch
from deco_lab.gaussian import velocity_gain

VARIANCE = 0.25
"""Of every channel of every class, the mean's included: one value in twenty leaves [-1, 1]."""
EXPONENTS = (1, 2, 3)
"""Of the power of the Gaussian classes, the first in label order."""
LEAVES, SHUFFLED = 3, 4
"""Labels of the dead leaves and of the same with their phases shuffled."""
NUM_LEAVES = 128
RADII = (1 / 16, 1 / 2)
"""Of the discs, smallest and largest, in image sizes."""


class FieldSampler(CropSource):
    """Draws fields; image by image, each from a seed of its own.

    Parameters
    ----------
    image_size : int
        Side of an image, in pixels.
    device : torch.device or str
        Where the images end up; they are drawn on the CPU.
    """

    def __init__(self, image_size: int = 32, *, device: torch.device | str = "cpu") -> None:
        super().__init__(image_size, len(FIELDS), FIELDS, device)

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seeds = torch.randint(2**31, (count,), generator=generator)
        return seeds, torch.randint(self.num_classes, (count,), generator=generator)

    def _cut(self, numbers: Tensor, class_ids: Tensor) -> ImageBatch:
        images = torch.empty(len(class_ids), 3, self.image_size, self.image_size)
        for label in class_ids.unique().tolist():
            chosen = class_ids == label
            images[chosen] = _fields(label, numbers[chosen].tolist(), self.image_size)
        return ImageBatch(images.to(self.device), class_ids.to(self.device))


def _fields(label: int, seeds: list[int], size: int) -> Tensor:
    """Return images of one class, (B, 3, size, size), float32, each from its seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    if label in (LEAVES, SHUFFLED):
        images = _dead_leaves(generators, size)
        if label == LEAVES:
            return images
        spectrum = torch.fft.rfft2(images)
        phases = torch.fft.rfft2(_white(generators, (1, size, size)))  # one for all channels
        phases = phases / phases.abs().clamp(min=torch.finfo(phases.dtype).tiny)
        phases[..., 0, 0] = 1
        return torch.fft.irfft2(spectrum * phases, s=(size, size))
    amplitude = field_power(label, size).sqrt().float()
    noise = torch.fft.fft2(_white(generators, (3, size, size)))
    return torch.fft.ifft2(noise * amplitude).real


def _white(generators: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=each) for each in generators])


def _dead_leaves(generators: list[torch.Generator], size: int) -> Tensor:
    """Return dead leaves, (B, 3, size, size), float32: a pixel has the colour of its first disc."""
    drawn = torch.stack([torch.rand(NUM_LEAVES + 1, 6, generator=each) for each in generators])
    small, large = (radius * size for radius in RADII)
    # The inverse of the share of radii below r, of density r^-3 between the smallest and largest.
    radii = (small**-2 - drawn[..., 0] * (small**-2 - large**-2)) ** -0.5
    place = torch.arange(size)
    away = (place - drawn[..., 1:3, None] * size).abs()  # (B, leaves, 2, size)
    away = torch.minimum(away, size - away).square()
    inside = away[:, :, 0, :, None] + away[:, :, 1, None, :] < radii[..., None, None].square()
    inside[:, -1] = True  # the ground behind them
    first = inside.flatten(2).byte().argmax(1)  # (B, pixels)
    colours = (2 * drawn[..., 3:] - 1) * (3 * VARIANCE) ** 0.5  # uniform, of that variance
    picked = colours.gather(1, first[..., None].expand(-1, -1, 3))
    return picked.transpose(1, 2).unflatten(2, (size, size)).contiguous()


@lru_cache(maxsize=32)
def field_power(class_id: int, size: int) -> Tensor:
    """Return the power of a class of fields at each frequency, the same for every channel.

    That of the leaves, and of their shuffled twins, is the transform of their covariance [1]: two
    pixels agree where the first disc, or the ground, that covers either covers both,

        P = both (1 - (1 - either)^K) / either + (1 - either)^K

    with the probabilities that one of K discs covers both of them or either of them.

    Parameters
    ----------
    class_id : int
        Label in `deco_lab.config.FIELDS`.
    size : int
        Side N of the images, in pixels.

    Returns
    -------
    Tensor
        (N, N), float64, at the frequencies of `torch.fft.fft2`: E |fft2(image)|^2 / N^2, whose mean
        is the variance.

    Raises
    ------
    ValueError
        For a label that is none of the fields'.
    """
    if class_id not in range(len(FIELDS)):
        raise ValueError(f"class_id must be from 0 to {len(FIELDS) - 1}, got {class_id}")
    if class_id < len(EXPONENTS):
        f = torch.fft.fftfreq(size, dtype=torch.float64)
        radius = (f[:, None].square() + f.square()).sqrt().clamp(min=1 / size)
        power = radius ** -EXPONENTS[class_id]
        return power * (VARIANCE / power.mean())
    both = _overlap(size)
    either = 2 * both[0, 0] - both
    neither = (1 - either) ** NUM_LEAVES
    return VARIANCE * torch.fft.fft2(both * (1 - neither) / either + neither).real


def _overlap(size: int) -> Tensor:
    """Return the mean share of the torus in both a disc and the disc moved by (row, column)."""
    small, large = (radius * size for radius in RADII)
    r = torch.logspace(log10(small), log10(large), 1025, dtype=torch.float64)
    weight = r**-2  # the density r^-3, on steps that are even in log r
    weight[[0, -1]] /= 2
    weight /= weight.sum()
    moves = torch.arange(-size, 2 * size, dtype=torch.float64)  # the discs of three tori a side
    d = (moves[:, None].square() + moves.square()).sqrt().flatten()
    area = torch.zeros_like(d)
    for radius, share in zip(r.tolist(), weight.tolist(), strict=True):
        half = (d / (2 * radius)).clamp(max=1)
        lens = 2 * radius**2 * (half.acos() - half * (1 - half.square()).sqrt())
        area += share * lens
    return area.view(3, size, 3, size).sum((0, 2)) / size**2


def optimal_velocity(x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
    """Return the velocity of Wiener's filter, a model to set others beside; arguments as a model's.

    For the Gaussian classes it is the expectation of image - noise, given x; for the others that of
    the best linear denoiser.

    Parameters
    ----------
    x : Tensor
        (B, 3, N, N), fields with noise.
    t : Tensor
        (B,), times in [0, 1]: 0 is noise.
    class_ids : Tensor
        (B,), labels in `deco_lab.config.FIELDS`.

    Returns
    -------
    Tensor
        (B, 3, N, N), in the dtype of x.
    """
    S = torch.stack([field_power(label, x.shape[-1]) for label in class_ids.tolist()])
    times = t.detach().cpu().double()[:, None, None]
    gain = torch.from_numpy(velocity_gain(S.numpy(), times.numpy()))
    gain = gain[:, None].to(x.device, torch.promote_types(x.dtype, torch.float32))
    return torch.fft.ifft2(torch.fft.fft2(x.to(gain.dtype)) * gain).real.to(x.dtype)
