"""A mask on a person's own picture: as text, and in runs that keep what it does not paint."""

import io
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from going_on import drawn, on_from
from PIL import Image

import deco_lab
from deco_lab.data import open_picture
from deco_lab.sampling import Start
from deco_lab.setting import RuleError
from deco_lab.workbench import Library, Settings, Workbench, from_query, to_query, to_snippet
from deco_lab.workbench.keeping import settings_from_png, to_npz, to_png
from deco_lab.workbench.mask import MAX_TEXT, check_mask, keep_of, mask_text
from deco_lab.workbench.resuming import said_of_start
from deco_lab.workbench.settings import MAX_LEGS, origin_of
from deco_lab.workbench.source import prepare
from deco_lab.workbench.sweeping import VARIED, Grid, draw_cells


def disc(side: int = 64, x: float = 0.4, y: float = 0.6, radius: float = 0.25) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((columns / side - x) ** 2 + (rows / side - y) ** 2).sqrt() < radius


PAINTED = disc()
RUN = Settings(
    class_ids=(2, 12), num_images=2, num_steps=10, seed=4, decompose=False,
    start_from="own picture", start_t=0.3, mask=mask_text(PAINTED),
)  # fmt: skip
_NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
PICTURE = Image.fromarray(_NOISE).resize((240, 180), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def bench():
    bench = Workbench(Library("tiny", device="cpu"))
    for session in ("a", "b"):
        bench.sessions.keep_picture(session, PICTURE)
    return bench


# ---- as text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 7, 32, 64, 256])
def test_mask_text_comes_back_and_is_the_only_text_of_a_mask(side):
    generator = torch.Generator().manual_seed(side)
    for painted in (
        torch.ones(side, side, dtype=torch.bool),
        disc(side, 0.5, 0.5, 0.6),
        disc(side, 0.0, 0.0, 0.9),
        torch.rand(side, side, generator=generator) < 0.5 if side < 65 else disc(side),
    ):
        text = mask_text(painted)
        assert torch.equal(keep_of(text), ~painted)
        assert mask_text(~keep_of(text)) == text
        assert len(text) <= MAX_TEXT
        assert text.isascii()
        assert text in to_query(replace(RUN, mask=text))  # no letter of it is escaped


def test_mask_text_is_short_where_a_person_paints():
    assert mask_text(torch.zeros(64, 64, dtype=torch.bool)) == ""
    assert len(mask_text(PAINTED)) < 120
    assert len(mask_text(disc(1024))) < 3000
    stripes = torch.arange(64).expand(64, 64) % 2 == 0
    assert len(mask_text(stripes)) == 4100 < MAX_TEXT  # no mask of a small model is longer


def test_mask_text_by_hand():
    painted = torch.zeros(8, 8, dtype=torch.bool)
    painted[0, 3:5] = painted[7, 7] = True
    # 3 stay, 2 are painted, 58 stay: 26 and more, then 1; 1 is painted.
    assert mask_text(painted) == "8.DC6BB"
    assert check_mask("8.DC6BB") == (8, [3, 2, 58, 1])


@pytest.mark.parametrize(
    "painted", [PAINTED.float(), PAINTED[:32], PAINTED[None]], ids=["numbers", "oblong", "many"]
)
def test_mask_text_refuses_what_is_no_mask(painted):
    with pytest.raises(ValueError, match=r"painted must be bool and square, \(S, S\), got"):
        mask_text(painted)


GOOD = mask_text(PAINTED)
NO_TEXT = "mask must be the text of a painted mask, its side and the lengths of its runs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, NO_TEXT),
        (None, NO_TEXT),
        ([GOOD], NO_TEXT),
        ("64", NO_TEXT),
        ("64.", NO_TEXT),
        (GOOD[3:], NO_TEXT),
        (GOOD + "=", NO_TEXT),
        (GOOD.replace("64.", "64 ."), NO_TEXT),
        (GOOD.replace("64.", "064."), NO_TEXT),
        (GOOD.replace("64.", "٦٤."), NO_TEXT),
        ("0.A", NO_TEXT),
        ("8.DC6B\n", NO_TEXT),
        ("8.DC6BB<script>", NO_TEXT),
        ("8.DC6BAB", NO_TEXT),  # a zero after the first
        ("8.jADCB6BB", NO_TEXT),  # letters to spare
        ("8.DC6Bh", NO_TEXT),  # the last number has no end
        ("8." + "_" * 4000, NO_TEXT),
        ("9999.A_______A", NO_TEXT),
        ("8.DC6B", r"mask must say 64 pixels, 8 x 8, got 63; paint it again, or leave it empty"),
        ("8.DC6BC", "mask must say 64 pixels, 8 x 8, got 65"),
        (GOOD.replace("64.", "32."), "mask must say 1024 pixels, 32 x 32, got 4096"),
        ("9999.B", "mask must say|" + NO_TEXT),
        ("8.gC", "mask must paint something, got nothing; leave it empty to draw all"),
        ("8." + "A" * MAX_TEXT, f"mask must have at most {MAX_TEXT} characters, got 5002; paint"),
        ("x" * 10**6, f"mask must have at most {MAX_TEXT} characters, got 1000000"),
    ],
)
def test_a_text_of_no_mask_is_refused_in_a_sentence(text, message):
    with pytest.raises(RuleError, match=f"^{message}") as refused:
        replace(RUN, mask=text)
    assert refused.value.names == ("mask",)
    assert len(str(refused.value)) < 260


