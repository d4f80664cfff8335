"""`python -m deco_lab.evaluation.grid PICTURES --patch 16`: whether pictures show a patch grid.

PICTURES are files, folders, an .npz of samples as `deco_lab.sampling` writes it, or a model, which
is sampled. Files are one set, and everything else is a set of its own; of each set

    ratio       mean absolute difference of neighbouring pixels across patch edges over that inside
    lines       power at m/P cycles per pixel over what lies beside it, in dB
    p           how often the same pictures say as much with the grid at another place

as `deco_lab.spectra.find_seams` measures them, with intervals over pictures.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab import checkpoints
from deco_lab.data import UnreadablePictureError, open_picture
from deco_lab.data.decoding import picture_suffixes
from deco_lab.evaluation.report import aligned, claim, name_of
from deco_lab.evaluation.samples import draw_samples
from deco_lab.files import printable, replacing
from deco_lab.sampling import SOLVERS
from deco_lab.spectra import Estimate, Seams, find_seams
from deco_lab.spectra.seams import DETECTORS, edge_steps
from deco_lab.terminal import print_any_text

SIGNS = {
    "comb": "a pattern that repeats in every patch",
    "gradient": "steps at the edges of patches",
    "block_dct": "patches that meet in steps or differ in their detail",
}
"""What each detector finds, as it is written."""


@dataclass
class PictureSet:
    """Pictures that are measured together, taken one by one."""

    name: str
    source: Sequence[Path] | Path | Tensor
    """Picture files, an NPZ or the images themselves, (M, C, H, W)."""
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
        for name, picture in self._pictures():
            height, width = picture.shape[-2:]
            if min(height, width) < 3 * self.patch_size:
                self.left_out[name] = (
                    f"{width} x {height} pixels are less than 3 x 3 patches of {self.patch_size}"
                )
                continue
            self.sizes.add((height, width))
            steps = edge_steps(picture[None], self.patch_size)[0]
            self.first = picture if self.first is None else self.first
            if len(self.sizes) == 1:
                self.steps = steps if self.steps is None else self.steps + steps
            yield picture

    def _pictures(self) -> Iterator[tuple[str, Tensor]]:
        if isinstance(self.source, Tensor):
            yield from ((f"sample {i}", image) for i, image in enumerate(self.source))
        elif isinstance(self.source, Path):
            yield from ((f"image {i}", image) for i, image in enumerate(_images_in(self.source)))
        else:
            for path in self.source:
                name = printable(str(path))
                try:
                    pixels = np.asarray(open_picture(path))
                except UnreadablePictureError as error:
                    self.left_out[name] = printable(str(error))
                    continue
                with path.open("rb") as file:
                    self.jpegs += file.read(2) == b"\xff\xd8"
                yield name, _image_of(pixels)

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
            version = np.lib.format.read_magic(member)
            reader = (np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0)
            shape, fortran, dtype = reader[version[0] - 1](member)
            if len(shape) != 4 or shape[3] not in (1, 3) or fortran or dtype.kind not in "uf":
                raise ValueError(f"its array is {shape} of {dtype}")
            for _ in range(shape[0]):
                values = member.read(int(np.prod(shape[1:])) * dtype.itemsize)
                yield _image_of(np.frombuffer(values, dtype).reshape(shape[1:]))
    except (OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be an NPZ of images (M, H, W, 3) named arr_0, as deco_lab.sampling "
            f"writes them, got something else ({error}); write it again"
        ) from error


def open_sets(given: argparse.Namespace) -> list[PictureSet]:
    """Return the sets of pictures that a command line names; models are sampled.

    Raises
    ------
    ValueError
        Where something is neither pictures nor a model, or the patch size is not known.
    """
    files, others = [], []
    suffixes = picture_suffixes()
    for name in given.pictures:
        is_file = Path(name).suffix.lower() in suffixes and not Path(name).is_dir()
        (files if is_file else others).append(Path(name) if is_file else name)
    sets = []
    if files:
        label = files[0].name if len(files) == 1 else f"{len(files)} files"
        sets.append(PictureSet(printable(label), files, _patch(given.patch)))
    for name in others:
        path = Path(name)
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in suffixes)
            shown = [
                file
                for file in sorted(inside)
                if not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            sets.append(PictureSet(printable(path.resolve().name), shown, _patch(given.patch)))
        elif path.suffix.lower() == ".npz":
            sets.append(PictureSet(printable(path.name), path, _patch(given.patch)))
        else:
            sets.append(_sampled(name, given))
    return sets


def _patch(patch: int | None) -> int:
    if patch is None:
        raise ValueError("--patch must be given for pictures; name the patch's side in pixels")
    return patch


def _sampled(name: str, given: argparse.Namespace) -> PictureSet:
    device = checkpoints.choose_device(given.device)
    model = checkpoints.load(name, device, fast=device.type == "cpu", image_size=given.image_size)
    classes, count = model.config.num_classes, given.count
    print(f"Drawing {count} samples of {name} ...", file=sys.stderr, flush=True)
    images = draw_samples(
        model,
        [i * classes // count if count >= classes else i for i in range(count)],
        num_steps=given.num_steps,
        solver=given.solver,
        guidance_scale=given.guidance_scale,
        seed=given.seed,
    )
    return PictureSet(name_of(name), images, given.patch or model.config.patch_size)


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
        rank = 1 + sum(value > own.value for value in places)
        cells = {
            "pictures": str(len(seams.steps)),
            "patch (pixels)": str(seams.patch_size),
            "differences across edges / inside": _written(own, 3),
            "  with the grid at other places": f"{min(places):.3f} to {max(places):.3f}",
            "  rank of its own place": f"{rank} of {seams.patch_size}",
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.evaluation.grid",
        description="Tell whether pictures show the grid of the patches they were drawn in, how "
        "strongly and where.",
    )
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURES", help="picture files, folders, an .npz, a model")
    add("--patch", type=int, metavar="P", help="side of a patch in pixels [a model's own]")
    add("--count", type=int, default=28, help="samples of a model, over all classes [%(default)s]")
    add("--num-steps", type=int, default=25, help="solver steps [%(default)s]")
    add("--solver", choices=list(SOLVERS), default="euler", help="[%(default)s]")
    add("--guidance-scale", type=float, default=2.0, help="1 is off [%(default)s]")
    add("--seed", type=int, default=0, help="of the first sample [%(default)s]")
    add("--image-size", type=int, metavar="PIXELS", help="where the model's file does not say")
    add("--device", help="cpu, cuda, mps; the best there is when not given")
    add("--out", type=Path, help="path of a JSON file and a map, without suffix; none if not given")
    given = parser.parse_args(arguments)
    if given.count < 1:
        parser.error(f"--count must be at least 1, got {given.count}")
    try:
        if given.out:
            claim(given.out, (".json", ".png"), "pictures")
        measure(open_sets(given), given)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


def measure(sets: list[PictureSet], given: argparse.Namespace) -> None:
    """Measure, print and write."""
    if len({one.name for one in sets}) < len(sets):
        raise ValueError("pictures must have different names; give each folder or model once")
    found: dict[str, Seams] = {}
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
    if given.out:
        print("written:", *write(given.out, sets, found, given))


def _stored(estimate: Estimate) -> dict[str, float | int | None]:
    """Return an estimate for JSON, which has no NaN."""
    return {n: v if np.isfinite(v) else None for n, v in asdict(estimate).items()}


def write(
    out: Path, sets: list[PictureSet], found: dict[str, Seams], given: argparse.Namespace
) -> list[Path]:
    """Write PATH.json and, where matplotlib is installed, PATH.png; return what was written."""
    settings = {n: str(v) if isinstance(v, Path) else v for n, v in vars(given).items()}
    stored: dict[str, object] = {}
    for one in sets:
        seams, ratios = found[one.name], one.edge_ratios()
        stored[one.name] = {
            "verdict": verdict(one.name, seams),
            "patch_size": seams.patch_size,
            "pictures": len(seams.steps),
            "left_out": one.left_out,
            "ratio_by_place": [_stored(ratio) for ratio in seams.ratios()],
            "lines_db": [_stored(level) for level in seams.line_levels()],
            "excess": {name: _stored(e) for name, e in seams.estimates().items()},
            "p": dict(zip(DETECTORS, seams.p.tolist(), strict=True)),
            "edge_ratios": None if ratios is None else ratios.tolist(),
        }
    paths = [out.with_name(out.name + ".json")]
    with replacing(paths[0]) as beside:
        beside.write_text(
            json.dumps({"settings": settings, "sets": stored}, indent=1), encoding="utf-8"
        )
    try:
        from deco_lab.plots import grid_figure
    except ModuleNotFoundError:
        return paths
    figure = grid_figure(
        {one.name: found[one.name] for one in sets},
        {one.name: one.edge_ratios() for one in sets},
        {one.name: one.first for one in sets if len(found[one.name].steps) == 1},
    )
    paths.append(out.with_name(out.name + ".png"))
    with replacing(paths[1]) as beside:
        figure.savefig(beside, dpi=120, format="png")
    return paths


if __name__ == "__main__":
    main()
