"""`python -m deco_lab.evaluation MODEL`: samples against fresh crops, as table, JSON and figure."""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from deco_lab import checkpoints
from deco_lab.config import FIELDS, PHOTOGRAPHS, DiTConfig, config_to_dict
from deco_lab.data import PictureCrops, Source, SourceConfig, open_source
from deco_lab.evaluation import report
from deco_lab.evaluation.features import image_features, inception_features
from deco_lab.evaluation.judge import Judge
from deco_lab.evaluation.samples import FIRST_SEED, draw_samples
from deco_lab.models import Model, build
from deco_lab.sampling import SOLVERS
from deco_lab.terminal import print_any_text


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
    options: dict[str, Any] = {"data": data, "dataset": dataset}
    for name in ("crop", "crop_scale", "flip", "split", "image_column", "label_column"):
        if name in record:
            options[name] = tuple(record[name]) if name == "crop_scale" else record[name]
    if "held_out_share" in record:
        options["held_out"] = record["held_out_share"]
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    print_any_text()
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.evaluation",
        description="Measure a model's samples against fresh crops, with floors and intervals. "
        "What is fresh are other crops of the bundled photographs, or the held-out pictures of "
        "--data or --dataset.",
    )
    add = parser.add_argument
    add("model", help="bundled name, file or hf:// address, as for deco_lab.load")
    add("--image-size", type=int, metavar="PIXELS", help="where the model's file does not say")
    add("--data", default="", help="folder of pictures by class that the model was trained on")
    add("--dataset", default="", help="dataset that the model was trained on")
    add("--per-class", type=int, default=16, help="samples of each class [%(default)s]")
    add("--num-steps", type=int, default=25, help="solver steps [%(default)s]")
    add("--solver", choices=list(SOLVERS), default="adams2", help="[%(default)s]")
    add("--guidance-scale", type=float, default=3.0, help="1 is off [%(default)s]")
    add("--seed", type=int, default=FIRST_SEED, help="of the first sample [%(default)s]")
    add(
        "--inception", type=Path, help="Inception weights, for its features in the Fréchet distance"
    )
    add("--device", help="cpu, cuda, mps; the best there is when not given")
    add("--out", type=Path, help="path of the files, without suffix [evaluation/MODEL]")
    given = parser.parse_args(arguments)
    if given.per_class < 2:
        parser.error(f"--per-class must be at least 2, for a spread, got {given.per_class}")
    given.out = given.out or Path("evaluation") / report.name_of(given.model)
    try:
        report.claim(given.out, (".json", ".png"), "model")
        device = checkpoints.choose_device(given.device)
        fast = device.type == "cpu"
        model = checkpoints.load(given.model, device, fast=fast, image_size=given.image_size)
        record: Any = checkpoints.read_training(given.model).get("data", {})
        source = source_of(model.config, record, given.data, given.dataset, device)
        for line in source.left_out:
            print(line, file=sys.stderr)
        evaluate(model, source, given)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


def evaluate(model: Model, source: Source, given: argparse.Namespace) -> None:
    """Sample, judge, print and write."""
    config, fresh = model.config, source.fresh
    assert fresh is not None
    present = np.arange(config.num_classes)
    if isinstance(fresh, PictureCrops):
        present = np.unique(fresh.pictures.labels)
    class_ids = np.tile(present, given.per_class).tolist()
    settings = {
        "num_steps": given.num_steps,
        "solver": given.solver,
        "guidance_scale": given.guidance_scale,
        "seed": given.seed,
    }
    features = image_features
    if given.inception:
        features = partial(inception_features, weights=given.inception)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = build(config).to(next(model.parameters()).device).eval()
    with tqdm(total=2 * len(class_ids), unit=" img", desc="sampling") as bar:
        images = draw_samples(model, class_ids, progress=bar.update, **settings)
        bar.set_description("random weights")
        # As training starts them: the last layer is zero, and the samples are their noise. Guidance
        # has nothing to strengthen here, and would take twice the time.
        settings_of_noise = {**settings, "guidance_scale": 1.0}
        noise = draw_samples(untrained, class_ids, progress=bar.update, **settings_of_noise)
        bar.set_description("judging")
        judge = Judge(source.crops, fresh, class_ids=tuple(present.tolist()), features=features)
        name = report.name_of(given.model)
        findings = {
            name: judge(images, class_ids),
            report.REAL: judge.real(given.per_class),
            report.RANDOM: judge(noise, class_ids),
        }
        bar.set_description("done")
    own, real, random = findings.values()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    missing = config.num_classes - len(present)
    assumed = " (assumed)" if config.image_size_assumed else ""
    print(
        f"{name}: {type(model).__name__} of {millions:.2f}M parameters, {len(class_ids)} samples "
        f"of {config.image_size} px{assumed}, {given.per_class} a class "
        f"({given.num_steps} {given.solver} steps, guidance {given.guidance_scale:g}), against "
        "fresh crops; 95% intervals, over samples or over the pictures of real crops, for this "
        "file and these classes; random weights, as training starts from, leave noise as it is"
        + (f"; {missing} classes have no held-out picture and are left out" if missing else ""),
        "",
        report.table(findings),
        "",
        report.class_table(own, real, source.crops.class_names),
        "",
        report.verdict(own, real, random),
        "",
        sep="\n",
    )
    written = report.write(
        given.out,
        findings,
        title=name,
        settings={
            **settings,
            "model": str(given.model),
            "per_class": given.per_class,
            "data": source.record,
            "config": config_to_dict(config),
        },
    )
    print("written:", *written)


if __name__ == "__main__":
    main()
