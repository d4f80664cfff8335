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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import Positional, UseAppendAction

from deco_lab import checkpoints, cli
from deco_lab.data import bundled_crops
from deco_lab.evaluation.report import claim, name_of, write
from deco_lab.flow import interpolate, seeded_noise, velocity_target
from deco_lab.models import Model
from deco_lab.plots import dct_curves
from deco_lab.setting import Setting
from deco_lab.spectra import Estimate, block_dct, frequency_weights, log_energy, rgb_to_ycbcr
from deco_lab.spectra.bootstrap import Groups, bootstrap_intervals, over_seeds
from deco_lab.spectra.energy import image_energies, raw_share, token_grid, token_map
from deco_lab.terminal import aligned

Array = NDArray[np.float64]
Figure = Callable[[Array], Array]
"""Means of rows, with any leading axes, to figures with the same ones."""

PROGRAM = "python -m deco_lab.evaluation.compare"
BANDS = {"DC": 0, "1/16 to 1/8": 1, "1/8 to 1/4": 2, "above 1/4": 4}
"""First radius of each band of the 8 x 8 DCT; index k is k / 16 cycles per pixel."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Compare models of the bundled photographs on the same crops, noise and times.

    Changes and dB are against the first.
    """

    models: Annotated[
        Positional[tuple[str, ...]],
        Setting("Bundled names or files; the first is compared with."),
    ] = ()
    arm: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]],
        Setting(
            "In place of models, once for each arm: its name and its trainings, as many in each "
            "arm, paired in their order."
        ),
    ] = ()
    per_class: Annotated[int, Setting("Noisy crops of each class.", low=1)] = 32
    seed: Annotated[int, Setting("Of crops and noise.", low=0)] = 3_000_000
    out: Annotated[Path, Setting("Path of the files, without suffix.")] = Path("evaluation/compare")

    def arms(self) -> dict[str, tuple[str, ...]]:
        """Return the files of each arm by its name, checked."""
        if bool(self.models) == bool(self.arm):
            raise ValueError(
                "give either models, one training each, or --arm with several trainings each"
            )
        arms = self.arm or [(name_of(model), model) for model in self.models]
        names, counts = [arm[0] for arm in arms if arm], [len(arm) - 1 for arm in arms]
        files = [file for _, *of in arms for file in of]
        if self.arm and (min(counts) < 2 or len({*counts}) > 1 or len({*files}) < len(files)):
            raise ValueError(
                "each --arm must have a name and two or more trainings, as many as the others and "
                f"all different, got {', '.join(map(str, counts))}; train more seeds"
            )
        if len({*names}) < len(names):
            raise ValueError(f"models must have different names, got {', '.join(names)}")
        return {name: tuple(of) for name, *of in arms}


class Behaviour(NamedTuple):
    """What one model does on M noisy crops, each row of one crop."""

    losses: Array
    """(M, 2): mean squared error of the velocity, and the frequency-aware loss at quality 85 and
    gamma 1, whatever the model was trained with."""
    error_energy: Array
    """(M, 3, 8, 8), of the velocity's error in Y, Cb and Cr."""
    token_energy: Array
    """(M, n, n), of the token map, mean over channels; n is 8 or the side of a smaller grid."""
    velocity_energy: Array
    """(M, 8, 8), mean over R, G and B."""


@torch.inference_mode()
def behaviour(
    model: Any, images: Tensor, noise: Tensor, t: Tensor, class_ids: Tensor, *, batch_size: int = 32
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
    parts = []
    for rows in torch.arange(len(images)).split(batch_size):
        x = interpolate(images[rows], noise[rows], t[rows])
        velocity = model(x, t[rows], class_ids[rows])
        tokens = model.features(x, t[rows], class_ids[rows])
        error = (velocity - velocity_target(images[rows], noise[rows])).cpu()
        energy = block_dct(rgb_to_ycbcr(error)).double().square().mean((2, 3))
        losses = [error.double().square().mean((1, 2, 3)), (weights * energy).mean((1, 2, 3))]
        grid = token_map(tokens, *token_grid(tokens, *x.shape[-2:]))
        taps = image_energies(grid, min(8, *grid.shape[-2:])), image_energies(velocity, 8)
        parts.append((torch.stack(losses, 1), energy, *taps))
    return Behaviour(*(torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True)))


def band_errors(energy: Array) -> Array:
    """Return the mean of (M, 3, 8, 8) in each band, (M, 8): of Y, then of Cb and Cr together."""
    band = np.digitize(np.hypot(*np.mgrid[:8, :8]), [*BANDS.values()]) - 1
    means = [energy[:, :, band == k].mean(-1) for k in range(len(BANDS))]
    colours = np.stack(means, -1)
    return np.concatenate([colours[:, 0], colours[:, 1:].mean(1)], -1)


