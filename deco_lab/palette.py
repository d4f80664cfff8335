"""One colour for each thing, in every figure and on every screen.

Those of the parts are Okabe and Ito's [1], which people with any colour vision tell apart. They are
for areas and lines; words beside them are in ink.

References
----------
[1] Okabe, Ito, "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

LIGHT = {
    "condition": "#0072B2",
    "pixels": "#D55E00",
    "interaction": "#CC79A7",
    "baseline": "#6E6E6E",
    "image": "#0B7A5D",
    "velocity": "#1F2430",
    "band-0": "#33420A",
    "band-1": "#4F7A1A",
    "band-2": "#8A6D00",
    "band-3": "#A13C3C",
    "above": "#B35806",
    "below": "#542788",
    "painted": "#F0E442",
}
"""Of the parts, the predicted image and its velocity, the octaves from coarse to fine, of what is
above and below a middle, and of what a mask paints on a picture."""

DARK = {
    "condition": "#56B4E9",
    "pixels": "#F5944F",
    "interaction": "#E59BC4",
    "baseline": "#98A2B3",
    "image": "#3FC79C",
    "velocity": "#E4E7EC",
    "band-0": "#B9CF7A",
    "band-1": "#8FC35A",
    "band-2": "#E3BF3F",
    "band-3": "#F09A9A",
    "above": "#F1A340",
    "below": "#B7A6E8",
    "painted": "#F0E442",
}
"""The same where the background is dark."""


def as_css() -> str:
    """Return the colours as variables of a style sheet, such as --dl-condition."""
    themes = {".dl": LIGHT, ".dark .dl": DARK}
    return "".join(
        f"{scope} {{ {' '.join(f'--dl-{name}: {colour};' for name, colour in colours.items())} }}\n"
        for scope, colours in themes.items()
    )
