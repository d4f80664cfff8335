"""Where a run starts if not from noise: a picture with noise, or the state of another run.

    x = t * image + (1 - t) * noise

From there on sampling takes the steps of its grid that end later [1]. Where a picture is to stay,
the state is set back to it, with the noise of its time, after each step [2].

References
----------
[1] Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential
    Equations", arXiv 2108.01073.
[2] Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models",
    arXiv 2201.09865. Differs from [2]: no step is taken twice.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deco_lab.flow import interpolate
from deco_lab.setting import check_number


class State(Protocol):
    """A state of a run, such as a `Step`."""

    @property
    def t(self) -> float:
        """Time in [0, 1)."""
        ...

    @property
    def x(self) -> Tensor:
        """(B, 3, H, W)."""
        ...


@dataclass(frozen=True, eq=False)
class Start:
    """A picture that a run starts from, with the run's own noise.

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W), in [-1, 1], or (1, 3, H, W), one for all images of the run.
    t : float
        In [0, 1): how much of the picture there is at the start. 0 is pure noise.
    keep : Tensor, optional
        (H, W), (1, 1, H, W) or (B, 1, H, W), bool: where the picture stays as it is; the rest is
        drawn. None (default) keeps nothing.
    x : Tensor, optional
        (B, 3, H, W), the state at t of another run, to go on from where nothing is kept, in place
        of the picture with noise (default). With that run's seed and mask it is the same run.

    Raises
    ------
    ValueError
        Where an argument breaks a rule above.
    """

    image: Tensor
    t: float
    keep: Tensor | None = None
    x: Tensor | None = None

    def __post_init__(self) -> None:
        image, keep, x = self.image, self.keep, self.x
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim != 4:
            raise ValueError(
                f"image must be (B, 3, H, W), floating point in [-1, 1], got {_said(image)}"
            )
        if not bool(image.isfinite().all()):
            raise ValueError("image must be finite, got NaN or infinite values; choose another")
        check_time(self.t)
        if x is not None and (not x.is_floating_point() or x.shape[1:] != image.shape[1:]):
            raise ValueError(
                f"x of start must be (B, 3, H, W), floating point, of the image's size, "
                f"{tuple(image.shape[-2:])}, got {_said(x)}; take a step's x"
            )
        if keep is None:
            return
        if keep.dtype != torch.bool or keep.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"keep must be bool with the image's height and width, {tuple(image.shape[-2:])}, "
                f"got {_said(keep)}; compare a mask with a number"
            )
        if keep.ndim != 2 and (keep.ndim != 4 or keep.shape[1] != 1):
            raise ValueError(f"keep must be (H, W) or (B, 1, H, W), got {_said(keep)}")

    def state(self, noise: Tensor, t: float) -> Tensor:
        """Return the picture at a time, (B, 3, H, W), with the noise of a run, (B, 3, H, W)."""
        return interpolate(self.image.to(noise).expand_as(noise), noise, t)

    def begun(self, noise: Tensor) -> Tensor:
        """Return the state to start from, (B, 3, H, W), with the noise of a run."""
        if self.x is None:
            return self.state(noise, self.t)
        return self.kept(self.x.to(noise).expand_as(noise), noise, self.t)

    def kept(self, x: Tensor, noise: Tensor, t: float) -> Tensor:
        """Return a state at a time with the picture where it is to stay."""
        if self.keep is None:
            return x
        return torch.where(self.keep.to(x.device), self.state(noise, t), x)


def check_time(t: float) -> None:
    """Raise ValueError for a time at which nothing is left to draw."""
    check_number("t of start", t, 0, 1)
    if t == 1:
        raise ValueError("t of start must be below 1, where nothing is left to draw, got 1")


def _said(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    return type(value).__name__
