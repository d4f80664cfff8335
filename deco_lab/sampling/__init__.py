"""Sampling: from noise to images, with any model and any solver."""

from deco_lab.sampling.guidance import Guidance
from deco_lab.sampling.loop import Step, sample, sample_steps
from deco_lab.sampling.solvers import SOLVERS, Solver

__all__ = ["SOLVERS", "Guidance", "Solver", "Step", "sample", "sample_steps"]
