"""Interactive figures of what happens over t: hovering reads off the values of a step.

Plotly is imported where it is used, so that everything else works without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deco_lab.plots.style import array_of, colour_of, title_of
from deco_lab.spectra import band_names, zigzag_order

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DB_RANGE = 80.0
"""Energies this many decibels below the largest are drawn as if they were there."""


def _plotly_layout(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="plotly_white",
        paper_bgcolor="white",
        font_color="black",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
    )


def band_share_curves(times: Any, shares: Mapping[str, Any], edges: Sequence[float]) -> go.Figure:
    """Return each part's share of each band over t, one panel for each band, to be hovered over.

    Parameters
    ----------
    times : array
        (T,), in [0, 1]: 0 is noise.
    shares : mapping of str to array
        (T, K) for each part, from `band_shares`.
    edges : sequence of float
        The K - 1 edges in cycles per pixel that the shares were computed with.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = band_names(edges)
    figure = make_subplots(
        cols=len(names),
        shared_yaxes=True,
        horizontal_spacing=0.025,
        subplot_titles=[f"{name} cycles per pixel" for name in names],
    )
    figure.update_annotations(font_size=12)
    for i, (label, values) in enumerate(shares.items()):
        array = array_of(values)
        for band in range(len(names)):
            figure.add_trace(
                go.Scatter(
                    x=array_of(times), y=array[:, band], name=title_of(label),
                    legendgroup=label, showlegend=band == 0, mode="lines",
                    line={"color": colour_of(label, i), "width": 2},
                    hovertemplate="%{y:.0%}",
                ),
                row=1, col=band + 1,
            )  # fmt: skip
    figure.update_xaxes(title_text="t (0 noise, 1 image)", hoverformat=".3f", tickvals=[0, 0.5, 1])
    figure.update_xaxes(ticktext=["0", "0.5", "1"], range=[0, 1])
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title_text="share of the band", col=1)
    _plotly_layout(figure, 320)
    figure.update_layout(hovermode="x unified")
    return figure


def energy_over_time(times: Any, energies: Any, *, patch_size: int = 1) -> go.Figure:
    """Return a map of raw DCT energy over t and zigzag index, in decibels, to be hovered over.

    Parameters
    ----------
    times : array
        (T,), in [0, 1]: 0 is noise.
    energies : array
        (T, n, n), one `dct_energy` for each time.
    patch_size : int
        For energies of a token map, its patch size in pixels: it scales the frequencies shown.
    """
    import plotly.graph_objects as go

    energies = array_of(energies)
    n = energies.shape[-1]
    order = np.array(zigzag_order(n))
    ordered = energies.reshape(len(energies), -1)[:, order].T  # (n * n, T)
    floor = max(ordered.max() * 10 ** (-_DB_RANGE / 10), np.finfo(float).tiny)
    radial = np.hypot(order // n, order % n) / (2 * n * patch_size)
    figure = go.Figure(
        go.Heatmap(
            x=array_of(times),
            y=np.arange(n * n),
            z=10 * np.log10(np.maximum(ordered, floor)),
            customdata=np.repeat(radial[:, None], ordered.shape[1], axis=1),
            colorscale="Cividis",
            colorbar={"title": "dB, white noise<br>of variance 1 is 0"},
            hovertemplate="t %{x:.3f}<br>coefficient %{y}: %{customdata:.3f} cycles per pixel"
            "<br>%{z:.1f} dB<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="t (0 noise, 1 image)")
    figure.update_yaxes(title_text="DCT coefficient (zigzag index)")
    _plotly_layout(figure, 400)
    return figure
