"""The line at the top of the page that says which model draws."""

import html

from deco_lab.workbench import ModelFacts


def header(facts: ModelFacts) -> str:
    """Return the line as HTML, with the model's own names escaped."""
    size = f"{facts.image_size} px, patches of {facts.patch_size}"
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
