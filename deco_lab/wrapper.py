"""A model around another: it changes one thing, and all else is the inner model's.

    velocity = decode(x, condition(x, t, labels))

What asks a model whether it can do something (`hasattr`) gets the inner model's answer.
"""

import copy
from typing import Any, Self

from torch import Tensor, nn


class Wrapper(nn.Module):
    """Stands in the place of a model with a pixel decoder; to be subclassed.

    Whatever a subclass does not define, `config`, `features`, `decode` and all the rest, is passed
    through to the inner model; only names that begin with an underscore are not.

    Parameters
    ----------
    model : object
        Any model with `condition(x, t, labels)` and `decode(x, condition)`; kept as `model`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("_"):  # as while being copied
                raise
        return getattr(self.model, name)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, /) -> Tensor:
        """Return the velocity, (B, 3, H, W), by this model's own `condition` and `decode`."""
        return self.decode(x, self.condition(x, t, labels))

    def condition(self, x: Tensor, t: Tensor, labels: Tensor, /) -> Tensor:
        """Return the condition, (B, N, D): here the inner model's own."""
        return self.model.condition(x, t, labels)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity, (B, 3, H, W), of pixels and a condition: the inner model's own."""
        return self.model.decode(x, condition)

    def around(self, model: Any) -> Self:
        """Return the same wrapper around another model; what it remembers is shared."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.model = model
        return other