def test_a_mask_is_gone_where_there_is_no_picture():
    assert replace(RUN, start_from="noise").mask == ""
    assert Settings(mask="anything").mask == ""
    assert on_from(replace(RUN, start_from="noise"), 3, mask=GOOD).mask == ""
    assert on_from(RUN, 3).mask == GOOD
    assert "mask" not in VARIED
    assert "mask" in RUN.changed()


# ---- in runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"solver": "heun"}, {"guidance": "zero-star"}])
def test_a_run_is_that_of_sample_and_what_stays_is_the_picture(bench, changes):
    settings = replace(RUN, **changes)
    record = drawn(bench, "a", settings)
    image, model = prepare(PICTURE, 64)[None], bench.library.get("tiny")
    start = Start(image, 0.3, ~PAINTED)
    expected = deco_lab.sample(model, **settings.sampling_arguments(), start=start)
    assert torch.equal(record.images, expected)
    whole = image.expand_as(expected)
    assert torch.equal(record.images[..., ~PAINTED], whole[..., ~PAINTED])
    changed = (record.images - whole).abs().amax(1)[:, PAINTED]
    assert (changed > 2 / 255).float().mean() > 0.95
    # What the page shows last, and the film ends with, is the same to rounding.
    shades = (image[0].permute(1, 2, 0) + 1) * 127.5
    last = record.film[record.num_steps].float()
    assert (last - shades)[:, ~PAINTED].abs().max() <= 0.5 + 1e-4


def test_a_run_says_how_much_of_the_picture_it_draws():
    one = torch.zeros(64, 64, dtype=torch.bool)
    one[3, 4] = True
    assert said_of_start(replace(RUN, mask="")) == ""
    said = said_of_start(RUN)
    assert (
        said
        == f"{100 * PAINTED.float().mean():.0f}% of your picture is drawn anew, the rest stays."
    )
    assert said_of_start(replace(RUN, mask=mask_text(one))).startswith("Under 1% of your picture")
    assert (
        said_of_start(on_from(RUN, 2)) == f"Goes on from step 2 of a run, whatever the seed. {said}"
    )


def test_without_a_mask_it_starts_from_the_whole_picture(bench):
    settings = replace(RUN, mask="")
    model = bench.library.get("tiny")
    start = Start(prepare(PICTURE, 64)[None], 0.3)
    expected = deco_lab.sample(model, **settings.sampling_arguments(), start=start)
    assert torch.equal(drawn(bench, "a", settings).images, expected)
    all_of_it = replace(RUN, mask=mask_text(torch.ones(64, 64, dtype=torch.bool)))
    assert torch.equal(drawn(bench, "a", all_of_it).images, expected)


def test_a_mask_of_another_models_size_is_refused_at_its_field(bench):
    settings = replace(RUN, mask=mask_text(disc(32)))
    *_, last = bench.draw("a", [settings])
    assert last["status"] == "refused"
    assert last["text"] == (
        "mask must have the size of the model's images, 64 x 64, got 32 x 32; paint it again, or "
        "leave it empty."
    )
    assert last["wrong"]["names"] == ["mask"]
    *_, last = bench.sweep("a", lambda: Grid(settings, ("seed", (0, 1))), {})
    assert last["wrong"]["names"] == ["mask"]


