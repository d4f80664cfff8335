"""Figures of images, spectra, parts and training, for notebooks and the app alike.

Each function takes arrays (tensors or numpy, on any device) and returns a figure: matplotlib's
where a picture says it all, plotly's (over t) where reading off the value at a step helps. Every
axis says its unit.
"""

from deco_lab.plots.excess import excess_figure
from deco_lab.plots.guidance import (
    burn_figure,
    burnt_pixels,
    change_curves,
    guidance_curves,
    guidance_growth,
    guided_figure,
)
from deco_lab.plots.interventions import intervention_figure
from deco_lab.plots.layers import layer_curves
from deco_lab.plots.loss import (
    error_change_figure,
    favoured_figure,
    loss_share_bars,
    weight_curves,
    weights_figure,
)
from deco_lab.plots.measures import measures_figure
from deco_lab.plots.over_time import band_share_curves
from deco_lab.plots.parts import (
    budget_figure,
    detail_curves,
)
from deco_lab.plots.pictures import decomposition_figure, image_grid, picture_rows
from deco_lab.plots.response import response_curves
from deco_lab.plots.seams import grid_figure, seam_curves
from deco_lab.plots.settling import (
    band_pictures,
    few_steps_figure,
    settling_figure,
    shift_figure,
    solver_error_curves,
)
from deco_lab.plots.shares import (
    control_figure,
    effect_curves,
    reference_ranges,
    split_curves,
)
from deco_lab.plots.taps import dct_curves, tap_curves, tap_maps
from deco_lab.plots.training import evaluation_figure, loss_curve

__all__ = [
    "band_pictures",
    "band_share_curves",
    "budget_figure",
    "burn_figure",
    "burnt_pixels",
    "change_curves",
    "control_figure",
    "dct_curves",
    "decomposition_figure",
    "detail_curves",
    "effect_curves",
    "error_change_figure",
    "evaluation_figure",
    "excess_figure",
    "favoured_figure",
    "few_steps_figure",
    "grid_figure",
    "guidance_curves",
    "guidance_growth",
    "guided_figure",
    "image_grid",
    "intervention_figure",
    "layer_curves",
    "loss_curve",
    "loss_share_bars",
    "measures_figure",
    "picture_rows",
    "reference_ranges",
    "response_curves",
    "seam_curves",
    "settling_figure",
    "shift_figure",
    "solver_error_curves",
    "split_curves",
    "tap_curves",
    "tap_maps",
    "weight_curves",
    "weights_figure",
]