def shares(energy: Array) -> Array:
    """Return how much of energies (..., n, n) is in the upper half of the zigzag order, (..., 2).

    The mean of Algorithm 3's curve there, and that half's share of the energy without DC.
    """
    curve = log_energy(torch.from_numpy(energy)).numpy()
    raw = [raw_share(each[None]) for each in energy.reshape(-1, *energy.shape[-2:])]
    upper = curve[..., curve.shape[-1] // 2 :].mean(-1)
    return np.stack([upper, np.reshape(raw, upper.shape)], -1)


def _figures(own: Behaviour, first: Behaviour) -> Iterator[tuple[list[str], Array, Figure]]:
    """Yield titles, values of each row, and the figures that are made of the values' means."""
    both = np.stack([own.losses, first.losses], -1)
    yield ["FM", "FreqFM"], own.losses, lambda means: means
    titles = ["FM change (%)", "FreqFM change (%)"]
    yield titles, both, lambda means: 100 * (means[..., 0] / means[..., 1] - 1)
    bands = np.stack([band_errors(each.error_energy) for each in (own, first)], -1)
    titles = [f"error {colour} {band} (dB)" for colour in ("Y", "CbCr") for band in BANDS]
    yield titles, bands, lambda means: 10 * np.log10(means[..., 0] / means[..., 1])
    for tap, energy in (("tokens", own.token_energy), ("velocity", own.velocity_energy)):
        yield [f"{tap}, upper half", f"{tap}, upper half, raw"], energy, shares


def comparison(
    arms: Mapping[str, Sequence[Behaviour]], *, groups: Groups | None = None
) -> dict[str, dict[str, Estimate]]:
    """Return each arm's figures, and those against the first, with 95% intervals.

    Parameters
    ----------
    arms : mapping of str to sequence of Behaviour
        What an arm's trainings do on the same rows: of one training each, intervals are over
        groups of rows; of several, as many in each arm and paired in their order, over the
        trainings.
    groups : sequence or array, optional
        (M,), as for `group_numbers`: the photograph that each row was cut from.
    """
    firsts, *_ = arms.values()
    found: dict[str, dict[str, Estimate]] = {name: {} for name in arms}
    for name, trainings in arms.items():
        pairs = [_figures(own, first) for own, first in zip(trainings, firsts, strict=True)]
        for same in zip(*pairs, strict=True):
            titles, rows, figure = same[0]
            if len(trainings) == 1:
                each = bootstrap_intervals(figure, rows, groups=groups)
            else:
                each = over_seeds(np.stack([figure(rows.mean(0)) for _, rows, _ in same]))
            found[name] |= dict(zip(titles, each, strict=True))
    return found


def table(found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return the figures, one column for each arm."""
    rows = [["", *found]]
    for title in next(iter(found.values())):
        digits = 4 if title in ("FM", "FreqFM") else 3 if "upper" in title else 2
        rows.append([title, *(format(figures[title], f".{digits}f") for figures in found.values())])
    return aligned(rows)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    cli.run(Order, PROGRAM, _compare, words)


def _compare(order: Order) -> None:
    arms = order.arms()
    claim(order.out, ["_token.png", "_velocity.png"], "models")
    models = {
        name: [checkpoints.load(file, device="cpu") for file in files]
        for name, files in arms.items()
    }
    measured, photographs = measure(models, order)
    found = comparison(measured, groups=photographs)
    first, trainings = next(iter(arms)), len(next(iter(arms.values())))
    over = f"{trainings} trainings, paired in their order"
    reach = f"{trainings} trainings each: this says what training does on these photographs only"
    if trainings == 1:
        over = f"the {len(photographs.unique())} photographs"
        reach = (
            "one training each: this says what these files do, not what their losses or "
            "architectures do"
        )
    heading = (
        f"{len(photographs)} noisy crops, {order.per_class} a class, the same for every model; "
        f"change and dB against {first}; 95% intervals over {over}"
    )
    print(heading, "", table(found), "", reach, "", sep="\n")
    energies = {
        kind: {
            name: np.mean([getattr(one, kind).mean(0) for one in ones], axis=0)
            for name, ones in measured.items()
        }
        for kind in ("token_energy", "velocity_energy", "error_energy")
    }
    settings = {"models": arms, "per_class": order.per_class, "seed": order.seed}
    settings |= {"intervals": f"over {over}", "reach": reach}
    stored: dict[str, object] = {
        name: {title: asdict(estimate) for title, estimate in figures.items()}
        | {kind: of[name].tolist() for kind, of in energies.items()}
        for name, figures in found.items()
    }
    patch_sizes = {name: of[0].config.patch_size for name, of in models.items()}
    figures = {
        "_token.png": dct_curves(energies["token_energy"], patch_sizes=patch_sizes),
        "_velocity.png": dct_curves(energies["velocity_energy"]),
    }
    write(order.out, {"settings": settings, **stored}, figures)


def measure(
    models: Mapping[str, Sequence[Model]], order: Order
) -> tuple[dict[str, list[Behaviour]], Tensor]:
    """Return what each model does on the same noisy crops, and the photograph of each crop."""
    every = [(name, model) for name, of in models.items() for model in of]
    sizes = sorted({model.config.image_size for _, model in every})
    if len(sizes) > 1:
        raise ValueError(
            f"models must share image_size, got {', '.join(map(str, sizes))}; "
            "compare models of one size"
        )
    crops = bundled_crops(sizes[0])
    for name, model in every:
        if model.config.class_names != crops.class_names:
            raise ValueError(
                f"models must be of the {crops.num_classes} bundled photographs, got {name} of "
                f"{model.config.num_classes} other classes; use python -m deco_lab.evaluation"
            )
    labels = torch.arange(crops.num_classes).repeat(order.per_class)
    batch = crops.sample(len(labels), torch.Generator().manual_seed(order.seed), labels)
    assert batch.pictures is not None
    # The next seeds: the first image's noise would else repeat the numbers that cut the crops.
    noise = seeded_noise(len(labels), batch.images.shape[1:], order.seed + 1)
    # The times of training, evenly: quantiles of the normal, and every class sees all of them.
    quantile = (torch.arange(order.per_class) + 0.5) / order.per_class
    t = torch.sigmoid(torch.special.ndtri(quantile)).repeat_interleave(crops.num_classes)
    given = batch.images, noise, t, batch.class_ids
    found = {name: [behaviour(model, *given) for model in of] for name, of in models.items()}
    return found, batch.pictures


if __name__ == "__main__":
    main()
