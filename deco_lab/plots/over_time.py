"""Interactive figures of what happens over t: hovering reads off the values of a step.

Plotly is imported where it is used, so that everything else works without it: it comes with the
extra `notebooks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deco_lab.plots.style import LINES, TIME, array_of, band_title, colour_of, line_of, title_of
from deco_lab.spectra import band_names

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DASHES: dict[str, str] = dict(zip(LINES, ("solid", "dash", "dot", "dashdot"), strict=True))
"""How plotly calls matplotlib's line styles."""


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

    A single part has no legend, whose only use would be to hide it; the axis names it instead.

    Parameters
    ----------
    times : array
        (T,), in [0, 1]: 0 is noise.
    shares : mapping of str to array
        (T, K) for each part, from `band_shares`.
    edges : sequence of float
        The K - 1 edges in cycles per pixel that the shares were computed with.
    """
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "band_share_curves needs plotly: pip install 'deco-lab[notebooks]'", name=error.name
        ) from error

    names = band_names(edges)
    figure = make_subplots(
        cols=len(names),
        shared_yaxes=True,
        horizontal_spacing=0.025,
        subplot_titles=[band_title(name) for name in names],
    )
    figure.update_annotations(font_size=12)
    for i, (label, values) in enumerate(shares.items()):
        array = array_of(values)
        for band in range(len(names)):
            figure.add_trace(
                go.Scatter(
                    x=array_of(times), y=array[:, band], name=title_of(label),
                    legendgroup=label, showlegend=band == 0 and len(shares) > 1, mode="lines",
                    line={"color": colour_of(label, i), "dash": _DASHES[line_of(i)], "width": 2},
                    hovertemplate="%{y:.0%}",
                ),
                row=1, col=band + 1,
            )  # fmt: skip
    figure.update_xaxes(title_text=TIME, hoverformat=".3f", tickvals=[0, 0.5, 1])
    figure.update_xaxes(ticktext=["0", "0.5", "1"], range=[0, 1])
    figure.update_yaxes(tickformat=".0%")
    only = f"{title_of(next(iter(shares)))}, " if len(shares) == 1 else ""
    figure.update_yaxes(title_text=f"{only}share of the band", col=1)
    _plotly_layout(figure, 320)
    figure.update_layout(hovermode="x unified")
    return figure
