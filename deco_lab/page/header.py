"""The line at the top of the page that says which model draws."""

import html

from deco_lab.workbench.library import ModelFacts


def image_side(facts: ModelFacts) -> str:
    """Return the side of a model's images in words, and whether it is a guess."""
    return f"{facts.image_size} px{' (assumed)' if facts.image_size_assumed else ''}"


def header(facts: ModelFacts) -> str:
    """Return the line as HTML, with the model's own names escaped."""
    size = f"{image_side(facts)}, patches of {facts.patch_size}"
    said = " &middot; ".join(
        (
            f"<b>{html.escape(facts.name)}</b>",
            f"{facts.kind}, {facts.parameters / 1e6:.1f} M parameters",
            size,
            html.escape(f"{facts.device}, {facts.dtype}"),
            html.escape(facts.trained_on),
        )
    )
    return f'<p class="facts">{said}</p>'
