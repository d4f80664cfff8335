"""Measuring samples against fresh crops: `python -m deco_lab.evaluation MODEL`, or a `Judge`."""

from deco_lab.evaluation.distances import frechet_distance, nearest_distances, spectral_error
from deco_lab.evaluation.features import image_features, inception_features
from deco_lab.evaluation.judge import FIGURE_TITLES, Figures, Findings, Judge

__all__ = [
    "FIGURE_TITLES",
    "Figures",
    "Findings",
    "Judge",
    "frechet_distance",
    "image_features",
    "inception_features",
    "nearest_distances",
    "spectral_error",
]
