"""The workbench behind the app: settings, runs, models and what is kept, without any widget."""

from deco_lab.workbench.bench import Workbench, sentence
from deco_lab.workbench.inlet import from_data_uri, read_picture
from deco_lab.workbench.keeping import (
    file_name,
    load_record,
    settings_from_png,
    to_csv,
    to_npz,
    to_png,
    to_snippet,
)
from deco_lab.workbench.library import PUBLISHED, Library, ModelError, ModelFacts
from deco_lab.workbench.loss import loss_share, split, tables_csv, weights
from deco_lab.workbench.parts import CHOICES, PartsView, curves_csv, explain
from deco_lab.workbench.presets import PRESETS
from deco_lab.workbench.record import Curve, Record
from deco_lab.workbench.settings import MAX_IMAGES, Settings, from_query, to_query
from deco_lab.workbench.source import SOURCES, picture_from

__all__ = [
    "CHOICES",
    "MAX_IMAGES",
    "PRESETS",
    "PUBLISHED",
    "SOURCES",
    "Curve",
    "Library",
    "ModelError",
    "ModelFacts",
    "PartsView",
    "Record",
    "Settings",
    "Workbench",
    "curves_csv",
    "explain",
    "file_name",
    "from_data_uri",
    "from_query",
    "load_record",
    "loss_share",
    "picture_from",
    "read_picture",
    "sentence",
    "settings_from_png",
    "split",
    "tables_csv",
    "to_csv",
    "to_npz",
    "to_png",
    "to_query",
    "to_snippet",
    "weights",
]
