"""The browser app's tabs, as Gradio components that ask a `Workbench`; `app.py` lays them out."""

from deco_lab.page.api import endpoints
from deco_lab.page.header import header
from deco_lab.page.live import Live
from deco_lab.page.loss import LossTab
from deco_lab.page.models import ModelsTab
from deco_lab.page.parts import PartsTab
from deco_lab.page.sample import SampleTab
from deco_lab.page.server import check_access, free_port, serve, session_of

__all__ = [
    "Live",
    "LossTab",
    "ModelsTab",
    "PartsTab",
    "SampleTab",
    "check_access",
    "endpoints",
    "free_port",
    "header",
    "serve",
    "session_of",
]
