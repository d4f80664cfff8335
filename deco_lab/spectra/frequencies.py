"""Where the coefficients of an image's Fourier transform lie, and what windows do to its borders.

The transform of H x W pixels has coefficients at (k_y, k_x) cycles per pixel; their radial
frequency is |k|, from 0 to sqrt(0.5) in the corners, and Nyquist is 0.5 along each axis. Rings of
equal width gather coefficients of about one radial frequency, whatever the direction.

Opposite borders of a photograph do not match, and the transform, which sees the image as periodic,
reads the jump as an edge: a cross of energy that falls only as 1 / f^2. A window tapers the image
to its borders, at the price of spreading each wave over its neighbours. Padding with zeros samples
the same spectrum more finely, and tells nothing new.
"""

import torch
from torch import Tensor

WINDOWS = (None, "hann")
AVERAGES = ("power", "log")


def radial_frequency(height: int, width: int, *, half: bool = False) -> Tensor:
    """Return |k| of each FFT coefficient in cycles per pixel, (H, W), float64.

    With `half`, (H, W // 2 + 1): the columns that rfft2 keeps. Corners reach sqrt(0.5).
    """
    vertical = torch.fft.fftfreq(height, dtype=torch.float64) * height
    horizontal = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(width, dtype=torch.float64)
    return radius(vertical.round(), height, (horizontal * width).round(), width)


def radius(up: Tensor, height: int, along: Tensor, width: int) -> Tensor:
    """Return hypot(up / height, along / width), (U, V), of whole numbers, (U,) and (V,), float64.

    One root of a whole number and one quotient, so that a frequency which is a fraction p / q is
    the float p / q: (21, 28) of 140 is not below an edge at 1 / 4.
    """
    return ((up[:, None] * width) ** 2 + (along * height) ** 2).sqrt() / (height * width)


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise ValueError where `images` is not a batch that holds pixels."""
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"{name} must have shape (B, C, H, W) and hold pixels, got {tuple(images.shape)}; "
            "add the missing axes"
        )


def check_estimator(
    window: str | None = None, padding: int = 1, average: str = "power"
) -> dict[str, str | int | None]:
    """Return the choices for a recipe; raise ValueError for one that is unknown."""
    if window not in WINDOWS:
        raise ValueError(f'window must be None or "hann", got {window!r}')
    if padding < 1:
        raise ValueError(f"padding must be at least 1, got {padding}; 2 doubles each side")
    if average not in AVERAGES:
        raise ValueError(f'average must be "power" or "log", got {average!r}')
    return {"window": window, "padding": padding, "average": average}


def taper(height: int, width: int, window: str | None) -> Tensor:
    """Return the window, (H, W), float64: ones, or the product of two periodic Hann windows."""
    if window is None:
        return torch.ones(height, width, dtype=torch.float64)
    vertical, horizontal = (torch.hann_window(n, dtype=torch.float64) for n in (height, width))
    return vertical[:, None] * horizontal


def mirrored(width: int) -> Tensor:
    """Return how many coefficients of the full FFT each column of rfft2 stands for, (W//2+1,)."""
    copies = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    copies[0] = 1
    if width % 2 == 0:
        copies[-1] = 1
    return copies


def ring_of_frequencies(height: int, width: int) -> Tensor:
    """Return the ring of each coefficient that rfft2 keeps, (H, W // 2 + 1).

    Rings are 1 / min(H, W) cycles per pixel wide, so a square image's ring k gathers the waves of
    about k cycles per image; those from min(H, W) // 2 + 1 up lie beyond Nyquist.
    """
    side = min(height, width)
    # What lies in the middle between two rings belongs to the upper, whatever the product rounds.
    return (radial_frequency(height, width, half=True) * side + 0.5 + 1e-12).floor().long()


def ring_frequencies(height: int, width: int) -> Tensor:
    """Return the rings' centres in cycles per pixel, (R,), float64, from 0 to at most 0.5."""
    side = min(height, width)
    return torch.arange(side // 2 + 1, dtype=torch.float64) / side


def ring_counts(height: int, width: int) -> Tensor:
    """Return how many coefficients of the full FFT each ring holds, (R,), float64."""
    ring = ring_of_frequencies(height, width)
    rings = min(height, width) // 2 + 1
    weights = mirrored(width).expand(ring.shape)
    inside = ring < rings
    return torch.zeros(rings, dtype=torch.float64).index_add_(0, ring[inside], weights[inside])
