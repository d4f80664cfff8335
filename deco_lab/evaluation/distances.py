"""How far samples are from real crops: in spectrum, in features, and from the nearest of them.

    spectral error    mean over classes and rings of |10 log10(P_samples / P_real)|, in dB, with P
                      the radial power averaged over a class
    Frechet distance  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)), [1]
    nearest crop      root mean square difference of a sample to the nearest of many training crops

References
----------
[1] Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", arXiv 1706.08500, equation 6.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.spectra import radial_power

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

_SMALLEST_POWER = 1e-7
"""Of the power in images of [-1, 1]: a fiftieth of the noise of rounding to 8 bits, 5e-6."""


def frechet_distance(first: Array, second: Array) -> float:
    """Return the Frechet distance [1] between the Gaussians of two sets of features.

    Parameters
    ----------
    first, second : array
        (M, F) and (N, F), features of any kind. The estimate is larger for fewer rows: compare
        distances of equal M and N only.

    Raises
    ------
    ValueError
        Where the sets differ in width, have fewer than two rows, or are not finite.
    """
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise ValueError(
                f"{name} must hold finite features of shape (M, F) with M at least 2, got "
                f"{features.shape}; give one row for each image"
            )
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"second must have the width of first, {first.shape[1]}, got {second.shape[1]}; "
            "compute both in the same way"
        )
    return frechet_to_gaussian(first, second.mean(0), covariance(second))


def covariance(features: Array) -> Array:
    """Return the covariance of features (M, F), (F, F)."""
    return np.atleast_2d(np.cov(features, rowvar=False))


def frechet_to_gaussian(features: Array, mean: Array, cov: Array) -> float:
    """Return the Frechet distance [1] of features (M, F) to a Gaussian: mean (F,), cov (F, F).

    With A the centred features over sqrt(M - 1), C1 = A^T A, and C1^(1/2) C2 C1^(1/2) has the
    eigenvalues of A C2 A^T: M x M, which is small where there are fewer images than features.
    """
    difference = features.mean(0) - mean
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:  # any A with A^T A = C1 will do, such as R of its QR
        centred = np.asarray(np.linalg.qr(centred, mode="r"))
    overlap = np.sqrt(np.linalg.eigvalsh(centred @ cov @ centred.T).clip(0)).sum()
    traces = np.square(centred).sum() + np.trace(cov)
    return float(difference @ difference + traces - 2 * overlap)


def radial_powers(images: Tensor) -> Array:
    """Return each image's own radial power, (B, rings), for images (B, 3, H, W)."""
    return np.stack([radial_power(image[None]).power.numpy() for image in images])


def class_spectral_errors(
    power: Array, labels: Labels, real_power: Array, real_labels: Labels
) -> Array:
    """Return 10 log10 of the ratio of class-mean powers, in dB, (classes, rings).

    Parameters
    ----------
    power, real_power : array
        (M, rings) and (N, rings), each image's radial power.
    labels, real_labels : array
        (M,) and (N,); the classes are those of `labels`, in order.

    Raises
    ------
    ValueError
        Where a class of the first is not among the second.
    """
    classes = np.unique(labels)
    if missing := sorted(set(classes.tolist()) - set(real_labels.tolist())):
        raise ValueError(
            f"real_labels must hold every class of labels, got none of {missing}; "
            "draw real crops of the same classes"
        )
    means = [
        np.stack([p[which == label].mean(0) for label in classes])
        for p, which in ((power, labels), (real_power, real_labels))
    ]
    return 10 * np.log10((means[0] + _SMALLEST_POWER) / (means[1] + _SMALLEST_POWER))


def spectral_error(power: Array, labels: Labels, real_power: Array, real_labels: Labels) -> float:
    """Return the spectral error in dB; arguments as for `class_spectral_errors`."""
    return float(np.abs(class_spectral_errors(power, labels, real_power, real_labels)).mean())


def nearest_distances(images: Tensor, crops: Tensor) -> Array:
    """Return the root mean square difference of each image to the nearest crop, (B,).

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W), in [-1, 1].
    crops : Tensor
        (K, 3, H, W), with K at least 1.

    Returns
    -------
    array
        In the images' unit: 0 for a copy; one grey level is 1 / 127.5.
    """
    first, second = (pixels.detach().cpu().float().flatten(1) for pixels in (images, crops))
    squared = torch.cdist(first, second, compute_mode="use_mm_for_euclid_dist").square()
    return (squared.min(1).values / first.shape[1]).sqrt().double().numpy()
