"""Where a picture comes from: the photograph's crop, the last run's image, a person's own."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deco_lab.config import PHOTOGRAPHS, DiTConfig
from deco_lab.data import bundled_crops
from deco_lab.workbench.record import Paused, Record
from deco_lab.workbench.sessions import Sessions
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.source import choose, photograph, prepare

CONFIG = DiTConfig(image_size=8, patch_size=2, num_classes=17, class_names=PHOTOGRAPHS)
IMAGES = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


@pytest.fixture
def sessions():
    sessions = Sessions()
    record = Record(
        settings=Settings(class_ids=(2, 3), num_images=2),
        model={"image_size": 8, "num_classes": 17, "class_names": PHOTOGRAPHS},
        images=IMAGES,
        num_steps=8,
        axes={},
        curves={},
        paused=Paused(2 * IMAGES, 0.4),
        paused_at=8,
        states={0: Paused(3 * IMAGES, 0.0), 4: Paused(4 * IMAGES, 0.2)},
    )
    sessions.keep("a", sessions.call("a"), record)
    return sessions


def chosen(
    sessions, source="last run", session="a", config=CONFIG, class_id=5, index=2, seed=3, step=None
):
    return choose(sessions, session, config, source, class_id, index, seed, step)


def test_choose_photograph_is_the_classs_crop_of_the_seed(sessions):
    generator = torch.Generator().manual_seed(3)
    batch = bundled_crops(8).sample(1, generator, torch.tensor([5]))
    found = chosen(sessions, "photograph")
    assert torch.equal(found.image, batch.images[0])
    assert (found.class_id, found.seed, found.noisy, found.t) == (5, 3, None, None)
    assert not torch.equal(found.image, photograph(8, 5, 4))


def test_choose_last_run_is_its_image_and_state_of_its_own_class(sessions):
    found = chosen(sessions)
    assert torch.equal(found.image, IMAGES[1].clamp(-1, 1))
    assert found.noisy is not None
    assert torch.equal(found.noisy, 2 * IMAGES[1])
    assert (found.class_id, found.t) == (3, 0.4)
    assert found.said == "Image 2 of the last run, where it stopped after step 8."


@pytest.mark.parametrize(
    ("step", "factor", "t", "said"),
    [
        (0, 3, 0.0, "where step 1 began."),
        (1, 3, 0.0, "where step 1 began."),
        (5, 4, 0.2, "where step 5 began."),
        (4, 4, 0.2, "where step 5 began. It is the nearest to step 4 whose state is still"),
        (8, 2, 0.4, "where step 9 began. It is the nearest to step 8 whose state is still"),
    ],
)
def test_choose_a_step_of_the_last_run_is_where_it_began(sessions, step, factor, t, said):
    found = chosen(sessions, step=step)
    assert found.noisy is not None
    assert torch.equal(found.noisy, factor * IMAGES[1])
    assert torch.equal(found.image, IMAGES[1].clamp(-1, 1))
    assert (found.class_id, found.t) == (3, t)
    assert found.said.startswith(f"Image 2 of the last run, {said}")


def test_choose_own_picture_is_its_centre_square(sessions):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = (255, 0, 51)
    sessions.keep_picture("a", Image.fromarray(pixels))
    expected = torch.tensor([1.0, -1.0, -0.6]).view(3, 1, 1).expand(3, 8, 8)
    torch.testing.assert_close(chosen(sessions, "own picture").image, expected)


def test_prepare_cuts_the_middle_square_and_averages():
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 16:80] = [[[255, 0, 0]]]
    pixels[::2, 16:80, 1] = 254  # rows of 0 and 254: without a filter one of them is left
    made = prepare(Image.fromarray(pixels), 16)
    assert made.shape == (3, 16, 16)
    np.testing.assert_allclose(made[0, :, 1:-1], 1)  # the filter reads across the cut
    np.testing.assert_allclose(made[1, 2:-2, 1:-1], 127 / 127.5 - 1, atol=2 / 127.5)
    np.testing.assert_allclose(made[2], -1)


@pytest.mark.parametrize(
    ("source", "values", "message"),
    [
        ("photograph", {"class_id": 17}, r"class_id must be .* from 0 to 16, got 17; only photo"),
        ("photograph", {"class_id": 3.0}, "class_id must be a whole number .* got 3.0"),
        ("photograph", {"seed": -1}, "seed must be a whole number"),
        ("last run", {"session": "b"}, "there is no run yet; draw one first"),
        ("last run", {"step": 9}, "step must be a whole number from 0 to 8, got 9"),
        ("last run", {"step": -1}, "step must be a whole number from 0 to 8, got -1"),
        ("last run", {"index": 3}, "image must be a whole number from 1 to 2, got 3"),
        ("last run", {"config": DiTConfig(num_classes=2)}, "must be of a model with the same"),
        ("own picture", {}, "there is no picture of your own yet; choose a file"),
        ("elsewhere", {}, "source must be one of photograph, last run, own picture, got 'elsewh"),
        (["photograph"], {}, "source must be one of photograph"),
    ],
    ids=str,
)
def test_choose_refuses_in_a_sentence(sessions, source: Any, values: Any, message: str):
    with pytest.raises(ValueError, match=message):
        chosen(sessions, source, **values)
