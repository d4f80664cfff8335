"""`python -m deco_lab.evaluation MODEL`: samples against fresh crops, as table, JSON and figure."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tqdm.auto import tqdm
from tyro.conf import Positional

from deco_lab import checkpoints, cli
from deco_lab.config import FIELDS, PHOTOGRAPHS, DiTConfig, config_to_dict
from deco_lab.data import PictureCrops, Source, SourceConfig, open_source
from deco_lab.evaluation import report
from deco_lab.evaluation.judge import Figures, Findings, Judge
from deco_lab.evaluation.samples import PLAN, ModelOrder, Sampling, draw_samples
from deco_lab.models import Model, build
from deco_lab.plots import evaluation_figure
from deco_lab.setting import Setting
from deco_lab.spectra import Estimate
from deco_lab.terminal import aligned

PROGRAM = "python -m deco_lab.evaluation"
TITLES = {
    "class_accuracy": "class accuracy",
    "strict_class_accuracy": "class accuracy, to one grey level",
    "gradient_class_accuracy": "class accuracy, edges and colours",
    "spectral_error": "spectral error (dB)",
    "frechet_distance": "Fréchet distance",
    "nearest_crop": "nearest training crop (grey levels)",
}
"""How each field of `Figures` is written."""


@dataclass(frozen=True, kw_only=True)
class Order(ModelOrder):
    """Measure a model's samples against fresh crops, with floors and intervals.

    What is fresh are other crops of the bundled photographs, or the held-out pictures of --data or
    --dataset.
    """

    model: Annotated[
        Positional[str], Setting("Bundled name, file or hf:// address, as for deco_lab.load.")
    ]
    data: Annotated[str, Setting("Folder of pictures by class that the model was trained on.")] = ""
    dataset: Annotated[str, Setting("Dataset that the model was trained on.")] = ""
    per_class: Annotated[
        int, Setting("Samples of each class.", low=2, remedy="one tells no spread")
    ] = 16
    out: Annotated[
        Path | None, Setting("Path of the files, without suffix; evaluation/MODEL if not given.")
    ] = None
    sampling: Sampling = PLAN


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    cli.run(Order, PROGRAM, _evaluate, words)


def _evaluate(order: Order) -> None:
    out = order.out or Path("evaluation") / report.name_of(order.model)
    report.claim(out, [".png"], "model")
    model = order.load(order.model)
    device = next(model.parameters()).device
    record: Any = checkpoints.read_training(order.model).get("data", {})
    source = source_of(model.config, record, order.data, order.dataset, device)
    for line in source.left_out:
        print(line, file=sys.stderr)
    name = report.name_of(order.model)
    findings = measure(name, model, source, order)
    own = findings[name]
    figures = {label: found.figures for label, found in findings.items()}
    print(_heading(name, model, own, order), "", table(figures), "", sep="\n")
    settings = {
        "model": order.model,
        "per_class": order.per_class,
        **asdict(order.sampling),
        "data": source.record,
        "config": config_to_dict(model.config),
    }
    figure = evaluation_figure(
        own.frequency,
        {label: found.power_ratio for label, found in findings.items()},
        own.coefficient_ratio,
        title=name,
    )
    stored = {label: found.to_dict() for label, found in findings.items()}
    report.write(out, {"settings": settings, **stored}, {".png": figure})


def source_of(
    config: DiTConfig, record: Mapping[str, Any], data: str, dataset: str, device: torch.device
) -> Source:
    """Return the pictures a model was trained on, cut as they were, and the held-out ones.

    Parameters
    ----------
    config : DiTConfig
        Of the model.
    record : mapping
        Of its training, as `Source.record`; what it lacks takes its default.
    data, dataset : str
        Where the pictures are now, as in `SourceConfig`; both empty for the bundled photographs
        and for fields.
    device : torch.device
        Where the crops end up.

    Raises
    ------
    ValueError
        Where the pictures are of other classes or other in number than those the model was trained
        on, so that none of them is sure to be held out, or none were held out.
    """
    if not (data or dataset) and config.class_names == FIELDS:
        data = "fields"
    if not (data or dataset) and config.class_names != PHOTOGRAPHS:
        raise ValueError(
            "--data or --dataset must be given for a model of other pictures than the bundled "
            f"photographs; name what it was trained on, {record.get('name', 'which is not known')}"
        )
    cutting = ("crop", "crop_scale", "flip", "split", "image_column", "label_column")
    options: dict[str, Any] = {name: record[name] for name in cutting if name in record}
    options["held_out"] = record.get("held_out_share", SourceConfig.held_out)
    options |= {"data": data, "dataset": dataset}
    source = open_source(SourceConfig(**options), config.image_size, device)
    if config.class_names and source.crops.class_names != config.class_names:
        raise ValueError(
            f"the pictures must be of the model's classes, {_some(config.class_names)}, got "
            f"{_some(source.crops.class_names)}; name what it was trained on"
        )
    counts = ("pictures_by_class", "held_out")
    if any(name in record and record[name] != source.record[name] for name in counts):
        raise ValueError(
            "the pictures must be as many as the model was trained on, or held-out ones may have "
            f"been trained on: {record['pictures']} and {record['held_out']} held out, got "
            f"{source.record['pictures']} and {source.record['held_out']}; restore them, or train "
            "again on those that are there"
        )
    if source.fresh is None:
        raise ValueError(
            "no picture is held out, so there is nothing fresh to compare with; train with "
            "--held-out 0.1 and two or more pictures a class"
        )
    return source


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")


def measure(name: str, model: Model, source: Source, order: Order) -> dict[str, Findings]:
    """Return what a judge finds of the model's samples, of real crops and of random weights."""
    fresh, plan = source.fresh, order.sampling
    assert fresh is not None
    present = np.arange(model.config.num_classes)
    if isinstance(fresh, PictureCrops):
        present = np.unique(fresh.pictures.labels)
    class_ids = np.tile(present, order.per_class).tolist()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = build(model.config).to(next(model.parameters()).device).eval()
    with tqdm(total=2 * len(class_ids), unit=" img", desc="sampling") as bar:
        images = draw_samples(model, class_ids, plan, progress=bar.update)
        bar.set_description("random weights")
        # As training starts them: the last layer is zero, and the samples are their noise. Guidance
        # has nothing to strengthen here, and would take twice the time.
        unguided = replace(plan, guidance="plain", guidance_scale=1.0)
        noise = draw_samples(untrained, class_ids, unguided, progress=bar.update)
        bar.set_description("judging")
        judge = Judge(source.crops, fresh, class_ids=tuple(present.tolist()))
        return {
            name: judge(images, class_ids),
            "real crops": judge.real(order.per_class),
            "random weights": judge(noise, class_ids),
        }


