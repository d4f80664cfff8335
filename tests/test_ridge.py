"""Cross-fitted ridge regression: against least squares, and against what it must not find."""

import numpy as np
import pytest
import torch

from deco_lab.spectra.ridge import cross_fitted


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explained(targets: torch.Tensor, predicted: torch.Tensor) -> float:
    return float(1 - (targets - predicted).square().sum() / targets.square().sum())


def test_cross_fitted_is_least_squares_on_the_other_folds():
    x, y = drawn(1, 6, 20, 4) + 3, drawn(2, 6, 20, 2) - 5
    groups = [0, 1, 2, 0, 1, 2]  # three folds: images 0 and 3, 1 and 4, 2 and 5
    found = cross_fitted(x, y, groups=groups, penalties=(1e-12,))
    for k in range(3):
        others = [i for i in range(6) if groups[i] != k]
        design = np.concatenate([np.ones((80, 1)), x[others].flatten(0, 1).numpy()], 1)
        solution = np.linalg.lstsq(design, y[others].flatten(0, 1).numpy(), rcond=None)[0]
        expected = solution[0] + x[k].numpy() @ solution[1:]
        np.testing.assert_allclose(found[k].numpy(), expected, rtol=1e-8)


def test_cross_fitted_finds_a_linear_part_of_known_size():
    """White features and y = A x + e of equal energies: R^2 is 1/2, less what fitting costs."""
    x = drawn(3, 30, 200, 8)
    signal = x @ drawn(4, 8, 5)
    noise = drawn(5, 30, 200, 5) * signal.std((0, 1))
    both = signal + noise
    assert explained(both, cross_fitted(x, both)) == pytest.approx(0.5, abs=0.02)
    assert abs(explained(noise, cross_fitted(x, noise))) < 0.002  # left at its mean


def test_cross_fitted_does_not_remember_a_group():
    """Each group has a code and an answer of its own: only its own images could tell."""
    code, answer = drawn(6, 10, 1, 64).float(), drawn(7, 10, 1, 3).float()
    x, y = (v.repeat_interleave(4, 0).expand(-1, 16, -1) for v in (code, answer))
    groups = np.repeat([f"photograph {i}" for i in range(10)], 4)
    assert explained(y, cross_fitted(x, y)) > 0.9  # every image by itself
    assert explained(y, cross_fitted(x, y, groups=groups)) < 0.1


def test_cross_fitted_takes_features_that_never_change():
    x = drawn(8, 5, 10, 3)
    x[..., 1] = 2
    assert explained(x[..., :1], cross_fitted(x, x[..., :1])) > 0.999


def test_cross_fitted_does_not_blow_up_what_hardly_varies_in_the_fit():
    """The last image alone has much of the third feature, which tells nothing."""
    x = drawn(10, 12, 50, 3)
    target = x[..., :1] + 0.3 * drawn(11, 12, 50, 1)
    x[..., 2] *= 1e-3
    x[-1, :, 2] *= 1e3
    assert explained(target, cross_fitted(x, target)) > 0.8


def test_cross_fitted_says_what_does_not_fit():
    x = drawn(9, 4, 5, 2)
    with pytest.raises(ValueError, match="same places"):
        cross_fitted(x, x[:3])
    with pytest.raises(ValueError, match="at least 3 to fit"):
        cross_fitted(x, x, groups=[0, 0, 1, 1])
    with pytest.raises(ValueError, match="one label for each of 4"):
        cross_fitted(x, x, groups=[0, 1, 2])
    with pytest.raises(ValueError, match="folds must be at least 3"):
        cross_fitted(x, x, folds=2)
