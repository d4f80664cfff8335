"""Measuring samples against fresh crops: `python -m deco_lab.evaluation MODEL`, or a `Judge`."""

from deco_lab.evaluation.distances import frechet_distance, nearest_distances, spectral_error
from deco_lab.evaluation.features import image_features
from deco_lab.evaluation.fields import BENCH_TIMES, bundled_bench, primary_outcome, wiener_response
from deco_lab.evaluation.judge import Figures, Findings, Judge
from deco_lab.evaluation.samples import draw_samples, judge_model
from deco_lab.spectra.bootstrap import over_seeds

__all__ = [
    "BENCH_TIMES", "Figures", "Findings", "Judge", "bundled_bench", "draw_samples",
    "frechet_distance", "image_features", "judge_model", "nearest_distances", "over_seeds",
    "primary_outcome", "spectral_error", "wiener_response",
]  # fmt: skip
