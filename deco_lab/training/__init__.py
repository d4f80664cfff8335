"""Training: `python -m deco_lab.training`, or a `Trainer` in a script."""

from deco_lab.training.recipe import TrainingConfig
from deco_lab.training.run import run
from deco_lab.training.trainer import Trainer

__all__ = ["Trainer", "TrainingConfig", "run"]