def _heading(name: str, model: Model, own: Findings, order: Order) -> str:
    """Return what was measured, how, and what the intervals are over."""
    config, plan = model.config, order.sampling
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assumed = " (assumed)" if config.image_size_assumed else ""
    guidance = f"{plan.guidance_scale:g}" if plan.guidance == "plain" else plan.guidance
    missing = config.num_classes - len(own.class_ids)
    return (
        f"{name}: {type(model).__name__} of {millions:.2f}M parameters, {own.confusion.sum()} "
        f"samples of {config.image_size} px{assumed}, {order.per_class} a class ({plan.num_steps} "
        f"{plan.solver} steps, guidance {guidance}), against fresh crops; 95% intervals, over "
        "samples or over the pictures of real crops, for this file and these classes; random "
        "weights, as training starts from, leave noise as it is"
        + (f"; {missing} classes have no held-out picture and are left out" if missing else "")
    )


def _written(estimate: Estimate) -> str:
    """Write an estimate with as many digits as its size needs."""
    digits = 3 if abs(estimate.value) < 1 else 2 if abs(estimate.value) < 100 else 0
    return format(estimate, f".{digits}f")


def table(found: Mapping[str, Figures]) -> str:
    """Return the figures, a column for each label, with their 95% intervals."""
    names = [field.name for field in fields(Figures)]
    rows = [[TITLES[name], *(_written(getattr(f, name)) for f in found.values())] for name in names]
    return aligned([["", *found], *rows])


if __name__ == "__main__":
    main()
