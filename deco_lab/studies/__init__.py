"""Questions to a model, each with the measure that answers it and the figure that shows the answer.

    model = deco_lab.load("tiny")
    found = study("response", model, crops_for(model))
    found.figure
    found.save("response.zip")

`STUDIES` is what `deco-lab study` and the app's Measure tab offer: what is added there is asked
from both. A measure raises ValueError, in a sentence, for a model or images that it does not suit.
"""

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from deco_lab import plots
from deco_lab.config import FIELDS, PHOTOGRAPHS
from deco_lab.data import FieldSampler, bundled_crops, field_power
from deco_lab.files import replacing
from deco_lab.result import Result
from deco_lab.sampling import sample, sample_steps
from deco_lab.setting import check_choice, check_whole
from deco_lab.spectra import (
    Crops,
    band_effects,
    band_response,
    condition_budget,
    detail_spectra,
    excess_error,
    find_seams,
    guidance_spectrum,
    layer_readout,
    linear_readout,
    settling_times,
    tap_spectrum,
)

TIMES = (0.3, 0.5, 0.9)
"""Where a model is asked if not told otherwise."""
COUNT = 34
"""Images that it is asked about: of the bundled photographs two each."""
_RUN: dict[str, Any] = {"num_steps": 25, "solver": "adams2", "guidance_scale": 2.0}

Results = tuple[Result, ...]


class Study(NamedTuple):
    """A question, how it is measured and how the answer is drawn."""

    label: str
    """In a few words, for a list."""
    question: str
    """In a sentence."""
    measure: Callable[[Any, Crops], Results]
    """Of a model and crops."""
    figure: Callable[..., Any]
    """Of the results, one after the other; a matplotlib Figure."""


@dataclass(frozen=True)
class Found:
    """The answer to a question."""

    name: str
    """Of the study."""
    results: Results
    figure: Any
    """A matplotlib Figure."""

    def svg(self) -> bytes:
        """Return the figure, without the date."""
        file = io.BytesIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    def zipped(self) -> bytes:
        """Return the figure, and each result as `Result.save` writes it, in one archive."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive, TemporaryDirectory() as folder:
            archive.writestr(f"{self.name}.svg", self.svg())
            for place, result in enumerate(self.results):
                written = Path(folder, f"{self.name}-{place}-{type(result).__name__}.npz")
                result.save(written)
                archive.write(written, written.name)
        return file.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write that archive to a .zip file, to the side first, then renamed."""
        with replacing(path) as beside:
            beside.write_bytes(self.zipped())


def study(name: str, model: Any, crops: Crops) -> Found:
    """Ask a model one question.

    Parameters
    ----------
    name : str
        A key of `STUDIES`.
    model : DeCo or DiT
        Any model with a `config`, called as (x, t, class_ids).
    crops : Crops
        The images, times and seed, such as of `crops_for`.

    Raises
    ------
    ValueError
        For an unknown name, and where the measure does not suit the model or the images.
    """
    check_choice("study", name, STUDIES)
    asked = STUDIES[name]
    results = asked.measure(model, crops)
    return Found(name, results, asked.figure(*results))


def crops_for(
    model: Any, count: int = COUNT, times: Sequence[float] = TIMES, *, seed: int = 0
) -> Crops:
    """Return images that a model can be asked about, in turn of every class.

    Crops of the bundled photographs, in groups by photograph, or fields, of a model of fields. A
    model of other classes is told none of them; its answers are then to pictures it may never have
    been trained on.

    Parameters
    ----------
    model : DeCo or DiT
        Whose `config` has `image_size`, `num_classes` and `class_names`.
    count : int
        Images.
    times : sequence of float
        In [0, 1]: 0 is noise.
    seed : int
        Of the crops and of the noise.
    """
    check_whole("count", count, 1, 10_000)
    check_whole("seed", seed, 0, 2**31)
    config = model.config
    names, generator = tuple(config.class_names), torch.Generator().manual_seed(seed)
    classes = FIELDS if names == FIELDS else PHOTOGRAPHS
    labels = torch.arange(count) % len(classes)
    if names == FIELDS:
        images = FieldSampler(config.image_size).sample(count, generator, labels).images
        return Crops(images, labels, times, seed=seed)
    images = bundled_crops(config.image_size).sample(count, generator, labels).images
    told = labels if names == PHOTOGRAPHS else torch.full_like(labels, config.num_classes)
    return Crops(images, told, times, seed=seed, groups=labels)


