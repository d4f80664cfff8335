"""A sweep as one picture: its cells with the energy of their bands, and what varies by the side."""

import io
import math
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from deco_lab.data import to_picture
from deco_lab.palette import LIGHT
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench.keeping import remembered
from deco_lab.workbench.sweeping import Sweep

_SIDE, _GAP, _BARS = 168, 14, 44
"""Pixels: of a cell's picture at least, between cells, and of the bars below it."""
_MOST_DB = 6.0
"""What a bar of full length stands for."""
_INK, _GREY, _LINE = "#1f2430", "#667085", "#d8dce3"


def to_sheet(found: Sweep, labels: Mapping[str, str]) -> bytes:
    """Return the cells of a sweep as a PNG, at a whole number of pixels for each of their own.

    It remembers the settings that all cells share, as the picture of a run does.

    Parameters
    ----------
    found : Sweep
        What was drawn; other cells stay empty.
    labels : mapping
        What to call the settings, by name.
    """
    rows, columns = found.bands.shape[:2]
    cells = [[found.cell(row, column) for column in range(columns)] for row in range(rows)]
    pictures = [
        [to_picture(c, math.ceil(math.sqrt(len(c)))) if len(c) else None for c in row]
        for row in cells
    ]
    drawn = [picture for row in pictures for picture in row if picture]
    widest = max((max(picture.size) for picture in drawn), default=_SIDE)
    side = widest * max(1, round(_SIDE / widest))
    font, bold = ImageFont.load_default(13), ImageFont.load_default(16)
    left = 24 + max([0, *(int(font.getlength(word)) for word in found.y_values)])
    left = max(left, 24 + int(font.getlength(labels.get(found.y, found.y)))) + _GAP
    top = 84
    width = max(left + columns * (side + _GAP) + 10, 700)
    height = top + rows * (side + _BARS + _GAP) + 40
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    settings = found.recipe["settings"]
    varied = " and ".join(labels.get(name, name) for name in (found.x, found.y) if name)
    draw.text((24, 14), f"{settings['model']}: {varied}", _INK, bold)
    draw.text((24, 62), labels.get(found.y, found.y), _GREY, font)
    draw.text((left, 42), labels.get(found.x, found.x), _GREY, font)
    for column, word in enumerate(found.x_values):
        draw.text((left + column * (side + _GAP), 62), word, _INK, font)
    for row in range(rows):
        y = top + row * (side + _BARS + _GAP)
        draw.text((24, y + 2), found.y_values[row], _INK, font)
        for column in range(columns):
            x, picture = left + column * (side + _GAP), pictures[row][column]
            if picture is None:
                draw.rectangle((x, y, x + side - 1, y + side - 1), outline=_LINE)
                continue
            factor = max(1, side // max(picture.size))
            size = picture.width * factor, picture.height * factor
            sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (x, y))
            _bars(draw, found.decibels[row, column], x, y + side + 4, side)
    _legend(draw, 24, height - 30)
    file = io.BytesIO()
    sheet.save(file, "PNG", pnginfo=remembered({"model": {}} | dict(found.recipe)))
    return file.getvalue()


def _bars(draw: ImageDraw.ImageDraw, decibels: Any, x: int, y: int, width: int) -> None:
    """Draw a bar and a number for each band, up from the middle for more energy."""
    small, step, half = ImageFont.load_default(11), width / len(decibels), 12
    for band, value in enumerate(decibels):
        if not math.isfinite(value):
            continue
        at = x + band * step
        tip = y + half - round(half * max(-1.0, min(1.0, value / _MOST_DB)))
        box = (at + 2, min(tip, y + half), at + step - 4, max(tip, y + half))
        draw.rectangle(box, LIGHT[f"band-{band}"])
        said = f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"
        draw.text((at + 1, y + 2 * half + 2), said, _INK, small)
    draw.line((x, y + half, x + width, y + half), _LINE)


def _legend(draw: ImageDraw.ImageDraw, x: float, y: int) -> None:
    """Say which bar is which, and what its length stands for."""
    small = ImageFont.load_default(12)
    for band, name in enumerate(band_names(OCTAVES)):
        draw.rectangle((x, y + 3, x + 9, y + 12), LIGHT[f"band-{band}"])
        draw.text((x + 14, y), name, _INK, small)
        x += 26 + small.getlength(name)
    said = f"cycles/pixel: energy over the first cell's, dB; bars to {_MOST_DB:g}"
    draw.text((x, y), said, _GREY, small)
