"""What the README says of code and models is so."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deco_lab
from deco_lab import spectra
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.models import build
from deco_lab.spectra import (
    BandEffects,
    band_effects,
    phase_shuffled,
    reference_sensitivity,
    split_bands,
    white_noise,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ENDS = ("", "_low", "_high")


def test_first_python_block_runs(capsys):
    block = re.search(r"```python\n(import deco_lab.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict = {}
    exec(block[1], names)
    assert names["images"].shape == (2, 3, 64, 64)
    assert "tensor([" in capsys.readouterr().out


@pytest.mark.parametrize("name", PRESETS)
def test_model_table_gives_shape_and_parameters(name: str):
    row = re.search(rf"^\| `{re.escape(name)}` \|(.*)\|$", README, re.MULTILINE)
    assert row is not None
    cells = [cell.strip() for cell in row[1].split("|")]
    config = PRESETS[name]
    with torch.device("meta"):
        millions = sum(p.numel() for p in build(config).parameters()) / 1e6
    decoder = ""
    if isinstance(config, DeCoConfig):
        decoder = f"{config.decoder_depth}, {config.decoder_width}"
    shape = (config.patch_size, config.hidden_size, config.num_heads, config.depth)
    expected = [*map(str, shape), decoder, str(config.num_classes)]
    assert cells[:6] == expected
    assert cells[6] == (f"{millions:.2f}M" if millions < 10 else f"{millions:.0f}M")


def test_links_to_files_are_not_dead():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_analyses_are_functions_of_spectra():
    table = README[README.index("## Analyses") : README.index("## Models")]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 10
    assert [name for name in named if name not in spectra.__all__] == []


def test_notebooks_are_all_in_their_table():
    linked = re.findall(r"^\| \[\w+\]\((notebooks/\w+\.ipynb)\)", README, re.MULTILINE)
    found = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert linked == found


def share(effects: BandEffects, whole: str, part: str, t: float) -> str:
    """Return a part's share of the highest band, as the README writes it."""
    at = int(np.argmin(abs(effects.times - t)))
    ends = [getattr(effects, whole + end)[at, effects.parts.index(part), -1] for end in ENDS]
    return "{:.0f}% [{:.0f}, {:.0f}]".format(*(round(100 * float(end)) + 0 for end in ends))


@pytest.mark.slow
def test_what_each_part_does_is_as_said():
    section = README[README.index("## What the DiT does") : README.index("## Analyses")]
    text = " ".join(section.split())
    model: Any = deco_lab.load("tiny", device="cpu")
    # The crops of notebook 02: two of each photograph, by seed 2026.
    generator = torch.Generator().manual_seed(2026)
    crops, ids = bundled_crops(64).sample(28, generator, torch.arange(14).repeat(2))

    def effects_of(model: Any, images: torch.Tensor, times: tuple[float, ...] = (0.5,)) -> Any:
        return band_effects(model, images, ids, times=times, seed=2026)

    real = effects_of(model, crops, (0.5, 0.9))
    phases = effects_of(model, phase_shuffled(crops, 2026), (0.5, 0.9))
    white = effects_of(model, white_noise(crops, 2026), (0.5, 0.9))
    for said in (
        f"of the *velocity* the pixel path supplies {share(real, 'velocity', 'pixels', 0.5)}",
        f"the DiT's condition supplies {share(real, 'predicted', 'dit', 0.5)}",
        f"and the pixel path {share(real, 'predicted', 'pixels', 0.5)}",
        f"at t = 0.9, the pixel path supplies {share(real, 'predicted', 'pixels', 0.9)}",
        f"{share(phases, 'predicted', 'dit', 0.5)} for crops with shuffled phases",
        f"{share(white, 'predicted', 'dit', 0.5)} for white noise",
        f"({share(phases, 'predicted', 'pixels', 0.9)} and "
        f"{share(white, 'predicted', 'pixels', 0.9)} at t = 0.9",
    ):
        assert said in text
    fine = float(split_bands(crops)[-1].square().mean())
    assert f"holds {real.predicted_energy[0, -1] / fine:.0%} of the crops' power" in text
    few = reference_sensitivity(model, crops[:14:2], ids[:14:2], times=(0.5,), seed=2026)
    low, high = (end[0, 1, -1] for end in (few.predicted_low, few.predicted_high))
    assert f"from {low:.0%} to {high:.0%}" in text
