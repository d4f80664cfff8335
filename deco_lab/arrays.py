"""NumPy arrays in the place of tensors, for functions that people give their own images."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")


def as_tensor(value: Any) -> Any:
    """Return an array of two or more axes as a tensor of its own memory; all else as it is.

    Raises
    ------
    ValueError
        For an array whose type PyTorch has not.
    """
    if not isinstance(value, np.ndarray) or value.ndim < 2:
        return value
    try:
        # A copy in order: arrays may be read-only, mirrored, or of the other byte order.
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise ValueError(
            f"an array must hold numbers that PyTorch knows, got {value.dtype}; use "
            "array.astype(numpy.float32)"
        ) from None


def takes_arrays(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function of tensors take arrays too, by `as_tensor`; what it returns stays as it is."""

    @wraps(function)
    def taking(*arguments: Given.args, **named: Given.kwargs) -> Result:
        changed = {name: as_tensor(value) for name, value in named.items()}
        return function(*map(as_tensor, arguments), **changed)  # type: ignore[reportCallIssue]

    return taking
