"""A predicted image taken apart: an image, a time and a seed in; pictures, spectra and shares out.

    x_t = t * image + (1 - t) * noise(seed)        D = x_t + (1 - t) * velocity
    D = baseline + condition + pixels + interaction

The parts are those of `deco_lab.spectra.factorial`: main effects of the pixel decoder's two inputs,
what both do only together, and what is there with other pictures' in the place of both. The
velocity, and constants in that place, can be asked for.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.flow import interpolate, seeded_noise
from deco_lab.labels import labels_of
from deco_lab.setting import RuleError, check_choice, check_number, check_whole
from deco_lab.spectra import (
    MEAN_AND_OCTAVES,
    Crops,
    band_names,
    dct_energy,
    token_clusters,
    token_map,
)
from deco_lab.spectra.decompose import reference_condition, reference_pixels
from deco_lab.spectra.factorial import (
    CANCELS,
    OTHERS,
    WHOLES,
    cancellation,
    draws_products,
    part_shares,
    unshared,
)
from deco_lab.spectra.products import band_sums
from deco_lab.workbench.gain import Gain, input_gain
from deco_lab.workbench.live_spectra import in_zigzag
from deco_lab.workbench.others import others_of, taken_apart
from deco_lab.workbench.pictures import PackedImages, plain, to_pictures, white_of
from deco_lab.wrapper import Wrapper

Array = NDArray[np.float64]

DRAWS = 4
"""Other pictures that stand for each input, one after the other."""

MAX_CLUSTERS = 16
"""Most clusters of the condition's map: more colours are not told apart."""

CHOICES = {
    "whole": {
        "predicted": "The predicted image, where the velocity leads at once.",
        "velocity": "What the model answers; above 1/4 most of it is copied noise.",
    },
    "condition_reference": {
        "others": "The conditions of other pictures at the same t.",
        "mean": "The image's mean token everywhere: the condition's part is what differs from "
        "place to place. A constant is nothing that the decoder was trained on.",
        "time": "A condition that knows t and nothing else, as none is in training: the "
        "condition's part is all that it says about the picture.",
        "null": "The condition of no class: the condition's part is what naming the class adds.",
    },
    "pixel_reference": {
        "others": "The noisy pixels of other pictures at the same t.",
        "zero": "Mid-grey pixels, as none are in training: their part is all that the decoder "
        "reads off the noisy image.",
        "patch_mean": "Each patch's mean colour: the pixels' part is what is read within patches.",
        "noise": "Other noise: the pixels' part is what these very pixels say more than any "
        "noise would.",
    },
    "effects": {
        "main": "Main effects: what each input does by itself; the interaction stands apart.",
        "shapley": "Shapley values: half of the interaction is within each.",
    },
}
"""What each choice of `explain` means, by argument and value; the first of each is the default."""

PARTS = ("baseline", "condition", "pixels", "interaction")
"""With main effects they sum to the whole; Shapley values hold the interaction."""
FIELDS = ("whole", *PARTS)
"""What is shown on one scale."""


@dataclass(frozen=True)
class Clusters:
    """K-means of the condition's tokens, less their mean."""

    rows: int
    columns: int
    labels: list[int]
    """rows * columns, row by row, from 0, the darkest region, to count - 1."""
    count: int
    explained: float | None
    """Share of the tokens' variance between the clusters; k-means finds some in noise as well."""
    regions: float | None
    """How far neighbours share labels beyond chance: 1 for solid regions, 0 for a scatter."""


@dataclass(frozen=True, kw_only=True)
class PartsView:
    """All that the Decompose tab shows; JSON-ready through `dataclasses.asdict`."""

    settings: dict[str, Any]
    """Arguments of `explain`, and "class_name", "image_size", "patch_size" and "others", which says
    which other pictures stand for none; "" where none do."""
    says: str
    """What is drawn of what, in a sentence or two; why, where there are no shares."""
    clean: PackedImages
    noisy: PackedImages
    predicted: PackedImages
    """D."""
    fields: dict[str, PackedImages]
    """By name in FIELDS: grey is 0, white is scale and black is -scale."""
    scale: float
    rms: dict[str, float | None]
    """Root mean square of each field."""
    spectra: dict[str, list[float | None]]
    """By name in FIELDS, and "tokens", the condition's, where there are more than 4 a side:
    mean squares of 8 x 8 DCT coefficients in zigzag order, 1 for white noise of variance 1."""
    bands: list[str]
    """Names of the bands, in cycles per pixel."""
    shares: dict[str, list[float | None]]
    """By name in PARTS; with main effects they sum to 1 in each band, with Shapley values the first
    three do. None where the parts cancel, or where there is nothing."""
    cancellation: list[float | None]
    """By band: energies of the parts, summed, over the whole's; above 2 they cancel."""
    clusters: Clusters
    gain: Gain
    dit_passes: int
    decoder_passes: int
    """A derivative of the decoder counts one."""
    milliseconds: float


