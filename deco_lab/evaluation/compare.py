"""`python -m deco_lab.evaluation.compare A B ...`: models on the same crops, noise and times.

Each model sees the same x_t = t image + (1 - t) noise of fresh crops, so a difference between two
is a mean of differences, crop by crop, and its interval is far narrower than those of the two:

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
from collections.abc import Callable, Mapping
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
    zigzag_order,
)
from deco_lab.spectra.energy import image_energies, token_grid, token_map
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


def raw_share(energy: Array) -> float:
    """Return the upper half's share of the energy without DC, which no scale changes, in [0, 1]."""
    n = energy.shape[-1]
    ordered = energy.mean(0).ravel()[list(zigzag_order(n))]
    return float(ordered[len(ordered) // 2 :].sum() / ordered[1:].sum())


def comparison(models: Mapping[str, Behaviour]) -> dict[str, dict[str, Estimate]]:
    """Return each model's figures, and those against the first, with 95% intervals.

    Ratios are of means over the same rows, drawn anew together, so what the models share drops out.
    """
    first, *_ = models.values()
    labels = np.zeros(len(first.flow_matching), dtype=np.int64)
    found: dict[str, dict[str, Estimate]] = {}

    def estimate(figure: Callable[[NDArray[np.int64]], float]) -> Estimate:
        return bootstrap(figure, labels)

    for name, own in models.items():
        figures = {
            "FM": estimate(lambda i, b=own: b.flow_matching[i].mean()),
            "FreqFM": estimate(lambda i, b=own: b.frequency[i].mean()),
        }
        for loss, field in (("FM", "flow_matching"), ("FreqFM", "frequency")):
            values, others = getattr(own, field), getattr(first, field)
            figures[f"{loss} change (%)"] = estimate(
                lambda i, v=values, o=others: 100 * (v[i].mean() / o[i].mean() - 1)
            )
        for colour, channels in (("Y", slice(0, 1)), ("CbCr", slice(1, 3))):
            for band, label in enumerate(BAND_NAMES):
                figures[f"error {colour} {label} (dB)"] = estimate(
                    lambda i, b=own, k=band, c=channels: (
                        10
                        * np.log10(
                            band_error(b.error_energy[i], k, c)
                            / band_error(first.error_energy[i], k, c)
                        )
                    )
                )
        for tap, energy in (("tokens", own.token_energy), ("velocity", own.velocity_energy)):
            for kind, share in (("upper half", high_share), ("upper half, raw", raw_share)):
                figures[f"{tap}, {kind}"] = estimate(lambda i, e=energy, s=share: s(e[i]))
        found[name] = figures
    return found


def table(found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return the figures, one column for each model."""
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
        "models", nargs="+", help="bundled names or files; the first is compared with"
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
    names = [name_of(model) for model in given.models]
    if len(set(names)) < len(names):
        parser.error(f"models must have different names, got {', '.join(names)}")
    try:
        claim(given.out, (".json", "_token.png", "_velocity.png"), "models")
        compare(dict(zip(names, given.models, strict=True)), given)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


def compare(models: Mapping[str, str], given: argparse.Namespace) -> None:
    """Load the models, which go by the names given here, measure, print and write."""
    loaded = {name: checkpoints.load(model, device="cpu") for name, model in models.items()}
    if len(sizes := {model.config.image_size for model in loaded.values()}) > 1:
        raise ValueError(
            f"models must share image_size, got {', '.join(map(str, sorted(sizes)))}; "
            "compare models of one size"
        )
    (image_size,) = sizes
    crops = bundled_crops(image_size)
    for name, model in loaded.items():
        if model.config.class_names != crops.class_names:
            raise ValueError(
                f"models must be of the {crops.num_classes} bundled photographs, got {name} of "
                f"{model.config.num_classes} other classes; use python -m deco_lab.evaluation"
            )
    generator = torch.Generator().manual_seed(given.seed)
    labels = torch.arange(crops.num_classes).repeat(given.per_class)
    images, class_ids = crops.sample(len(labels), generator, labels)
    # The next seeds: the first image's noise would else repeat the numbers that cut the crops.
    noise = seeded_noise(len(labels), images.shape[1:], given.seed + 1)
    # The times of training, evenly: quantiles of the normal, and every class sees all of them.
    quantile = (torch.arange(given.per_class) + 0.5) / given.per_class
    t = torch.sigmoid(torch.special.ndtri(quantile)).repeat_interleave(crops.num_classes)
    measured = {
        name: behaviour(model, images, noise, t, class_ids) for name, model in loaded.items()
    }
    found = comparison(measured)
    print(
        f"{len(labels)} noisy crops, {given.per_class} a class, the same for every model; "
        f"change and dB against {next(iter(models))}; 95% intervals\n",
        table(found),
        "",
        sep="\n",
    )
    stored = {
        "settings": {"models": given.models, "per_class": given.per_class, "seed": given.seed},
        **{
            name: {
                **{title: asdict(estimate) for title, estimate in figures.items()},
                "token_energy": measured[name].token_energy.mean(0).tolist(),
                "velocity_energy": measured[name].velocity_energy.mean(0).tolist(),
                "error_energy": measured[name].error_energy.mean(0).tolist(),
            }
            for name, figures in found.items()
        },
    }
    path = given.out.with_name(given.out.name + ".json")
    with replacing(path) as beside:
        beside.write_text(json.dumps(stored, indent=1), encoding="utf-8")
    print("written:", path, *draw(given.out, measured, loaded))


def draw(out: Path, measured: Mapping[str, Behaviour], models: Mapping) -> list[Path]:
    """Write Algorithm 3's curves, of tokens and of velocity, where matplotlib is installed."""
    try:
        from deco_lab.plots import dct_curves
    except ModuleNotFoundError:
        return []
    written = []
    for tap in ("token", "velocity"):
        energies = {n: getattr(b, f"{tap}_energy").mean(0) for n, b in measured.items()}
        sides = {n: m.config.patch_size for n, m in models.items()} if tap == "token" else None
        path = out.with_name(f"{out.name}_{tap}.png")
        with replacing(path) as beside:
            dct_curves(energies, patch_sizes=sides).savefig(beside, dpi=120, format="png")
        written.append(path)
    return written


if __name__ == "__main__":
    main()
