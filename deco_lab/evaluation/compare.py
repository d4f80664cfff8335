"""`python -m deco_lab.evaluation.compare A B ...`: models on the same crops, noise and times.

Each model sees the same x_t = t image + (1 - t) noise of fresh crops, so a difference between two
is a mean of differences, crop by crop, and its interval is far narrower than those of the two.
Intervals are over the photographs, each with all its crops. What a loss or an architecture does,
several trainings tell, paired in their order (on the same data, the same seed):

    python -m deco_lab.evaluation.compare --arm deco d1 d2 d3 --arm single-dit s1 s2 s3

Then the intervals are over trainings, with the crops as they are. The figures:

    losses        FM and FreqFM of the velocity, and their change against the first model
    error         energy of the velocity's error by band of the 8 x 8 block DCT, in Y and in Cb and
                  Cr, in dB against the first model
    Algorithm 3   of [1]: block DCT energy of the last block's tokens (the same tap in every model)
                  and of the velocity; "upper half" is the mean of log(1 + E) / max over the upper
                  half of the zigzag order, "raw" that half's share of the energy without DC

Differs from [1]: Algorithm 3 averages over the steps of sampling, here over re-noised crops at
times as training draws them, which are the same for every model.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, Figure 4 and Algorithm 3.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab import checkpoints
from deco_lab.data import bundled_crops
from deco_lab.evaluation.report import aligned, claim, name_of
from deco_lab.files import replacing
from deco_lab.flow import interpolate, seeded_noise, velocity_target
from deco_lab.spectra import (
    Estimate,
    block_dct,
    bootstrap,
    frequency_weights,
    log_energy,
    rgb_to_ycbcr,
)
from deco_lab.spectra.bootstrap import Groups, over_seeds
from deco_lab.spectra.energy import image_energies, raw_share, token_grid, token_map
from deco_lab.terminal import print_any_text

Array = NDArray[np.float64]

BANDS = (0, 1, 2, 4)
"""First radius of each band of the 8 x 8 DCT; index k is k / 16 cycles per pixel."""
BAND_NAMES = ("DC", "1/16 to 1/8", "1/8 to 1/4", "above 1/4")


class Velocity(Protocol):
    """What is compared: a model with tokens."""

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor, /) -> Tensor:
        """Return the velocity, (B, 3, H, W)."""
        ...

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor, /) -> Tensor:
        """Return the last block's tokens, (B, N, D)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What one model does on M noisy crops, each row of one crop."""

    flow_matching: Array
    """(M,), mean squared error of the velocity."""
    frequency: Array
    """(M,), frequency-aware loss at quality 85 and gamma 1, whatever the model was trained with."""
    error_energy: Array
    """(M, 3, 8, 8), of the velocity's error in Y, Cb and Cr."""
    token_energy: Array
    """(M, n, n), of the token map, mean over channels; n is 8 or the side of a smaller grid."""
    velocity_energy: Array
    """(M, 8, 8), mean over R, G and B."""


@torch.inference_mode()
def behaviour(
    model: Velocity,
    images: Tensor,
    noise: Tensor,
    t: Tensor,
    class_ids: Tensor,
    *,
    batch_size: int = 32,
) -> Behaviour:
    """Return what a model does on re-noised images.

    Parameters
    ----------
    model : object
        With `model(x, t, class_ids)` and `model.features(x, t, class_ids)`.
    images, noise : Tensor
        (M, 3, H, W).
    t : Tensor
        (M,), in [0, 1].
    class_ids : Tensor
        (M,).
    batch_size : int
        Rows a pass.
    """
    weights = frequency_weights().double()
    rows: dict[str, list[Tensor]] = {name: [] for name in Behaviour.__dataclass_fields__}
    for chosen in torch.arange(len(images)).split(batch_size):
        x = interpolate(images[chosen], noise[chosen], t[chosen])
        velocity = model(x, t[chosen], class_ids[chosen])
        tokens = model.features(x, t[chosen], class_ids[chosen])
        error = (velocity - velocity_target(images[chosen], noise[chosen])).cpu()
        energy = block_dct(rgb_to_ycbcr(error)).double().square().mean((2, 3))
        grid = token_map(tokens, *token_grid(tokens, *x.shape[-2:]))
        side = min(8, *grid.shape[-2:])
        rows["flow_matching"].append(error.double().square().mean((1, 2, 3)))
        rows["frequency"].append((weights * energy).mean((1, 2, 3)))
        rows["error_energy"].append(energy)
        for name, maps, n in (("token_energy", grid, side), ("velocity_energy", velocity, 8)):
            rows[name].append(image_energies(maps, n).cpu())
    return Behaviour(**{name: torch.cat(parts).cpu().numpy() for name, parts in rows.items()})


