"""A sweep's cells are single runs, its numbers those of their images, and what is kept says so."""

import csv
import io
import json
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_workbench_watching import DECO, DIT, random_model

import deco_lab
from deco_lab.result import load_result
from deco_lab.sampling import ReusedCondition, Start
from deco_lab.setting import settings_of
from deco_lab.spectra import PartGains, split_bands
from deco_lab.workbench import Library, Settings, Sweep, Workbench, sweep
from deco_lab.workbench.contact_sheet import to_sheet
from deco_lab.workbench.keeping import settings_from_png, sweep_name
from deco_lab.workbench.sweeping import (
    MAX_CELLS,
    VARIED,
    Grid,
    draw_cells,
    gather,
    usual_values,
    values_of,
)

BASE = Settings(model="deco", class_ids=(1, 2), num_images=2, num_steps=4, seed=5)
MODELS = {"deco": random_model(DECO), "dit": random_model(DIT)}
X = ("guidance_scale", (1, 3.5))
Y = ("class_ids", (0, [2, 1], 1))


@pytest.fixture(scope="module")
def found() -> Sweep:
    return sweep(BASE, X, Y, load=MODELS.__getitem__)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (("seed", (0, 7)), ("num_steps", (1, 3))),
        (("solver", ("euler", "heun", "adams2")), ("time_shift", (0.5, 3))),
        (("guidance", ("plain", "rescaled", "projected", "zero-star", "by band")), ("", ())),
        (("guidance_interval", ([0, 1], [0.3, 0.6])), ("band_scales", ([1, 2, 3, 4], [2] * 4))),
        (("num_images", (1, 3)), ("model", ("deco", "dit"))),
    ],
)
def test_sweep_cells_equal_single_runs_bit_for_bit(x, y):
    found = sweep(BASE, x, y, load=MODELS.__getitem__)
    rows, columns = found.bands.shape[:2]
    assert rows * columns == len(x[1]) * max(1, len(y[1]))
    for row in range(rows):
        for column in range(columns):
            told = {x[0]: x[1][column]} | ({y[0]: y[1][row]} if y[0] else {})
            if isinstance(told.get("class_ids"), int):
                told["class_ids"] = [told["class_ids"]]
            settings = replace(BASE, **told)
            model = MODELS[settings.model]
            expected = deco_lab.sample(model, **settings.sampling_arguments())
            assert torch.equal(found.cell(row, column), expected)


def test_sweep_cells_of_gains_and_reuse_equal_single_runs_bit_for_bit():
    gains = [1.0, 0.5, 2.0, 0.0]
    found = sweep(
        BASE, ("dit_gains", (gains,)), ("condition_reuse", (1, 3)), load=MODELS.__getitem__
    )
    for row, reuse in enumerate((1, 3)):
        model = ReusedCondition(MODELS["deco"], reuse) if reuse > 1 else MODELS["deco"]
        model = PartGains(model, dit=gains, decoder=[1.0] * 4)
        expected = deco_lab.sample(model, **BASE.sampling_arguments())
        assert torch.equal(found.cell(row, 0), expected)


def test_sweep_bands_are_mean_squares_of_the_cells_bands(found: Sweep):
    first = None
    for row in range(3):
        for column in range(2):
            bands = split_bands(found.cell(row, column).double())
            expected = bands.square().mean((1, 2, 3, 4)).numpy()
            np.testing.assert_allclose(found.bands[row, column], expected, rtol=1e-12)
            first = expected if first is None else first
            decibels = 10 * np.log10(expected / first)
            np.testing.assert_allclose(found.decibels[row, column], decibels, atol=1e-9)
            assert found.bands[row, column].sum() == pytest.approx(
                float(found.cell(row, column).double().square().mean())
            )
    assert found.nfe.tolist() == [[4, 7]] * 3  # the step from t = 0 is not guided


def test_sweep_comes_back_from_its_file_and_from_its_table(found: Sweep, tmp_path):
    assert (found.x, found.y) == ("guidance_scale", "class_ids")
    assert (found.x_values, found.y_values) == (("1", "3.5"), ("0", "[2, 1]", "1"))
    (tmp_path / "kept.npz").write_bytes(found.to_npz())
    again = load_result(tmp_path / "kept.npz")
    assert isinstance(again, Sweep)
    assert (again.bands == found.bands).all()
    assert (again.images == found.images).all()
    assert (again.x_values, again.recipe) == (found.x_values, json.loads(json.dumps(found.recipe)))
    assert Settings(**again.recipe["settings"]) == BASE
    head, *rows = csv.reader(io.StringIO(found.to_csv()))
    assert head == ["class_ids", "guidance_scale", "band", "mean_square", "decibels", "nfe"]
    assert len(rows) == 3 * 2 * 4
    assert rows[7][:3] == ["0", "3.5", "above 1/4"]
    assert float(rows[7][3]) == found.bands[0, 1, 3]
    assert float(rows[7][4]) == pytest.approx(found.decibels[0, 1, 3])


