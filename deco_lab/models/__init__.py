"""The models: DeCo and its single-DiT baseline."""

from deco_lab.models.deco import DeCo
from deco_lab.models.dit import DiT
from deco_lab.models.zoo import Model, build

__all__ = ["DeCo", "DiT", "Model", "build"]