def test_link_picture_arrays_and_script_bring_it_back(bench, tmp_path, monkeypatch):
    record = drawn(bench, "a", RUN)
    assert from_query(dict(parse_qsl(to_query(RUN)))) == RUN
    assert settings_from_png(to_png(record)).settings == RUN
    with np.load(io.BytesIO(to_npz(record))) as arrays:
        assert json.loads(str(arrays["recipe"]))["settings"]["mask"] == GOOD
        np.testing.assert_array_equal(arrays["images"], record.images.numpy())
    assert torch.equal(by_script(RUN, tmp_path, monkeypatch), record.images)


def by_script(settings, folder, monkeypatch):
    monkeypatch.chdir(folder)
    PICTURE.save("picture.png")
    assert open_picture("picture.png").tobytes() == PICTURE.tobytes()
    found: dict[str, Any] = {}
    exec(to_snippet(settings), found)
    return found["images"]


@pytest.mark.parametrize("step", [1, 4])
def test_going_on_keeps_the_same_and_is_the_run_itself(bench, step):
    first = drawn(bench, "a", RUN)
    again = on_from(RUN, step)
    assert torch.equal(drawn(bench, "a", again).images, first.images)
    assert torch.equal(drawn(bench, "b", again).images, first.images)  # whose state is drawn again
    # What stays has the noise that it began with, whatever the seed.
    other = drawn(bench, "a", replace(again, seed=99))
    assert torch.equal(other.images, first.images)


def test_going_on_takes_another_mask_and_knob(bench, tmp_path, monkeypatch):
    drawn(bench, "a", RUN)
    smaller = disc(radius=0.15)
    second = on_from(RUN, 3, mask=mask_text(smaller), guidance_scale=6.0, seed=9)
    record = drawn(bench, "a", second)
    image = prepare(PICTURE, 64)[None].expand_as(record.images)
    assert torch.equal(record.images[..., ~smaller], image[..., ~smaller])
    third = on_from(second, 2, mask=GOOD, num_steps=20)
    there = drawn(bench, "a", third)
    assert torch.equal(there.images, drawn(bench, "b", third).images)
    assert torch.equal(there.images, by_script(third, tmp_path, monkeypatch))
    assert from_query(dict(parse_qsl(to_query(third)))) == third
    with_none = drawn(bench, "a", on_from(RUN, 3, mask=""))
    assert (with_none.images - image)[..., ~PAINTED].abs().max() > 0.1


def test_a_sweep_keeps_it_in_every_cell(bench):
    grid = Grid(replace(RUN, num_images=1), ("start_t", (0.2, 0.6)), ("seed", (0, 1)))
    *_, last = bench.sweep("a", lambda: grid, {})
    assert last["status"] == "done"
    found, image = bench.sessions.sweep("a"), prepare(PICTURE, 64)
    for row in (0, 1):
        for column in (0, 1):
            cell = found.cell(row, column)[0]
            assert torch.equal(cell[:, ~PAINTED], image[:, ~PAINTED])
    assert found.recipe["settings"]["mask"] == GOOD
    starts = Grid(RUN, ("start_from", ("noise", "own picture")))
    model = bench.library.get("tiny")
    noise, own = draw_cells(
        starts,
        lambda name: model,
        lambda one, _: Start(image[None], one.start_t, keep_of(one.mask)) if one.mask else None,
    )
    assert torch.equal(own.images[..., ~PAINTED], image.expand(2, -1, -1, -1)[..., ~PAINTED])
    assert not torch.equal(noise.images, own.images)


def test_a_picture_remembers_as_many_runs_as_there_may_be(bench):
    stripes = torch.arange(64).expand(64, 64) % 2 == 0
    settings = longest = replace(RUN, mask=mask_text(stripes), dit_gains=(0.123456789,) * 4)
    for _ in range(MAX_LEGS):
        settings = on_from(settings, 1, decoder_gains=(0.123456789,) * 4)
    record = replace(drawn(bench, "a", replace(longest, num_steps=2)), settings=settings)
    assert settings_from_png(to_png(record)).settings == settings


def test_a_mask_in_an_earlier_run_is_checked(bench):
    bad = json.loads(origin_of(RUN, 2))
    bad[0]["mask"] = "64.nonsense"
    with pytest.raises(ValueError, match="origin must be what “Go on from here” says"):
        replace(RUN, start_from="earlier run", origin=json.dumps(bad))
