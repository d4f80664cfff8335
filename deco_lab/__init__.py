"""DeCo Lab: look inside a frequency-decoupled pixel diffusion model while it draws."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deco_lab.checkpoints import load
    from deco_lab.sampling import sample, sample_steps

__all__ = ["__version__", "load", "sample", "sample_steps"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: `deco_lab.environment` has to run without PyTorch."""
    homes = {"load": "checkpoints", "sample": "sampling", "sample_steps": "sampling"}
    if name not in homes:
        raise AttributeError(f"module 'deco_lab' has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"deco_lab.{homes[name]}"), name)
    return globals()[name]