class Known(Wrapper):
    """A model whose condition has been computed: `token_clusters` then costs no further pass."""

    def __init__(self, model: Any, condition: Tensor) -> None:
        super().__init__(model)
        self._condition = condition

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return what has been computed, (B, N, D)."""
        return self._condition


BANDS = tuple(band_names(MEAN_AND_OCTAVES))
"""Those of the shares: the channels' means are a band of their own."""


class Shares(NamedTuple):
    """What each part is of a whole, band by band."""

    values: Tensor
    """(4, 5), float64, parts as in PARTS; NaN where there are none."""
    cancellation: Tensor
    """(5,), energies of the parts, summed, over the whole's."""
    says: str
    """Those of the finest band in a sentence, "" where it has none because parts cancel."""
    unshared: str
    """A sentence on the bands in which parts cancel, "" where there are none."""


def shares_of(
    products: Tensor, t: float, whole: str = "predicted", effects: str = "main"
) -> Shares:
    """Return the shares of one image's `draws_products`, (6, S, S // 2 + 1), on any device."""
    sums = band_sums(products, products.shape[-2], MEAN_AND_OCTAVES).numpy()
    beyond = cancellation(sums)
    values = np.where(beyond > CANCELS, np.nan, part_shares(sums))
    if effects == "shapley":
        values[1:3] += values[3] / 2
    says = ""
    if not np.isnan(values[:, -1]).any():
        says = f"t = {t:.2f}: {_said(values[:, -1], WHOLES[whole], effects)}"
    elif np.isnan(beyond[-1]):
        says = f"t = {t:.2f}: the {WHOLES[whole]} has nothing {BANDS[-1]} cycles a pixel."
    cancels = unshared(beyond[None] > CANCELS, [round(t, 4)], BANDS, WHOLES[whole])
    return Shares(torch.from_numpy(values), torch.from_numpy(beyond), says, cancels)


def _said(shares: Array, whole: str, effects: str) -> str:
    """Return a sentence on the shares of the finest band, (4,)."""
    where = f"what the {whole} has {BANDS[-1]} cycles a pixel"
    condition, pixels, both = (f"{share:z.0%}" for share in shares[1:])
    if effects == "shapley":
        return f"of {where} the condition's Shapley value is {condition}, the pixels' {pixels}."
    return (
        f"the condition draws {condition} of {where}; the pixels bring {pixels}, both only "
        f"together {both}."
    )


def noised(image: Tensor, t: float, seed: int, noisy: Tensor | None = None) -> Tensor:
    """Return what a model is given of an image at t, (3, S, S): `noisy`, where there is one."""
    if noisy is not None:
        return noisy
    clean = image[None].clamp(-1, 1)
    return interpolate(clean, seeded_noise(1, image.shape, seed).to(clean), t)[0]


def name_of_class(config: Any, class_id: int) -> str:
    """Return what to call a class of a model, from 0 to num_classes, the null class."""
    if class_id == config.num_classes:
        return "no class"
    return config.class_names[class_id] if config.class_names else f"class {class_id}"


