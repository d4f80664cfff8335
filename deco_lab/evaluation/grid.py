"""`python -m deco_lab.evaluation.grid PICTURES --patch 16`: whether pictures show a patch grid.

PICTURES are files, folders, an .npz of samples as `deco_lab.sampling` writes it, or a model, which
is sampled. Files are one set, and everything else is a set of its own; of each set

    ratio       mean absolute difference of neighbouring pixels across patch edges over that inside
    lines       power at m/P cycles per pixel over what lies beside it, in dB
    p           how often the same pictures say as much with the grid at another place

as `deco_lab.spectra.find_seams` measures them, with intervals over pictures.
"""

import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import Positional

from deco_lab import cli
from deco_lab.data import UnreadablePictureError, open_picture
from deco_lab.data.decoding import picture_suffixes
from deco_lab.evaluation.report import claim, name_of, write
from deco_lab.evaluation.samples import ModelOrder, Sampling, draw_samples
from deco_lab.files import printable
from deco_lab.plots import grid_figure
from deco_lab.setting import Setting
from deco_lab.spectra import Estimate, Seams, find_seams
from deco_lab.spectra.seams import DETECTORS, edge_steps
from deco_lab.terminal import aligned

PROGRAM = "python -m deco_lab.evaluation.grid"
PLAN = Sampling(num_steps=25, guidance_scale=2.0)
SIGNS = {
    "comb": "a pattern that repeats in every patch",
    "gradient": "steps at the edges of patches",
    "block_dct": "patches that meet in steps or differ in their detail",
}
"""What each detector finds, as it is written."""


@dataclass(frozen=True, kw_only=True)
class Order(ModelOrder):
    """Tell whether pictures show the grid of the patches they were drawn in, how much and where."""

    pictures: Annotated[
        Positional[tuple[str, ...]], Setting("Picture files, folders, an .npz, a model.")
    ]
    patch: Annotated[int | None, Setting("Side of a patch in pixels; a model's own.")] = None
    count: Annotated[int, Setting("Samples of a model, over all classes.", low=1)] = 28
    out: Annotated[
        Path | None, Setting("Path of a JSON file and a map, without suffix; none if not given.")
    ] = None
    sampling: Sampling = PLAN


@dataclass
class PictureSet:
    """Pictures that are measured together, taken one by one."""

    name: str
    source: Iterable[Path | Tensor]
    """Picture files, or images (C, H, W)."""
    patch_size: int
    left_out: dict[str, str] = field(default_factory=dict)
    """Why pictures were left out, by name; filled while they are taken."""
    jpegs: int = 0
    """How many of those taken were JPEG files."""
    sizes: set[tuple[int, int]] = field(default_factory=set)
    """Heights and widths."""
    steps: Tensor | None = None
    """(2, rows, columns), sums of `edge_steps`, where all pictures are of one size."""
    first: Tensor | None = None
    """The first picture."""

    def __iter__(self) -> Iterator[Tensor]:
        """Yield pictures, (C, H, W), that hold at least 3 x 3 patches."""
        for i, source in enumerate(self.source):
            name, picture = f"image {i}", source
            if isinstance(source, Path):
                name = printable(str(source))
                try:
                    picture = _image_of(np.asarray(open_picture(source)))
                except UnreadablePictureError as error:
                    self.left_out[name] = printable(str(error))
                    continue
                with source.open("rb") as file:
                    self.jpegs += file.read(2) == b"\xff\xd8"
            assert isinstance(picture, Tensor)
            height, width = picture.shape[-2:]
            if min(height, width) < 3 * self.patch_size:
                why = f"{width} x {height} pixels are less than 3 x 3 patches of {self.patch_size}"
                self.left_out[name] = why
                continue
            self.sizes.add((height, width))
            steps = edge_steps(picture[None], self.patch_size)[0]
            self.first = picture if self.first is None else self.first
            if len(self.sizes) == 1:
                self.steps = steps if self.steps is None else self.steps + steps
            yield picture

    def edge_ratios(self) -> NDArray[np.float64] | None:
        """Return steps across each patch's edges over those inside, of one picture or averaged."""
        if self.steps is None or len(self.sizes) > 1:
            return None
        across, inside = self.steps.numpy()
        return across / (inside + 1e-3 * self.steps.mean().item() + 1e-30)


