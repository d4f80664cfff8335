"""The models: DeCo and its single-DiT baseline."""

from deco_lab.models.deco import DeCo, Model, build
from deco_lab.models.dit import DiT

__all__ = ["DeCo", "DiT", "Model", "build"]
