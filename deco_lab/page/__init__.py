"""The browser app's tabs, as Gradio components that ask a `Workbench`; `app.py` lays them out."""

try:
    import gradio  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"deco_lab.page needs {error.name}: pip install 'deco-lab[app]'", name=error.name
    ) from error

from deco_lab.page.api import endpoints
from deco_lab.page.assets import session_of
from deco_lab.page.header import header
from deco_lab.page.live import Live
from deco_lab.page.loss import LossTab
from deco_lab.page.measure import MeasureTab
from deco_lab.page.models import ModelsTab
from deco_lab.page.parts import PartsTab
from deco_lab.page.sample import SampleTab
from deco_lab.page.server import check_access, serve
from deco_lab.page.sweep import SweepTab

__all__ = [
    "Live", "LossTab", "MeasureTab", "ModelsTab", "PartsTab", "SampleTab", "SweepTab",
    "check_access", "endpoints", "header", "serve", "session_of",
]  # fmt: skip
