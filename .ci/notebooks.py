"""Run notebooks and store them with what they show: `python .ci/notebooks.py [NAME ...]`.

Of each, README shows a small figure, which is stored beside README's others.

Widgets are left out of what is stored, since they do nothing without a kernel; the cell before each
has drawn the same figure once. Beside plotly's curves, which a page without scripts does not show,
stands a picture of them.
"""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from jupyter_client.manager import start_new_kernel
from PIL import Image
from plotly.graph_objects import Figure

from deco_lab.plots.style import dress, new_figure

FOLDER = Path(__file__).parent.parent / "notebooks"
SHOWN = {"stream", "display_data", "execute_result"}
TEMPORARY = re.escape(tempfile.gettempdir()) + r"/\w+"
SHOWN_IN_README = {"04_guidance_in_frequency": 3, "06_train_your_own": 2}
"""Which of a notebook's figures README shows, where it is not the first, 0."""
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def stored(path: Path) -> None:
    """Run a notebook and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    # Not nbclient, whose asynchronous sockets lose a wake-up now and then.
    manager, kernel = start_new_kernel(kernel_name="python3", cwd=str(FOLDER))
    try:
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            messages: list[dict[str, Any]] = []
            reply = kernel.execute_interactive(
                cell.source, allow_stdin=False, timeout=1200, output_hook=messages.append
            )["content"]
            if reply["status"] != "ok":
                sys.exit("\n".join(reply["traceback"]))
            cell.outputs = joined(
                nbformat.v4.output_from_msg(message)
                for message in messages
                if message["msg_type"] in SHOWN and WIDGET not in message["content"].get("data", {})
            )
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = None
                if PLOTLY in output.get("data", {}):
                    output["data"]["image/png"] = picture(output["data"][PLOTLY])
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    nbformat.write(notebook, path)
    show_in_readme(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def picture(curves: dict[str, Any]) -> str:
    """Return what plotly draws of curves in a row of panels, as a PNG in base64."""
    figure = Figure(curves["data"], curves["layout"])
    titles = [str(note.text) for note in figure.layout.annotations]
    drawn = new_figure(2.4 * len(titles), 2.8)
    panels = drawn.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for trace in figure.data:
        axes = panels[int(trace.xaxis[1:] or 1) - 1]
        style = {"color": trace.line.color, "linestyle": DASHES[trace.line.dash]}
        label = trace.name if trace.showlegend else None
        axes.plot(numbers(trace.x), numbers(trace.y), label=label, **style)
    for axes, title in zip(panels, titles, strict=True):
        dress(axes, x=figure.layout.xaxis.title.text, y="", title=title)
        axes.set_xticks(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext)
        axes.set_xlim(figure.layout.xaxis.range)
    panels[0].set_ylabel(figure.layout.yaxis.title.text)
    panels[0].yaxis.set_major_formatter(f"{{x:{figure.layout.yaxis.tickformat}}}")
    if panels[0].get_legend_handles_labels()[0]:
        drawn.legend(loc="outside lower center", ncols=4, frameon=False)
    return base64.b64encode(drawn._repr_png_()).decode()


def numbers(values: Any) -> Any:
    """Return a row of plotly's, which writes arrays as their bytes in base64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return values


def show_in_readme(path: Path) -> None:
    """Store a figure of a notebook as README shows it, 440 pixels wide."""
    outputs = [
        output.data["image/png"]
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    png = base64.b64decode(outputs[SHOWN_IN_README.get(path.stem, 0)])
    figure = Image.open(io.BytesIO(png)).convert("RGB")
    small = figure.resize(
        (440, round(440 * figure.height / figure.width)), Image.Resampling.LANCZOS
    )
    small.quantize(64).save(FOLDER.parent / ".github" / f"{path.stem}.png", optimize=True)


def joined(outputs: Any) -> list[Any]:
    """Return outputs with the pieces of each stream put together."""
    found: list[Any] = []
    for output in outputs:
        last = found[-1] if found else {}
        if output.get("name") and output.get("name") == last.get("name"):
            last["text"] += output["text"]
        else:
            found.append(output)
    for output in found:
        if "text" in output:  # a folder that is gone is of no use to a reader
            output["text"] = re.sub(TEMPORARY, "a/temporary/folder", output["text"])
    return found


if __name__ == "__main__":
    names = sys.argv[1:]
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            stored(path)
