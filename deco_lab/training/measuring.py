"""Evaluation while training: few samples against few fresh crops, to see where a run is going.

`python -m deco_lab.evaluation` on the finished model takes more of both.
"""

from dataclasses import fields

import numpy as np

from deco_lab.data import PictureCrops, Source
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
        self._judge: Judge | None = None
        self._floor: dict[str, float] = {}

    def __call__(self, model: Model) -> dict[str, float]:
        """Return the figures of a few samples of `model`."""
        if self._judge is None:  # what takes time waits until it is needed
            self._judge = self._new_judge()
            real = self._judge.real(PER_CLASS).figures
            self._floor = {f"real_{f.name}": getattr(real, f.name).value for f in fields(Figures)}
        own = judge_model(model, self._judge, per_class=PER_CLASS).figures
        return {f.name: getattr(own, f.name).value for f in fields(Figures)} | self._floor

    def _new_judge(self) -> Judge:
        training = self._source.crops
        fresh = self._source.fresh or training
        present = np.arange(fresh.num_classes)
        if isinstance(fresh, PictureCrops):
            present = np.unique(fresh.pictures.labels)
        chosen = present[:: -(-len(present) // MOST_CLASSES)]
        return Judge(
            training,
            fresh,
            class_ids=tuple(chosen.tolist()),
            training_per_class=100,
            reference_per_class=100,
            nearest_per_class=200,
            resamples=2,
        )
