"""One condition for several evaluations: the DiT rests while the pixel decoder goes on.

    condition(t') = silu(time(t') + tokens(t))        t <= t', the tokens of an earlier evaluation

The DiT is most of a pass and the decoder the smaller part, and between neighbouring times the last
block's tokens change little. So they are kept, and only the time embedding is brought up to date,
for k evaluations of the velocity in all. With k = 1 this is the model itself. What it costs in each
band is measured with `deco_lab.spectra.solver_error`.
"""

from typing import Any

from torch import Tensor

from deco_lab.labels import same_labels
from deco_lab.wrapper import Wrapper


class ReusedCondition(Wrapper):
    """A model whose DiT is asked at every k-th evaluation; for one run.

    Parameters
    ----------
    model : DeCo
        Any model with `features(x, t, labels)`, `condition_of(features, t)` and
        `decode(x, condition)`.
    evaluations : int
        k, at least 1: evaluations for which one pass of the DiT serves. It is asked again
        where the labels are others than the last time, as where guidance begins.

    Raises
    ------
    ValueError
        For a model without a pixel decoder, or one with something around it, which this would pass
        by: what is around a model goes around this.
    """

    def __init__(self, model: Any, evaluations: int) -> None:
        super().__init__(model)
        if not all(hasattr(model, name) for name in ("features", "condition_of", "decode")):
            raise ValueError(
                f"condition_reuse must be 1 for a model without a pixel decoder, got {evaluations}"
                f"; a {type(model).__name__} has not all of features, condition_of and decode"
            )
        if isinstance(model, Wrapper):
            kind = type(model).__name__
            raise ValueError(
                f"model must be the model itself, got a {kind}; put the {kind} around it: "
                f"{kind}(ReusedCondition(model, {evaluations}), ...)"
            )
        self.evaluations = evaluations
        self._features: Tensor | None = None
        self._labels: Tensor | None = None
        self._served = 0

    def condition(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the condition, (B, N, D), of this evaluation: each call counts as one."""
        known = same_labels(self._labels, labels)
        if not known or self._features is None or self._served == self.evaluations:
            self._features, self._labels = self.model.features(x, t, labels), labels
            self._served = 0
        self._served += 1
        return self.model.condition_of(self._features, t)


def with_reuse(model: Any, evaluations: int) -> Any:
    """Return `model` with `ReusedCondition` beneath all that is around it; itself where k is 1."""
    if evaluations == 1:
        return model
    if isinstance(model, Wrapper) and not isinstance(model, ReusedCondition):
        return model.around(with_reuse(model.model, evaluations))
    return ReusedCondition(model, evaluations)
