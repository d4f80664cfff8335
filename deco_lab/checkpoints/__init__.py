"""Checkpoints: models in files, our own and the published ones."""

from deco_lab.checkpoints.files import CheckpointError
from deco_lab.checkpoints.store import choose_device, load, read_training, save
from deco_lab.models.zoo import our_name, published_name

__all__ = [
    "CheckpointError",
    "choose_device",
    "load",
    "our_name",
    "published_name",
    "read_training",
    "save",
]