def band_error(energy: Array, band: int, channels: slice) -> float:
    """Return the mean energy of (M, 3, 8, 8) in a band of `BANDS` and some of Y, Cb, Cr."""
    radius = np.hypot(*np.mgrid[:8, :8])
    high = BANDS[band + 1] if band + 1 < len(BANDS) else np.inf
    inside = (radius >= BANDS[band]) & (radius < high)
    return float(energy[:, channels][..., inside].mean())


def high_share(energy: Array) -> float:
    """Return the mean of Algorithm 3's curve over the upper half of the zigzag order, in [0, 1]."""
    curve = log_energy(torch.from_numpy(energy.mean(0)))
    return float(curve[len(curve) // 2 :].mean())


def _figures(own: Behaviour, first: Behaviour) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    """Return a model's figures by title, those against the first among them, of some rows."""
    found: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "FM": lambda i: float(own.flow_matching[i].mean()),
        "FreqFM": lambda i: float(own.frequency[i].mean()),
    }
    for loss, field in (("FM", "flow_matching"), ("FreqFM", "frequency")):
        values, others = getattr(own, field), getattr(first, field)
        found[f"{loss} change (%)"] = lambda i, v=values, o=others: (
            100 * (v[i].mean() / o[i].mean() - 1)
        )
    for colour, channels in (("Y", slice(0, 1)), ("CbCr", slice(1, 3))):
        for band, label in enumerate(BAND_NAMES):
            found[f"error {colour} {label} (dB)"] = lambda i, k=band, c=channels: (
                10
                * np.log10(
                    band_error(own.error_energy[i], k, c) / band_error(first.error_energy[i], k, c)
                )
            )
    for tap, energy in (("tokens", own.token_energy), ("velocity", own.velocity_energy)):
        for kind, share in (("upper half", high_share), ("upper half, raw", raw_share)):
            found[f"{tap}, {kind}"] = lambda i, e=energy, s=share: s(e[i])
    return found


def comparison(
    arms: Mapping[str, Sequence[Behaviour]], *, groups: Groups | None = None
) -> dict[str, dict[str, Estimate]]:
    """Return each arm's figures, and those against the first, with 95% intervals.

    Parameters
    ----------
    arms : mapping of str to sequence of Behaviour
        What an arm's trainings do on the same rows: of one training each, intervals are over
        groups of rows, drawn anew together for all; of several, as many in each arm and paired in
        their order, over the trainings.
    groups : sequence or array, optional
        (M,), as for `group_numbers`: the photograph that each row was cut from.
    """
    firsts, *_ = arms.values()
    rows = np.arange(len(firsts[0].flow_matching))
    found = {}
    for name, trainings in arms.items():
        figures = [_figures(own, first) for own, first in zip(trainings, firsts, strict=True)]
        if len(figures) == 1:
            alike = np.zeros(len(rows), np.int64)
            found[name] = {
                title: bootstrap(figure, alike, groups=groups)
                for title, figure in figures[0].items()
            }
        else:
            values = np.array([[figure(rows) for figure in of.values()] for of in figures])
            found[name] = dict(zip(figures[0], over_seeds(values), strict=True))
    return found


def table(found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return the figures, one column for each arm."""
    titles = list(next(iter(found.values())))
    rows = [["", *found]]
    for title in titles:
        digits = 4 if title in ("FM", "FreqFM") else 3 if "upper" in title else 2
        rows.append([title, *(format(figures[title], f".{digits}f") for figures in found.values())])
    return aligned(rows)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.evaluation.compare",
        description="Compare models of the bundled photographs on the same crops, noise and times; "
        "changes and dB are against the first.",
    )
    parser.add_argument(
        "models", nargs="*", help="bundled names or files; the first is compared with"
    )
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="in place of models, once for each arm: its name and its trainings, as many in each "
        "arm, paired in their order",
    )
    parser.add_argument(
        "--per-class", type=int, default=32, help="noisy crops of each class [%(default)s]"
    )
    parser.add_argument(
        "--seed", type=int, default=3_000_000, help="of crops and noise [%(default)s]"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("evaluation/compare"),
        help="path of the files, without suffix [%(default)s]",
    )
    given = parser.parse_args(arguments)
    if given.per_class < 1:
        parser.error(f"--per-class must be at least 1, got {given.per_class}")
    if bool(given.models) == bool(given.arm):
        parser.error("give either models, one training each, or --arm with several trainings each")
    arms = given.arm or [[name_of(model), model] for model in given.models]
    names = [name for name, *_ in arms]
    if len(set(names)) < len(names):
        parser.error(f"models must have different names, got {', '.join(names)}")
    counts = [len(files) for _, *files in arms]
    files = [file for _, *files in arms for file in files]
    if given.arm and (min(counts) < 2 or len(set(counts)) > 1 or len(set(files)) < len(files)):
        parser.error(
            "each --arm must have a name and two or more trainings, as many as the others and all "
            f"different, got {', '.join(map(str, counts))}; train more seeds"
        )
    try:
        claim(given.out, (".json", "_token.png", "_velocity.png"), "models")
        compare({name: files for name, *files in arms}, given)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


def compare(arms: Mapping[str, Sequence[str]], given: argparse.Namespace) -> None:
    """Load the files of each arm, by its name, measure, print and write."""
    loaded = {
        name: [checkpoints.load(file, device="cpu") for file in files]
        for name, files in arms.items()
    }
    every = [(name, model) for name, models in loaded.items() for model in models]
    if len(sizes := {model.config.image_size for _, model in every}) > 1:
        raise ValueError(
            f"models must share image_size, got {', '.join(map(str, sorted(sizes)))}; "
            "compare models of one size"
        )
    (image_size,) = sizes
    crops = bundled_crops(image_size)
    for name, model in every:
        if model.config.class_names != crops.class_names:
            raise ValueError(
                f"models must be of the {crops.num_classes} bundled photographs, got {name} of "
                f"{model.config.num_classes} other classes; use python -m deco_lab.evaluation"
            )
    generator = torch.Generator().manual_seed(given.seed)
    labels = torch.arange(crops.num_classes).repeat(given.per_class)
    batch = crops.sample(len(labels), generator, labels)
    images, class_ids = batch
    # The next seeds: the first image's noise would else repeat the numbers that cut the crops.
    noise = seeded_noise(len(labels), images.shape[1:], given.seed + 1)
    # The times of training, evenly: quantiles of the normal, and every class sees all of them.
    quantile = (torch.arange(given.per_class) + 0.5) / given.per_class
    t = torch.sigmoid(torch.special.ndtri(quantile)).repeat_interleave(crops.num_classes)
    measured = {
        name: [behaviour(model, images, noise, t, class_ids) for model in models]
        for name, models in loaded.items()
    }
    found = comparison(measured, groups=batch.pictures)
    trainings = len(next(iter(arms.values())))
    if trainings == 1:
        over = f"the {crops.num_classes} photographs"
        reach = (
            "one training each: this says what these files do, not what their losses or "
            "architectures do"
        )
    else:
        over = f"{trainings} trainings, paired in their order"
        reach = (
            f"{trainings} trainings each: this says what training does on these photographs, not "
            "on others"
        )
    print(
        f"{len(labels)} noisy crops, {given.per_class} a class, the same for every model; "
        f"change and dB against {next(iter(arms))}; 95% intervals over {over}\n",
        table(found),
        "",
        reach,
        "",
        sep="\n",
    )
    energies = {
        name: {
            kind: np.mean([getattr(one, kind).mean(0) for one in ones], axis=0)
            for kind in ("token_energy", "velocity_energy", "error_energy")
        }
        for name, ones in measured.items()
    }
    stored = {
        "settings": {
            "models": arms,
            "per_class": given.per_class,
            "seed": given.seed,
            "intervals": f"over {over}",
            "reach": reach,
        },
        **{
            name: {
                **{title: asdict(estimate) for title, estimate in figures.items()},
                **{kind: energy.tolist() for kind, energy in energies[name].items()},
            }
            for name, figures in found.items()
        },
    }
    path = given.out.with_name(given.out.name + ".json")
    with replacing(path) as beside:
        beside.write_text(json.dumps(stored, indent=1), encoding="utf-8")
    patch_sizes = {name: models[0].config.patch_size for name, models in loaded.items()}
    print("written:", path, *draw(given.out, energies, patch_sizes))


def draw(
    out: Path, found: Mapping[str, Mapping[str, Array]], patch_sizes: Mapping[str, int]
) -> list[Path]:
    """Write Algorithm 3's curves, of tokens and of velocity, where matplotlib is installed."""
    try:
        from deco_lab.plots import dct_curves
    except ModuleNotFoundError:
        return []
    written = []
    for tap in ("token", "velocity"):
        energies = {name: of[f"{tap}_energy"] for name, of in found.items()}
        sides = patch_sizes if tap == "token" else None
        path = out.with_name(f"{out.name}_{tap}.png")
        with replacing(path) as beside:
            dct_curves(energies, patch_sizes=sides).savefig(beside, dpi=120, format="png")
        written.append(path)
    return written


if __name__ == "__main__":
    main()
