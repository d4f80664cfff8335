"""Sampling: from noise to images, with any model and any solver."""

from deco_lab.sampling.curve import Curve
from deco_lab.sampling.guidance import (
    GUIDANCE,
    BandGuidance,
    GuidanceRule,
    GuidedPair,
    NamedRule,
    PlainGuidance,
    ProjectedGuidance,
    RescaledGuidance,
    ZeroStarGuidance,
)
from deco_lab.sampling.guided import Guidance
from deco_lab.sampling.loop import Step, sample, sample_steps
from deco_lab.sampling.plan import Plan
from deco_lab.sampling.reuse import ReusedCondition
from deco_lab.sampling.solvers import SOLVERS, Solver
from deco_lab.sampling.start import Start

__all__ = [
    "GUIDANCE", "SOLVERS", "BandGuidance", "Curve", "Guidance", "GuidanceRule", "GuidedPair",
    "NamedRule", "PlainGuidance", "Plan", "ProjectedGuidance", "RescaledGuidance",
    "ReusedCondition", "Solver", "Start", "Step", "ZeroStarGuidance", "sample", "sample_steps",
]  # fmt: skip