def test_sheet_holds_the_pictures_and_remembers_the_settings(found: Sweep):
    sheet = to_sheet(found, {"guidance_scale": "Guidance scale", "class_ids": "Classes"})
    assert settings_from_png(sheet).settings == BASE
    with Image.open(io.BytesIO(sheet)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    zoom = 5  # two images of 16 pixels stand side by side
    corners = []
    for row in range(3):
        for column in range(2):
            levels = ((found.cell(row, column).clamp(-1, 1) + 1) * 127.5).round().byte()
            both = np.concatenate([one.permute(1, 2, 0).numpy() for one in levels], 1)
            large = both.repeat(zoom, 0).repeat(zoom, 1)
            places = np.argwhere((pixels == large[0, 0]).all(-1))
            corners += [
                (row, column, y, x)
                for y, x in places.tolist()
                if np.array_equal(pixels[y : y + 16 * zoom, x : x + 32 * zoom], large)
            ]
    assert [corner[:2] for corner in corners] == [(i, j) for i in range(3) for j in range(2)]
    assert len({y for *_, y, _ in corners}) == 3
    assert len({x for *_, x in corners}) == 2


def test_sweep_that_was_stopped_keeps_what_is_done():
    grid, drawn = Grid(BASE, X, Y), []
    wanted = lambda: len(drawn) < 3  # noqa: E731
    for cell in draw_cells(grid, MODELS.__getitem__, is_wanted=wanted):
        drawn.append(cell)
    found = gather(grid, drawn, {})
    assert [(cell.row, cell.column) for cell in drawn] == [(0, 0), (0, 1), (1, 0)]
    assert np.isnan(found.bands[1:, 1]).all()
    assert np.isnan(found.bands[2]).all()
    assert len(found.cell(1, 1)) == 0
    assert len(found.to_csv().splitlines()) == 1 + 3 * 4
    with Image.open(io.BytesIO(to_sheet(found, {}))) as picture:
        assert picture.width > 300
    assert list(draw_cells(grid, MODELS.__getitem__, time_limit=-1)) == []
    assert len(Image.open(io.BytesIO(to_sheet(gather(grid, [], {}), {}))).getbands()) == 3


def test_sweep_starts_from_a_picture():
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    base = replace(BASE, start_from="own picture")
    grid = Grid(base, ("start_t", (0.2, 0.6)))
    cells = list(
        draw_cells(grid, MODELS.__getitem__, lambda one, model: Start(picture, one.start_t))
    )
    for cell, t in zip(cells, (0.2, 0.6), strict=True):
        arguments = replace(base, start_t=t).sampling_arguments()
        expected = deco_lab.sample(MODELS["deco"], **arguments, start=Start(picture, t))
        assert torch.equal(cell.images, expected)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (("guidance_scal", [1]), Y, r"^x must be one of num_steps, .*got 'guidance_scal'"),
        (X, ("decompose", [True, False]), r"^y must be one of .*got 'decompose'"),
        (X, X, "^y must be another setting than x, got guidance_scale for both$"),
        (("seed", []), Y, "^x_values must be at least one value, got none; write them"),
        (X, ("seed", []), "^y_values must be at least one value"),
        (("seed", range(7)), ("num_steps", range(1, 7)), "at most 36 cells together, got 7 x 6"),
        (("seed", [-1]), Y, "^seed must be a whole number of at least 0"),
        (("solver", ["euler", "leap"]), Y, "^solver must be one of euler, .*got 'leap'"),
        (([], [1]), Y, r"^x must be one of .*got \[\]"),
    ],
)
def test_grid_refuses_in_a_sentence(x, y, said):
    with pytest.raises(ValueError, match=said):
        Grid(BASE, x, y)


