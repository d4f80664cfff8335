"""What a classifier and a Frechet distance see of an image: energies that show, and colours.

    feature of coefficient (c, u, v) = log(E[c, u, v] + floor[c, u, v])

E is the mean energy of one 8 x 8 DCT coefficient of Y, Cb or Cr over the image's blocks, in grey
levels squared. The floor is where energy stops to show: (q / 2)^2, with q the step of JPEG's table
at quality 85. A coefficient below half a step is rounded to zero when the picture is stored [1].
Without a floor the logarithm of what nobody sees decides: a grey photograph has no chroma energy at
all, and half a grey level of it then outweighs the whole picture.

References
----------
[1] ITU-T Recommendation T.81, 1992, section A.3.4 and tables K.1 and K.2.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from deco_lab.spectra import block_dct, jpeg_table, rgb_to_ycbcr

Features = NDArray[np.float64]

BLOCK = 8
GREY_LEVELS = 127.5
"""Grey levels of 8 bits in one unit of an image in [-1, 1]."""


def as_stored(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) as a file of 8 bits keeps them: float32 in [-1, 1], on the CPU."""
    levels = ((images.detach().cpu().float().clamp(-1, 1) + 1) * GREY_LEVELS).round()
    return levels / GREY_LEVELS - 1


def coefficient_energy(images: Tensor) -> Tensor:
    """Return the mean energy of each coefficient of each image's Y, Cb and Cr.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W), in [-1, 1].

    Returns
    -------
    Tensor
        (B, 3, 8, 8), float64, in grey levels squared, on the CPU.
    """
    pixels = images.detach().cpu().float() * GREY_LEVELS
    return block_dct(rgb_to_ycbcr(pixels), BLOCK).double().square().mean((2, 3))


def visible_energy(quality: int = 85) -> Tensor:
    """Return (q / 2)^2, (3, 8, 8), float64: grey levels squared, below which JPEG keeps nothing."""
    steps = [jpeg_table(quality, chrominance) for chrominance in (False, True, True)]
    return (torch.stack(steps).double() / 2).square()


def image_features(images: Tensor, floor: Tensor | float | None = None) -> Features:
    """Return what the classifier and the Frechet distance see of images.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W), in [-1, 1].
    floor : Tensor or float, optional
        Energy that is added before the logarithm, grey levels squared, (3, 8, 8) or a number
        greater than 0; by default `visible_energy`.

    Returns
    -------
    array
        (B, 198): the log energies (192), then mean and standard deviation of R, G and B (6).
    """
    energy = coefficient_energy(images) + (visible_energy() if floor is None else floor)
    colours = images.detach().cpu().double().flatten(2)
    parts = [energy.log().flatten(1), colours.mean(2), colours.std(2)]
    return torch.cat(parts, dim=1).numpy()


def gradient_features(images: Tensor) -> Features:
    """Return which way edges run in images, and their colours: no power spectrum is among them.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W), in [-1, 1], at least 8 pixels a side.

    Returns
    -------
    array
        (B, 33): of luma at full, half and quarter size, the logarithm of the mean gradient, in grey
        levels, that runs in each of 8 orientations (24); then mean, standard deviation and skewness
        of R, G and B (9), in 32, 16 and 1 of their units.
    """
    pixels = images.detach().cpu().double() * GREY_LEVELS
    luma = rgb_to_ycbcr(pixels)[:, :1]
    histograms = []
    for size in (1, 2, 4):
        down, across = torch.gradient(F.avg_pool2d(luma, size), dim=(2, 3))
        bins = (torch.atan2(down, across) / torch.pi * 8).round().long() % 8
        length = torch.hypot(down, across)
        mean = [torch.where(bins == i, length, 0).mean((1, 2, 3)) for i in range(8)]
        histograms.append((torch.stack(mean, 1) + 1 / 8).log())
    colours = pixels.flatten(2)
    mean, std = colours.mean(2), colours.std(2) + 1
    skewness = ((colours - mean[..., None]) ** 3).mean(2) / std**3
    return torch.cat([*histograms, mean / 32, std / 16, skewness], 1).numpy()


def fit_classifier(features: Features, labels: NDArray[np.int64]) -> Pipeline:
    """Return scikit-learn's logistic regression of labels (M,) on features (M, F), fitted.

    The features are centred, not standardised: all log energies share a unit, and to divide by a
    spread of nearly zero would let what nobody sees decide. Of one class, the answer is that class.
    """
    if len(np.unique(labels)) == 1:
        return make_pipeline(DummyClassifier(strategy="most_frequent")).fit(features, labels)
    classifier = make_pipeline(StandardScaler(with_std=False), LogisticRegression(max_iter=2000))
    return classifier.fit(features, labels)
