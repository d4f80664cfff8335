"""Evaluation while training: few samples against few fresh crops, to see where a run is going.

`python -m deco_lab.evaluation` on the finished model takes more of both.
"""

from dataclasses import fields
from functools import cached_property

from deco_lab.data import Source
from deco_lab.evaluation import Figures, Judge, judge_model
from deco_lab.models import Model

MOST_CLASSES = 28
"""Of more classes than these, as many are measured, evenly spaced."""
PER_CLASS = 4


class Measure:
    """Returns a model's figures by name, and those of real crops, named `real_...`.

    Parameters
    ----------
    source : Source
        What the model is trained on. Its held-out pictures are what is fresh, or other crops of
        the training pictures where none are held out.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def __call__(self, model: Model) -> dict[str, float]:
        """Return the figures of a few samples of `model`."""
        own = judge_model(model, self._judge, per_class=PER_CLASS).figures
        return _values(own) | self._floor

    @cached_property
    def _floor(self) -> dict[str, float]:
        real = _values(self._judge.real(PER_CLASS).figures)
        return {f"real_{name}": value for name, value in real.items()}

    @cached_property
    def _judge(self) -> Judge:
        training = self._source.crops
        fresh = self._source.fresh or training
        chosen = fresh.present[:: -(-len(fresh.present) // MOST_CLASSES)]
        return Judge(
            training,
            fresh,
            class_ids=tuple(chosen.tolist()),
            training_per_class=100,
            reference_per_class=100,
            nearest_per_class=200,
            resamples=2,
        )


def _values(figures: Figures) -> dict[str, float]:
    return {field.name: getattr(figures, field.name).value for field in fields(Figures)}