def test_sweep_refuses_what_it_cannot_draw():
    big = random_model(replace(DIT, image_size=512))
    with pytest.raises(ValueError, match=r"^num_images must leave at most 4194304 pixels to all"):
        sweep(BASE, ("seed", range(9)), load=lambda name: big)
    with pytest.raises(ValueError, match=r"^start_from must be noise here; the app"):
        sweep(BASE, ("start_from", ["own picture"]), load=MODELS.__getitem__)
    with pytest.raises(ValueError, match="class_ids must be at most 2"):
        sweep(BASE, ("class_ids", [0, 9]), load=MODELS.__getitem__)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2, 4.5", [1, 2, 4.5]),
        ("euler, heun ,", ["euler", "heun"]),
        ("[0.1, 1], [0.3, 1]", [[0.1, 1], [0.3, 1]]),
        ("by band", ["by band"]),
        ("", []),
        (" , ,", []),
        ("[" * 1500, ["[" * 1500]),
    ],
)
def test_values_of_reads_what_a_person_writes(text, values):
    assert values_of(text) == values


@pytest.mark.parametrize("text", [None, 3, ["1"], "1," * 1001])
def test_values_of_refuses_in_a_sentence(text):
    with pytest.raises(ValueError, match="values must be a text of at most 2000 characters"):
        values_of(text)


@pytest.mark.parametrize("name", VARIED)
def test_usual_values_make_a_grid(name):
    said = usual_values(name, Settings(), ["tiny", "tiny-dit"])
    assert 1 <= len(Grid(Settings(), (name, values_of(said))).cells()[0]) <= MAX_CELLS


def test_varied_are_all_settings_that_change_images_and_can_be_written():
    assert {*VARIED} == settings_of(Settings).keys() - {"decompose", "origin", "mask"}


def test_sweep_name_tells_cells_apart(found: Sweep):
    other = replace(found, x_values=("1", "4"))
    assert sweep_name(found, "png").startswith("deco-lab-sweep-guidance-scale-class-ids-")
    assert sweep_name(found, "png") != sweep_name(other, "png")


SHORT = Settings(num_images=1, num_steps=2)


@pytest.fixture(scope="module")
def bench():
    return Workbench(Library("tiny", device="cpu"))


def test_bench_sweep_gives_every_cell_once_and_at_the_end_all(bench):
    grid = Grid(SHORT, ("guidance_scale", (1, 8)), ("seed", (0, 1)))
    messages = list(bench.sweep("a", lambda: grid, {"seed": "Seed"}))
    assert messages[0]["status"] == "waiting"
    *running, last = messages[1:]
    assert {message["status"] for message in running} <= {"waiting", "running"}
    places = [(c["row"], c["column"]) for message in running for c in message["cells"]]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert (last["status"], last["text"], len(last["cells"])) == ("done", "Done: 4 cells.", 4)
    assert last["grid"]["x"] == {"label": "guidance_scale", "values": ["1", "8"]}
    assert last["grid"]["y"] == {"label": "Seed", "values": ["0", "1"]}
    kept = bench.sessions.sweep("a")
    np.testing.assert_allclose(last["cells"][1]["bands"], kept.bands[0, 1], rtol=1e-3)
    assert kept.recipe["model"]["name"] == "tiny"
    assert kept.recipe["settings"] == json.loads(json.dumps(asdict(SHORT))) | {
        name: tuple(v) for name, v in asdict(SHORT).items() if isinstance(v, tuple)
    }
    json.dumps(messages, default=vars, allow_nan=False)
    with pytest.raises(ValueError, match="there is no sweep yet; draw one first"):
        bench.sessions.sweep("b")


def test_bench_sweep_is_ended_by_stop_and_keeps_what_is_done(bench):
    grid = Grid(replace(SHORT, num_steps=30), ("seed", range(6)), ("guidance_scale", range(1, 7)))
    running = bench.sweep("c", lambda: grid, {})
    last = {"cells": []}
    while not last["cells"]:
        last = next(running)
    threading.Timer(0.05, bench.sessions.stop, ["c"]).start()
    *_, last = running
    count = len(last["cells"])
    assert 0 < count < 36
    assert (last["status"], last["text"]) == ("stopped", f"Stopped: {count} of 36 cells are kept.")
    assert np.isfinite(bench.sessions.sweep("c").nfe).sum() == count


def test_bench_sweep_refuses_in_a_sentence_and_keeps_what_was(bench):
    list(bench.sweep("d", lambda: Grid(SHORT, ("seed", [0])), {}))
    before = bench.sessions.sweep("d")
    for x in (("seed", []), ("class_ids", [99])):
        *_, last = bench.sweep("d", lambda x=x: Grid(SHORT, x), {})
        assert last["status"] == "refused"
        assert last["text"].endswith(".")
    assert bench.sessions.sweep("d") is before