def _image_of(pixels: NDArray[np.generic]) -> Tensor:
    """Return pixels (H, W, C) as (C, H, W), float64, those of 8 bits in [-1, 1]."""
    values = pixels.transpose(2, 0, 1).astype(np.float64)
    return torch.from_numpy(values / 127.5 - 1 if pixels.dtype == np.uint8 else values)


def _images_in(path: Path) -> Iterator[Tensor]:
    """Yield the images, (C, H, W), of an NPZ whose first array is (M, H, W, C)."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            np.lib.format.read_magic(member)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            if len(shape) != 4 or shape[3] not in (1, 3) or fortran or dtype.kind not in "uf":
                raise ValueError(f"its array is {shape} of {dtype}")
            for _ in range(shape[0]):
                values = member.read(int(np.prod(shape[1:])) * dtype.itemsize)
                yield _image_of(np.frombuffer(values, dtype).reshape(shape[1:]))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be an NPZ of images (M, H, W, 3) named arr_0, as deco_lab.sampling "
            f"writes them, got something else ({error}); write it again"
        ) from error


def open_sets(order: Order) -> list[PictureSet]:
    """Return the sets of pictures that a command line names; models are sampled.

    Raises
    ------
    ValueError
        Where something is neither pictures nor a model, the patch size is not known, or two sets
        have one name.
    """
    if not order.pictures:
        raise ValueError("pictures must be given: files, folders, an .npz or a model; name one")
    suffixes, files, sets = picture_suffixes(), [], []
    for name in order.pictures:
        path = Path(name)
        if path.is_dir():
            inside = (file.relative_to(path) for file in sorted(path.rglob("*")))
            seen = [path / file for file in inside if not any(p[0] == "." for p in file.parts)]
            shown = [file for file in seen if file.suffix.lower() in suffixes]
            sets.append(PictureSet(printable(path.resolve().name), shown, order.patch or 0))
        elif path.suffix.lower() in suffixes:
            files.append(path)
        elif path.suffix.lower() == ".npz":
            sets.append(PictureSet(printable(path.name), _images_in(path), order.patch or 0))
        else:
            sets.append(_sampled(name, order))
    if files:
        label = printable(files[0].name) if len(files) == 1 else f"{len(files)} files"
        sets.insert(0, PictureSet(label, files, order.patch or 0))
    if not all(one.patch_size for one in sets):
        raise ValueError("--patch must be given for pictures; name the patch's side in pixels")
    if len({one.name for one in sets}) < len(sets):
        raise ValueError("pictures must have different names; give each folder or model once")
    return sets


def _sampled(name: str, order: Order) -> PictureSet:
    model = order.load(name)
    classes, count = model.config.num_classes, order.count
    print(f"Drawing {count} samples of {name} ...", file=sys.stderr, flush=True)
    class_ids = [i * classes // count if count >= classes else i for i in range(count)]
    images = draw_samples(model, class_ids, order.sampling)
    return PictureSet(name_of(name), images, order.patch or model.config.patch_size)


def _written(estimate: Estimate, digits: int) -> str:
    """Write an estimate, without the interval that a single picture has not."""
    known = np.isfinite(estimate.low)
    return format(estimate if known else estimate.value, f".{digits}f")


def table(found: dict[str, Seams]) -> str:
    """Return the figures, one column for each set; `-` where a set has no such line."""
    rows: dict[str, list[str]] = {}
    for column, seams in enumerate(found.values()):
        own, *others = seams.ratios()
        places = [other.value for other in others]
        cells = {
            "pictures": str(len(seams.steps)),
            "patch (pixels)": str(seams.patch_size),
            "differences across edges / inside": _written(own, 3),
            "  with the grid at other places": f"{min(places):.3f} to {max(places):.3f}",
        }
        for m, level in enumerate(seams.line_levels()):
            title = f"  m = {m}" if m else "lines m/P over their neighbours (dB)"
            cells[title] = _written(level, 1)
        for name, p in zip(DETECTORS, seams.p, strict=True):
            cells[f"p of {SIGNS[name]}"] = f"{p:.2g}"
        for title, cell in cells.items():
            rows.setdefault(title, ["-"] * len(found))[column] = cell
    return aligned([["", *found], *([title, *cells] for title, cells in rows.items())])


def verdict(name: str, seams: Seams) -> str:
    """Return in a sentence whether pictures show the grid, and by what."""
    P, signs = seams.patch_size, seams.found()
    grid = f"the grid of {P} x {P} patches"
    if not signs:
        if len(seams.steps) == 1 and P < 8:
            return f"{name}: one picture cannot tell of patches below 8 pixels; give several"
        return f"{name} does not show {grid} (smallest p {seams.p.min():.2g}, of three)"
    said = [SIGNS[sign] for sign in signs]
    if "gradient" in signs and seams.ratios()[0].value < 1:
        said[signs.index("gradient")] = "edges of patches that are smoother than their inside"
    p = min(p for sign, p in zip(DETECTORS, seams.p, strict=True) if sign in signs)
    return f"{name} shows {grid}: {', and '.join(said)} (p {p:.2g})"


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    cli.run(Order, PROGRAM, _measure, words)


def _measure(order: Order) -> None:
    if order.out:
        claim(order.out, [".png"], "pictures")
    sets, found = open_sets(order), {}
    for one in sets:
        try:
            found[one.name] = find_seams(one, one.patch_size)
        except ValueError as error:
            raise ValueError(f"{one.name}: {error}") from error
        finally:
            for name, why in one.left_out.items():
                print(f"left out: {name}: {why}", file=sys.stderr)
        if one.jpegs and (one.patch_size % 8 == 0 or one.patch_size == 4):
            print(
                f"warning: {one.jpegs} of {len(found[one.name].steps)} pictures of {one.name} are "
                "JPEG, whose own blocks of 8 x 8 pixels pass for a grid of "
                f"{one.patch_size}; compare with pictures that were saved alike, or give PNGs",
                file=sys.stderr,
            )
    print(table(found), "", *(verdict(*item) for item in found.items()), sep="\n")
    if order.out:
        ratios = {one.name: one.edge_ratios() for one in sets}
        stored = {one.name: _stored(one, found[one.name], ratios[one.name]) for one in sets}
        alone = {one.name: one.first for one in sets if len(found[one.name].steps) == 1}
        settings = asdict(order) | asdict(order.sampling) | {"out": str(order.out)}
        del settings["sampling"]
        figures = {".png": grid_figure(found, ratios, alone)}
        write(order.out, {"settings": settings, "sets": stored}, figures)


def _stored(one: PictureSet, seams: Seams, ratios: NDArray[np.float64] | None) -> dict[str, object]:
    """Return what was found of a set, for JSON, which has no NaN."""

    def known(estimate: Estimate) -> dict[str, float | None]:
        return {n: v if np.isfinite(v) else None for n, v in asdict(estimate).items()}

    return {
        "verdict": verdict(one.name, seams),
        "patch_size": seams.patch_size,
        "pictures": len(seams.steps),
        "left_out": one.left_out,
        "ratio_by_place": [known(ratio) for ratio in seams.ratios()],
        "lines_db": [known(level) for level in seams.line_levels()],
        "excess": {name: known(e) for name, e in seams.estimates().items()},
        "p": dict(zip(DETECTORS, seams.p.tolist(), strict=True)),
        "edge_ratios": None if ratios is None else ratios.tolist(),
    }


if __name__ == "__main__":
    main()
