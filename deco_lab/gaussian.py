"""What is best for Gaussian data: the curves to draw beside what a network does.

For zero-mean Gaussian images of power S(f), white noise of power 1 and x_t = t image + (1 - t)
noise, all is linear and each frequency stands for itself [1]:

    power of x_t             t^2 S + (1 - t)^2
    E[image | x_t]           W x_t,    W = t S / (t^2 S + (1 - t)^2)            the Wiener filter
    E[velocity | x_t]        g x_t,    g = (t S - (1 - t)) / (t^2 S + (1 - t)^2)
    error of E[image | x_t]  S (1 - t)^2 / (t^2 S + (1 - t)^2)                  the posterior power

and signal meets noise where t^2 S(f) = (1 - t)^2. Colours that go together make S a 3 x 3 matrix:
each of its eigenvalues is then a power of its own. The posterior power bounds the error of linear
filters, for images of the power it was given: what knows more, such as the class, can err less.

References
----------
[1] Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, NaN for 0 / 0: no power and no noise leave nothing to divide."""
    return np.divide(
        numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0
    )


def noisy_power(power: ArrayLike, t: ArrayLike) -> Array:
    """Return the power of x_t, t^2 S + (1 - t)^2.

    Parameters
    ----------
    power : array
        S, at least 0: power of the images, 1 for white noise of variance 1, any shape.
    t : array
        Times in [0, 1], of a shape that broadcasts with power.
    """
    S, t = np.asarray(power, np.float64), np.asarray(t, np.float64)
    return np.asarray(t**2 * S + (1 - t) ** 2)


def wiener_filter(power: ArrayLike, t: ArrayLike) -> Array:
    """Return W, the gain from x_t to the predicted image; NaN where t is 1 and power 0.

    Parameters
    ----------
    power, t : array
        As for `noisy_power`.
    """
    S, t = np.asarray(power, np.float64), np.asarray(t, np.float64)
    return _ratio(t * S, noisy_power(S, t))


def velocity_gain(power: ArrayLike, t: ArrayLike) -> Array:
    """Return g, the gain from x_t to the velocity: -1 at t = 0, 1 at t = 1, NaN as for `W`.

    Parameters
    ----------
    power, t : array
        As for `noisy_power`.
    """
    S, t = np.asarray(power, np.float64), np.asarray(t, np.float64)
    return _ratio(t * S - (1 - t), noisy_power(S, t))


def posterior_power(power: ArrayLike, t: ArrayLike) -> Array:
    """Return the power of the error of W x_t: S at t = 0, and 0 at t = 1 (NaN as for `W`).

    Parameters
    ----------
    power, t : array
        As for `noisy_power`.
    """
    S, t = np.asarray(power, np.float64), np.asarray(t, np.float64)
    return _ratio(S * (1 - t) ** 2, noisy_power(S, t))


def meeting_frequency(frequency: ArrayLike, power: ArrayLike, t: float) -> float:
    """Return where, coming from low frequencies, signal first falls to the noise.

    Parameters
    ----------
    frequency : array
        (R,), rising, in cycles per pixel. 0, the images' mean, is passed over.
    power : array
        (R,), S, such as `radial_power` gives.
    t : float
        Time in [0, 1].

    Returns
    -------
    float
        In cycles per pixel, interpolated in log S between rings; NaN where signal lies below the
        noise from the first ring on, or above it to the last.
    """
    f, S = np.asarray(frequency, np.float64), np.asarray(power, np.float64)
    f, S = f[f > 0], S[f > 0]
    if t in (0, 1):
        return float("nan")
    with np.errstate(divide="ignore"):
        excess = np.log(S) + 2 * np.log(t / (1 - t))
    below = np.flatnonzero(excess <= 0)
    if len(below) == 0 or below[0] == 0:
        return float("nan")
    k = below[0]
    if np.isneginf(excess[k]):
        return float(f[k])
    part = excess[k - 1] / (excess[k - 1] - excess[k])
    return float(f[k - 1] + part * (f[k] - f[k - 1]))
