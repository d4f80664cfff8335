"""What the README says of code and models is so."""

import re
from pathlib import Path

import pytest
import torch

from deco_lab import spectra
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.models import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_first_python_block_runs(capsys):
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
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
