"""The workbench behind the app: settings, runs, models and what is kept, without any widget."""

from deco_lab.workbench.bench import Workbench
from deco_lab.workbench.examples import opening_run
from deco_lab.workbench.library import Library
from deco_lab.workbench.parts import PartsView
from deco_lab.workbench.script import to_snippet
from deco_lab.workbench.settings import Settings, from_query, to_query
from deco_lab.workbench.sweeping import Sweep, sweep

__all__ = [
    "Library", "PartsView", "Settings", "Sweep", "Workbench", "from_query", "opening_run", "sweep",
    "to_query", "to_snippet",
]  # fmt: skip