@torch.no_grad()
def explain(
    model: Any,
    image: Tensor,
    class_id: int,
    *,
    t: float = 0.5,
    seed: int = 0,
    noisy: Tensor | None = None,
    whole: str = "predicted",
    condition_reference: str = OTHERS,
    pixel_reference: str = OTHERS,
    effects: str = "main",
    num_clusters: int = 8,
    name: str = "this model",
) -> PartsView:
    """Noise an image, let the model answer, and take the answer apart.

    Parameters
    ----------
    model : object
        A `DeCo`.
    image : Tensor
        (3, S, S) in [-1, 1], S the model's `config.image_size`; values beyond are clipped.
    class_id : int
        From 0 to num_classes, the null class.
    t : float
        In [0, 1): 0 is noise. At 1 there is nothing left to draw.
    seed : int
        Of the noise, as in `sample`; of the other pictures, and of k-means.
    noisy : Tensor, optional
        (3, S, S), what the model is given at t in place of image and noise, such as the state of a
        run; the image is then only shown.
    whole, condition_reference, pixel_reference, effects : str
        Keys of `CHOICES`. Of "others" there are DRAWS, and parts are means over them.
    num_clusters : int
        From 2 to MAX_CLUSTERS, and at most one a token.
    name : str
        What to call the model in a message.

    Raises
    ------
    ValueError
        For a model without a pixel decoder or whose answer is not finite, and where an argument
        breaks a rule above.
    """
    started = time.perf_counter()
    if not (hasattr(model, "condition") and hasattr(model, "decode")):
        raise ValueError(
            f"{name} has no pixel decoder, so there is nothing to take apart; choose a DeCo, such "
            "as tiny"
        )
    config = model.config
    side = config.image_size // config.patch_size
    check_whole("class_id", class_id, 0, config.num_classes)
    check_number("t", t, 0, 1)
    if t == 1:
        raise RuleError("t", "must be below 1, where nothing is left to draw, got 1; use 0.95")
    check_whole("seed", seed, 0, 2**32 - 1)
    chosen = (whole, condition_reference, pixel_reference, effects)
    choices = dict(zip(CHOICES, chosen, strict=True))
    for argument, value in choices.items():
        check_choice(argument, value, CHOICES[argument])
    check_whole("num_clusters", num_clusters, 2, min(MAX_CLUSTERS, side * side))

    device = next(model.parameters()).device
    clean = image[None].clamp(-1, 1).to(device)
    x = noised(image, t, seed, noisy)[None].to(device)
    labels = labels_of([class_id], 1, model).to(device)
    at = torch.full((1,), t, device=device)
    condition = model.condition(x, at, labels.values)
    passes, said = 1, ""
    pixels = conditions = x
    if OTHERS in chosen:
        others = others_of(config, class_id, count=DRAWS, seed=seed, device=device)
        pixels, said = others.pixels(t), others.said
        if condition_reference == OTHERS:
            conditions = others.condition(model, t)
            passes += DRAWS
    if condition_reference != OTHERS:
        conditions = reference_condition(model, condition_reference, condition, x, at, labels)
        passes += condition_reference == "null"
    if pixel_reference != OTHERS:
        pixels = reference_pixels(model, pixel_reference, x, seed)
    wholes, draws = taken_apart(model, x, condition, t, pixels, conditions)
    if not bool(wholes.isfinite().all()):
        raise ValueError(
            f"{name} must answer with finite numbers, got NaN or infinity; check its weights"
        )
    predicted, which = wholes[1:], list(WHOLES).index(whole)
    products = draws_products(wholes[which], draws[:, which])
    shares = shares_of(products, t, whole, effects)
    parts = draws[:, which].mean(1)
    if effects == "shapley":
        parts[1:3] += parts[3] / 2
    fields = {
        key: field[None].float() for key, field in zip(FIELDS, (wholes[which], *parts), strict=True)
    }
    scale = white_of(torch.cat(list(fields.values())))
    spectra = {key: _spectrum(field) for key, field in fields.items()}
    if side > 4:
        spectra["tokens"] = _spectrum(token_map(condition.float(), side, side))
    gain, derivatives = input_gain(model, x, condition, predicted, t)
    clusters = _clusters(Known(model, condition), clean, class_id, t, seed, num_clusters)
    return PartsView(
        settings={
            "class_id": class_id,
            "class_name": name_of_class(config, class_id),
            "t": t,
            "seed": seed,
            **choices,
            "num_clusters": num_clusters,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "others": said,
        },
        says=f"{shares.says} {shares.unshared}".strip(),
        clean=to_pictures(clean),
        noisy=to_pictures(x),
        predicted=to_pictures(predicted),
        fields={key: to_pictures(field, -scale, scale) for key, field in fields.items()},
        scale=scale,
        rms={key: plain(field.square().mean().sqrt()) for key, field in fields.items()},
        spectra=spectra,
        bands=list(BANDS),
        shares=dict(zip(PARTS, plain(shares.values), strict=True)),
        cancellation=plain(shares.cancellation),
        clusters=clusters,
        gain=gain,
        dit_passes=passes,
        decoder_passes=1 + 3 * draws.shape[2] + derivatives,
        milliseconds=round(1000 * (time.perf_counter() - started), 1),
    )


def _spectrum(images: Tensor) -> list[float | None]:
    return plain(in_zigzag(dct_energy(images).cpu()))


def _clusters(
    model: Any, clean: Tensor, class_id: int, t: float, seed: int, count: int
) -> Clusters:
    found = token_clusters(model, Crops(clean, [class_id], (t,), seed=seed), clusters=count)
    labels = found.maps[0, 0]
    return Clusters(
        rows=labels.shape[0],
        columns=labels.shape[1],
        labels=labels.flatten().tolist(),
        count=count,
        explained=plain(found.explained.value[0]),
        regions=plain(found.regions.value[0]),
    )