def crops_are(model: Any) -> str:
    """Return what the images of `crops_for` are, in a few words."""
    is_of_fields = tuple(model.config.class_names) == FIELDS
    return "fields" if is_of_fields else "crops of the bundled photographs"


def _measures(model: Any, crops: Crops) -> Results:
    found = band_response(model, crops), linear_readout(model, crops)
    return (*found, band_effects(model, crops)) if hasattr(model, "decode") else found


def _taps(model: Any, crops: Crops) -> Results:
    taps = ("tokens", "condition") if hasattr(model, "decode") else ("tokens",)
    return tuple(tap_spectrum(model, crops, tap=tap) for tap in (*taps, "velocity"))


def _settling(model: Any, crops: Crops) -> Results:
    steps = sample_steps(model, crops.labels_for(model), **_RUN, seed=crops.seed)
    return (settling_times(steps, groups=crops.groups, model=model, seed=crops.seed),)


def _grid(model: Any, crops: Crops) -> Results:
    images = sample(model, crops.labels_for(model), **_RUN, seed=crops.seed)
    sets = (images.cpu(), crops.images)
    return tuple(find_seams(x, model.config.patch_size, groups=crops.groups) for x in sets)


def _excess(model: Any, crops: Crops) -> Results:
    if tuple(model.config.class_names) != FIELDS:
        raise ValueError(
            "excess needs images whose least error is known, as photographs' is not; ask a model "
            "of the fields, such as fields"
        )
    labels, found = crops.labels_for(model).values, []
    for label in range(len(FIELDS)):
        own = labels == label
        if own.any():
            of_class = Crops(crops.images[own], labels[own], crops.times, seed=crops.seed)
            power = field_power(label, crops.images.shape[-1])
            found.append(excess_error(model, of_class, power))
    return tuple(found)


def _excess_figure(*found: Any) -> Any:
    names = (FIELDS[one.recipe["class_ids"][0]] for one in found)
    curves = {name: one.excess for name, one in zip(names, found, strict=True)}
    return plots.excess_figure(found[0].times, curves)


def _middle(found: Any) -> float:
    """Return the time in the middle, for figures of one."""
    return found.times[len(found.times) // 2]


STUDIES: dict[str, Study] = {
    "measures": Study(
        "Three measures, side by side",
        "Which bands of the predicted image come by way of the DiT, and which from the pixels?",
        _measures,
        plots.measures_figure,
    ),
    "response": Study(
        "Response by path",
        "How much of each band of the noisy image reaches the predicted one, and by which way?",
        lambda model, crops: (band_response(model, crops),),
        plots.response_curves,
    ),
    "parts": Study(
        "Parts by band",
        "What share of each band do condition and pixels make, by themselves and together?",
        lambda model, crops: (band_effects(model, crops),),
        plots.effect_curves,
    ),
    "budget": Study(
        "What a patch may hold",
        "How many patterns of a patch can the condition write, and of which frequency?",
        lambda model, crops: (condition_budget(model, crops),),
        lambda found: plots.budget_figure(found, _middle(found)),
    ),
    "layers": Study(
        "What each block knows",
        "How much of the true image can be read from the tokens after each block of the DiT?",
        lambda model, crops: tuple(layer_readout(model, crops)),
        lambda *blocks: plots.layer_curves(blocks),
    ),
    "taps": Study(
        "Spectra of tokens, condition and velocity",
        "How does the energy of each fall with frequency, on its own grid?",
        _taps,
        lambda *found: plots.tap_curves({spectrum.tap: spectrum for spectrum in found}),
    ),
    "detail": Study(
        "Detail against the best linear filter",
        "How much of each frequency does the predicted image have, and how wrong is it?",
        lambda model, crops: (detail_spectra(model, crops),),
        lambda found: plots.detail_curves(found, _middle(found)),
    ),
    "guidance": Study(
        "What guidance adds",
        "In which bands do the velocities with and without the class differ?",
        lambda model, crops: (guidance_spectrum(model, crops),),
        plots.guidance_curves,
    ),
    "settling": Study(
        "When bands settle",
        "At what t of a run does each band of the predicted image have its final form?",
        _settling,
        plots.settling_figure,
    ),
    "grid": Study(
        "Patch grid of samples",
        "Do samples show the borders of the patches more than real images do?",
        _grid,
        lambda drawn, real: plots.seam_curves({"samples": drawn, "real images": real}),
    ),
    "excess": Study(
        "Excess error, of fields",
        "How far from the least error that is possible is the predicted image, by band?",
        _excess,
        _excess_figure,
    ),
}
