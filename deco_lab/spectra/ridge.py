"""What can be read linearly from a vector: ridge regression, each image judged by other images.

    Y ~ b + X W,    W = (C_xx + penalty I)^-1 C_xy,    C the covariances of standardised features

The images are dealt into folds, whole groups at a time: what is predicted of an image was fitted on
other groups only, so that nothing is remembered of its photograph. The penalty is chosen for each
target by the error on one more fold left out of the fit, so that a target which cannot be predicted
is left at its mean.

References
----------
[1] Hoerl, Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", Technometrics
    12, 1970.
[2] Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", Journal of the Royal
    Statistical Society B 36, 1974.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deco_lab.spectra.bootstrap import Groups, group_numbers

PENALTIES = tuple(10.0**power for power in range(-4, 4))
"""To choose from; a standardised feature without relation to the others has the variance 1."""


def cross_fitted(
    features: Tensor,
    targets: Tensor,
    *,
    groups: Groups | None = None,
    folds: int = 5,
    penalties: Sequence[float] = PENALTIES,
) -> Tensor:
    """Return what features say of targets by ridge regressions fitted on other groups.

    Parameters
    ----------
    features : Tensor
        (M, N, F), of N places of M images, such as tokens.
    targets : Tensor
        (M, N, Q), of the same places.
    groups : sequence or array, optional
        (M,), a label for each image, such as its photograph; images of one label are never on both
        sides. None (default): every image by itself.
    folds : int
        How many at most, at least 3; as many as groups where those are fewer.
    penalties : sequence of float
        Above 0, to choose from for each target.

    Returns
    -------
    Tensor
        (M, N, Q), float64, on the CPU.

    Raises
    ------
    ValueError
        For features and targets of other places, fewer than three groups, or a choice out of range.
    """
    if features.ndim != 3 or targets.ndim != 3 or features.shape[:2] != targets.shape[:2]:
        raise ValueError(
            "features and targets must be of the same places, (M, N, F) and (M, N, Q), got "
            f"{tuple(features.shape)} and {tuple(targets.shape)}; stack them image by image"
        )
    if folds < 3 or not penalties or min(penalties) <= 0:
        raise ValueError(
            f"folds must be at least 3 and penalties above 0, got {folds} and {penalties}; 5 folds "
            "and the default penalties are usual"
        )
    M, F = len(features), features.shape[2]
    group = group_numbers(groups, M)
    count = len(np.unique(group))
    if count < 3:
        raise ValueError(
            f"groups must be at least 3 to fit, to choose and to judge by, got {count}; add images "
            "of other photographs"
        )
    fold, K = group % folds, min(folds, count)

    def rows(values: Tensor, i: int) -> Tensor:
        return values[i].detach().cpu().double()

    grams = torch.zeros(K, *[1 + F + targets.shape[2]] * 2, dtype=torch.float64)
    for i in range(M):
        x = rows(features, i)
        z = torch.cat([torch.ones_like(x[:, :1]), x, rows(targets, i)], 1)
        grams[fold[i]] += z.T @ z
    total = grams.sum(0)

    errors = torch.zeros(K, len(penalties), targets.shape[2], dtype=torch.float64)
    for a in range(K):
        for b in range(a):
            fitted = _fits(total - grams[a] - grams[b], F, penalties)
            errors[a] += _errors(grams[b], fitted)
            errors[b] += _errors(grams[a], fitted)
    chosen = errors.argmin(1)  # (K, Q)
    weights = [
        torch.gather(_fits(total - grams[k], F, penalties), 0, chosen[k].expand(1, 1 + F, -1))[0]
        for k in range(K)
    ]
    predictions = [weights[fold[i]][0] + rows(features, i) @ weights[fold[i]][1:] for i in range(M)]
    return torch.stack(predictions)


def _fits(gram: Tensor, F: int, penalties: Sequence[float]) -> Tensor:
    """Return b and W, (penalties, 1 + F, Q), of the sums of products of [1, X, Y]."""
    mean = gram[0, 1:] / gram[0, 0]
    covariance = gram[1:, 1:] / gram[0, 0] - mean[:, None] * mean
    spread = covariance.diagonal()[:F].clamp(min=0).sqrt()
    spread = torch.where(spread > 0, spread, 1)[:, None]
    values, vectors = torch.linalg.eigh(covariance[:F, :F] / spread / spread.T)
    along = vectors.T @ (covariance[:F, F:] / spread)
    W = torch.stack(
        [vectors @ (along / (values.clamp(min=0)[:, None] + p)) / spread for p in penalties]
    )
    return torch.cat([mean[F:] - mean[None, None, :F] @ W, W], 1)


def _errors(gram: Tensor, fitted: Tensor) -> Tensor:
    """Return the sum of squared errors on other rows, (penalties, Q), of their sums of products."""
    n = fitted.shape[1]
    explained = (fitted * (gram[:n, :n] @ fitted - 2 * gram[:n, n:])).sum(1)
    return gram.diagonal()[n:] + explained
