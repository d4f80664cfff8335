"""Where a picture comes from: the photograph's crop, the last run's image, a person's own."""

import numpy as np
import pytest
import torch
from PIL import Image

from deco_lab.data import bundled_crops
from deco_lab.workbench.record import Record
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.source import picture_from, prepare


def record(images):
    return Record(settings=Settings(), model={}, images=images, num_steps=1, axes={}, curves={})


def test_picture_from_photograph_is_the_classs_crop_of_the_seed():
    generator = torch.Generator().manual_seed(3)
    batch = bundled_crops(32).sample(1, generator, torch.tensor([5]))
    found = picture_from("photograph", image_size=32, class_id=5, seed=3)
    assert torch.equal(found, batch.images[0])
    assert not torch.equal(found, picture_from("photograph", image_size=32, class_id=5, seed=4))


def test_picture_from_last_run_is_its_image_clipped():
    images = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    found = picture_from("last run", image_size=8, record=record(images), index=1)
    assert torch.equal(found, images[1].clamp(-1, 1))


def test_picture_from_own_picture_is_its_centre_square():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = (255, 0, 51)
    found = picture_from("own picture", image_size=8, picture=Image.fromarray(pixels))
    expected = torch.tensor([1.0, -1.0, -0.6]).view(3, 1, 1).expand(3, 8, 8)
    torch.testing.assert_close(found, expected)


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
        ("photograph", {"class_id": 14}, r"class_id must be .* from 0 to 13, got 14"),
        ("photograph", {"class_id": 3.0}, "class_id must be that .* got 3.0; choose"),
        ("photograph", {"class_id": True}, "class_id must be that of a bundled photograph"),
        ("photograph", {"class_id": "cat"}, "got cat; choose another source"),
        ("last run", {}, "there is no run to take an image from yet; draw one first"),
        ("own picture", {}, "there is no picture of your own yet; choose a file"),
        ("elsewhere", {}, "source must be one of photograph, last run, own picture, got 'elsewh"),
        (["photograph"], {}, "source must be one of photograph"),
    ],
)
def test_picture_from_refuses_in_a_sentence(source, values, message):
    with pytest.raises(ValueError, match=message):
        picture_from(source, image_size=8, **values)


def test_picture_from_refuses_an_image_that_the_run_has_not():
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"image must be one of 1 to 2, .* got 3"):
        picture_from("last run", image_size=8, record=record(images), index=2)
    with pytest.raises(ValueError, match="must have the model's size, 16, got 8"):
        picture_from("last run", image_size=16, record=record(images))
