"""`python -m deco_lab.evaluation MODEL`: samples against fresh crops, as table, JSON and figure."""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from deco_lab import checkpoints
from deco_lab.config import PHOTOGRAPHS, DiTConfig, config_to_dict
from deco_lab.data import Crops, PictureCrops, bundled_crops, read_folder
from deco_lab.evaluation import report
from deco_lab.evaluation.features import image_features, inception_features
from deco_lab.evaluation.judge import Judge
from deco_lab.models import Model, build
from deco_lab.sampling import SOLVERS, sample

BATCH = 16


def draw(model: Model, class_ids: list[int], bar: tqdm, **settings: float | str) -> Tensor:
    """Return one image for each label, image i from seed + i."""
    seed = int(settings.pop("seed"))
    parts = []
    for start in range(0, len(class_ids), BATCH):
        ids = class_ids[start : start + BATCH]
        parts.append(sample(model, ids, seed=seed + start, **settings).cpu())  # type: ignore[arg-type]
        bar.update(len(ids))
    return torch.cat(parts)


def crops_for(
    config: DiTConfig, data: Path | None, held_out: float, device: torch.device
) -> tuple[Crops, Crops]:
    """Return training and fresh crops: of a folder, its held-out share; else the photographs'."""
    if data is None:
        if config.class_names != PHOTOGRAPHS:
            raise ValueError(
                "--data must be given for a model of other classes than the bundled photographs; "
                "name the folder of pictures, one sub-folder for each class, it was trained on"
            )
        crops = bundled_crops(config.image_size)
        return crops, crops
    folder = read_folder(data, held_out=held_out)
    if config.class_names and folder.training.class_names != config.class_names:
        raise ValueError(
            f"--data must hold the model's classes, {', '.join(config.class_names[:6])} ..., got "
            f"{', '.join(folder.training.class_names[:6])} ...; name the folder it was trained on"
        )
    cut = partial(PictureCrops, image_size=config.image_size)
    return cut(folder.training), cut(folder.held_out)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.evaluation",
        description="Measure a model's samples against fresh crops, with floors and intervals.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", help="bundled name, file or hf:// address, as for deco_lab.load")
    parser.add_argument("--data", type=Path, help="folder of pictures by class [the photographs]")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of --data held out")
    parser.add_argument("--per-class", type=int, default=16, help="samples of each class")
    parser.add_argument("--num-steps", type=int, default=25, help="solver steps")
    parser.add_argument("--solver", choices=list(SOLVERS), default="adams2", help="solver")
    parser.add_argument("--guidance-scale", type=float, default=2.0, help="1 is off")
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first sample")
    parser.add_argument("--inception", type=Path, help="Inception weights for the Fréchet distance")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is when not given")
    parser.add_argument(
        "--out", type=Path, help="path of the files, without suffix [evaluation/MODEL]"
    )
    given = parser.parse_args(arguments)
    if given.per_class < 2:
        parser.error(f"--per-class must be at least 2, for a spread, got {given.per_class}")
    try:
        device = checkpoints.choose_device(given.device)
        model = checkpoints.load(given.model, device=device)
        training, fresh = crops_for(model.config, given.data, given.held_out, device)
        features = (
            image_features if not given.inception
            else partial(inception_features, weights=given.inception)
        )  # fmt: skip
        evaluate(model, training, fresh, given, features)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


def evaluate(
    model: Model, training: Crops, fresh: Crops, given: argparse.Namespace, features
) -> None:
    """Sample, judge, print and write."""
    config = model.config
    class_ids = torch.arange(config.num_classes).repeat(given.per_class)
    settings = {
        "num_steps": given.num_steps, "solver": given.solver, "seed": given.seed,
        "guidance_scale": given.guidance_scale,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = build(config).to(next(model.parameters()).device).eval()
    with tqdm(total=2 * len(class_ids), unit=" img", desc="sampling") as bar:
        images = draw(model, class_ids.tolist(), bar, **settings)
        bar.set_description("random weights")
        noise = draw(untrained, class_ids.tolist(), bar, **{**settings, "guidance_scale": 1.0})
        bar.set_description("judging")
        judge = Judge(training, fresh, features=features)
        name = Path(given.model).stem if Path(given.model).suffix else given.model
        findings = {
            name: judge(images, class_ids),
            report.REAL: judge.real(given.per_class),
            report.RANDOM: judge(noise, class_ids),
        }
        bar.set_description("done")
    parameters = sum(p.numel() for p in model.parameters())
    own, real, random = findings.values()
    names = config.class_names or tuple(map(str, range(config.num_classes)))
    print(
        f"{name}: {type(model).__name__} of {parameters / 1e6:.2f}M parameters, "
        f"{len(class_ids)} samples, {given.per_class} a class "
        f"({given.num_steps} {given.solver} steps, guidance {given.guidance_scale:g}), "
        "against fresh crops; 95% intervals\n",
        report.table(findings), "", report.class_table(own, real, names), "",
        report.verdict(own, real, random), "", sep="\n",
    )  # fmt: skip
    written = report.write(
        given.out or Path("evaluation") / name,
        findings,
        title=name,
        settings={
            **settings, "model": str(given.model), "per_class": given.per_class,
            "data": str(given.data) if given.data else "bundled photographs",
            "config": config_to_dict(config),
        },
    )  # fmt: skip
    print("written:", *written)


if __name__ == "__main__":
    main()
