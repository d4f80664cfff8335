"""What README and the rooms' own README say of code and models is so."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

import deco_lab
from deco_lab import evaluation, spectra
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.models import build
from deco_lab.spectra import band_effects, band_response, linear_readout
from deco_lab.spectra.states import Crops

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "deco_lab").rglob("README.md"))]
}
SPECTRA, MODELS, ROOMS = (
    PAGES[f"deco_lab/{room}README.md"] for room in ("spectra/", "models/", "")
)


def test_readme_has_1500_words_at_most():
    assert len(README.split()) <= 1500


def commands() -> list[tuple[str, list[str]]]:
    """Return the module and the arguments of each command in the pages.

    What stands by itself in the page on training, such as `--gamma 0.5`, is that command's.
    """
    blocks = [b for text in PAGES.values() for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(python3? -m [^`]+)`", "\n".join(PAGES.values()))
    found = []
    for line in [*lines, *inline]:
        words = shlex.split(line, comments=True)
        if "-m" in words:
            at = words.index("-m") + 1
            found.append((words[at], words[at + 1 :]))
    options = re.findall(r"`(--[^`]+)`", PAGES["deco_lab/training/README.md"])
    assert len(options) > 10
    return [*found, *(("deco_lab.training", shlex.split(option)) for option in options)]


def test_commands_start_modules():
    named = {module for module, _ in commands()}
    assert len(named) >= 7
    for module in named:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        if spec.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{module}.__main__"), module


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", sorted({module for module, _ in commands()} - {"deco_lab.environment"})
)
def test_commands_have_the_options_that_are_shown(module: str):
    known = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "1000"},
    ).stdout  # fmt: skip
    options = set(re.findall(r"--[\w-]+", known))
    shown = {word for name, words in commands() if name == module for word in words}
    assert {word for word in shown if word.startswith("--")} <= options


def test_first_python_block_runs(capsys):
    block = re.search(r"```python\n(import deco_lab.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict = {}
    exec(block[1], names)
    assert names["images"].shape == (2, 3, 64, 64)
    assert "tensor([" in capsys.readouterr().out


@pytest.mark.parametrize("name", PRESETS)
def test_model_table_gives_shape_and_parameters(name: str):
    row = re.search(rf"^\| `{re.escape(name)}` \|(.*)\|$", MODELS, re.MULTILINE)
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


def anchor(heading: str) -> str:
    """Return what GitHub calls a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_to_files_and_headings_are_not_dead():
    seen = 0
    for page in (*PAGES, ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
        seen += len(targets)
        for target in targets:
            file, _, heading = target.partition("#")
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.exists(), f"{page}: {target}"
            if heading:
                headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in map(anchor, headings), f"{page}: {target}"
    assert seen > 80


def test_readme_leads_to_every_room_with_a_page():
    linked = re.findall(r"^\| \[\w+\]\((deco_lab/[\w/]*README\.md)\)", README, re.MULTILINE)
    assert sorted(["README.md", *linked]) == sorted(PAGES)


def test_table_of_imports_names_every_module():
    first = " ".join(re.findall(r"^\| ([^|]+) \|", ROOMS, re.MULTILINE))
    named = {word.split(".")[0] for word in re.findall(r"[\w.]+", first)}
    package = ROOT / "deco_lab"
    modules = {path.stem for path in package.glob("[a-z]*.py")}
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert modules | rooms <= named


def test_analyses_are_functions_of_spectra():
    table = SPECTRA[SPECTRA.index("| question |") : SPECTRA.index("## As the notebooks")]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 10
    assert [name for name in named if name not in spectra.__all__] == []


def test_notebooks_are_all_in_their_table():
    row = r'^\| <img src="\.github/(\w+)\.png".*> \| \[\w+\]\((notebooks/\1\.ipynb)\)'
    linked = [name for _, name in re.findall(row, README, re.MULTILINE)]
    found = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert linked == found


def section() -> str:
    """Return what both pages say of what was found, each number in one of them."""
    first = README[README.index("## What the DiT does") : README.index("## Notebooks")]
    return " ".join(f"{first} {SPECTRA[SPECTRA.index('## Findings in full') :]}".split())


def test_what_fields_show_is_as_said():
    bench, text = evaluation.bundled_bench(), section()

    def over(values: Any, spec: str = "z.2f") -> str:
        return format(evaluation.over_seeds(np.asarray(values)), spec)

    gains = np.array([found["response"] for found in bench["deco"]])[:, 1]  # of class 1/f^2
    through = gains[:, :, 1] / gains[:, :, :2].sum(2)
    excess = {arm: evaluation.primary_outcome(found) for arm, found in bench.items()}
    loss = excess["deco"] - excess["no-freqfm"]
    for expected in (
        f"{over(through[:, 0, 0], 'z.0%')} below 1/16 cycles per pixel",
        f"{over(through[:, 0, -1], 'z.0%')} above 1/4",
        f"{over(excess['deco'][:, 0, -1])} above the least",
        f"{over(excess['dit-v'][:, 0, -1])} for a single DiT",
        f"{over(excess['blind'][:, 0, -1])} for a DeCo whose decoder does not see the pixels",
        f"{over(excess['dit-x'][:, 0, -1])} for a single DiT that predicts the image",
        f"{over(excess['dit-x'][:, -1, -1])} at t = 0.8, where the DeCo has",
        f"where the DeCo has {over(excess['deco'][:, -1, -1])}",
        f"by {over(loss[:, 0, -1], '+z.3f')} at t = 0.3",
        f"by {over(loss[:, -1, -1], '+z.3f')} at t = 0.8",
        f"below 1/16 by {over(loss[:, -1, 0], '+z.3f')} at t = 0.8",
    ):
        assert expected in text, expected


@pytest.mark.slow
def test_what_tiny_shows_is_as_said():
    text = section()
    model: Any = deco_lab.load("tiny", device="cpu")
    # The crops of notebook 07: two of each photograph, by seed 2026.
    generator = torch.Generator().manual_seed(2026)
    crops, ids = bundled_crops(64).sample(34, generator, torch.arange(17).repeat(2))
    given: Any = {"seed": 2026, "groups": ids}
    moved = band_response(model, Crops(crops, ids, (0.5, 0.9), **given))
    parts = band_effects(model, Crops(crops, ids, (0.5, 0.9), **given))
    read = linear_readout(model, Crops(crops, ids, (0.5,), **given))

    def ends(found: Any, name: str, *at: int) -> str:
        spec = "z.0%" if found is parts else "z.2f" if found is read else "z.3f"
        return format(getattr(found, name)[at], spec)

    for i, t in enumerate((0.5, 0.9)):
        for q, path in enumerate(("directly", "through the DiT")):
            cells = [ends(moved, "gain", i, q, k) for k in range(1, 5)]
            assert f"| {t} | {path} | {' | '.join(cells)} |" in text
    condition, pixels = (parts.parts.index(f"{name}_main") for name in ("condition", "pixels"))
    source = read.sources.index("condition")
    for expected in (
        f"the condition's main effect is {ends(parts, 'predicted', 0, condition, -1)}",
        f"the pixels' {ends(parts, 'predicted', 0, pixels, -1)}",
        f"at t = 0.9 {ends(parts, 'predicted', 1, condition, -1)} and",
        f"and {ends(parts, 'predicted', 1, pixels, -1)}",
        f"{ends(read, 'r2', 0, source, read.targets.index('predicted'), -1)} of the predicted",
        f"{ends(read, 'r2', 0, source, read.targets.index('image'), -1)} of the image",
        f"{ends(read, 'r2', 0, source, read.targets.index('noise'), -1)} of the noise",
    ):
        assert expected in text, expected


ANALYSES = (ROOT / "deco_lab/spectra/README.md").read_text(encoding="utf-8")
ENDED = r"(-?[\d.]+%? \[[^]]+\])"
"""A figure and its interval, as notebooks write them."""
SAID = {
    "04_guidance_in_frequency": (
        (
            r"a wave below 1/16 cycles per pixel gets (\d+) times .* (\d+%) of all that is added",
            "a wave below 1/16 gets {} times the power of one above 1/4, but the fine ones are "
            "many, and {} of all that is added lies below 1/16",
        ),
        (
            rf"predicted image is {ENDED} in the lowest band and {ENDED} in the highest at "
            rf"t = 0.1, and {ENDED} and {ENDED} at t = 0.5",
            "predicted image it is {} below 1/16 and {} above 1/4 at t = 0.1, and {} and {} at "
            "t = 0.5",
        ),
    ),
    "05_solvers_and_settling": (
        (
            rf"correlated by (\S+) with .* below 1/16: t = {ENDED};.* above 1/4: t = {ENDED} "
            r"\((\d+) images",
            "a correlation of {} with the final image, for good, from t = {} below 1/16 to t = {} "
            "above 1/4, over {} images",
        ),
        (r"final one from mean: t = (0.00) ", "mean colour is settled from the start"),
    ),
    "06_train_your_own": (
        (
            rf"above 1/4 cycles per pixel at t = (\S+), .* yours \| {ENDED} .* tiny \| {ENDED} .*"
            r"seed 0 \| (\S+) .*seed 1 \| \4 ",
            "above 1/4 at t = {} the condition's main effect on its predicted image is {}, on that "
            "of `tiny` {}, of untrained models {}",
        ),
    ),
}
"""What notebooks say at their end, and how the page of the analyses repeats it below figures."""


@pytest.mark.parametrize("name", SAID)
def test_captions_say_what_their_notebooks_do(name: str):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    closing = " ".join(cells[-1].outputs[-1].data["text/markdown"].split())
    (caption,) = re.findall(rf"^\*(.*\(notebook {name[:2]}\).*)\*$", ANALYSES, re.MULTILINE)
    for pattern, repeated in SAID[name]:
        found = re.search(pattern, closing)
        assert found, pattern
        # The page writes [26%, 36%] as [26, 36].
        numbers = [re.sub(r"\[(\d+)%, (\d+)%\]", r"[\1, \2]", each) for each in found.groups()]
        assert repeated.format(*numbers) in caption
