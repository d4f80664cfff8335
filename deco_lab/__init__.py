"""DeCo Lab: look inside a frequency-decoupled pixel diffusion model while it draws."""

from deco_lab.checkpoints import load
from deco_lab.sampling import sample, sample_steps

__all__ = ["load", "sample", "sample_steps"]
