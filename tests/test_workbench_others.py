"""Which other pictures stand for "without": of the class where there are such."""

from types import SimpleNamespace

import pytest
import torch
from test_workbench_watching import DECO, random_model

from deco_lab.config import FIELDS, PHOTOGRAPHS
from deco_lab.data import bundled_crops
from deco_lab.spectra.factorial import PARTS
from deco_lab.workbench.others import others_of, taken_apart


def config_of(names, count):
    return SimpleNamespace(image_size=32, num_classes=count, class_names=names)


@pytest.mark.parametrize(
    ("names", "class_id", "label", "said"),
    [
        (PHOTOGRAPHS, 3, 3, "2 other crops of the class coffee"),
        (PHOTOGRAPHS, 17, 17, "2 crops of several classes, told no class"),
        (FIELDS, 4, 4, "2 other fields of the class leaves, phases shuffled"),
        (FIELDS, 5, 5, "2 fields of several classes, told no class"),
        (
            ("cat", "dog"), 1, 2,
            "2 crops of bundled photographs, told no class, since the app has no pictures of this "
            "model's classes",
        ),
    ],
)  # fmt: skip
def test_others_of_are_of_the_class_where_there_are_such(names, class_id, label, said):
    others = others_of(config_of(names, len(names)), class_id, count=2)
    assert (others.label, others.said) == (label, said)
    assert others.images.shape == (2, 3, 32, 32)
    assert 0.01 < others.images.std() < 1
    assert (others.pixels(0) == others.noise).all()
    assert (others.pixels(1) == others.images).all()


def test_others_of_a_seed_are_not_its_own_crop():
    own = bundled_crops(32).sample(1, torch.Generator().manual_seed(5), torch.tensor([3])).images
    others = others_of(config_of(PHOTOGRAPHS, 14), 3, count=4, seed=5)
    assert all(not torch.allclose(own[0], image, atol=0.05) for image in others.images)


def test_taken_apart_sums_to_the_whole_in_every_draw():
    model, generator = random_model(DECO), torch.Generator().manual_seed(0)
    with torch.no_grad():
        others = others_of(model.config, 0, count=3)
        x = torch.randn(1, 3, 16, 16, generator=generator)
        condition = model.condition(x, torch.tensor([0.5]), torch.tensor([0]))
        whole, draws = taken_apart(
            model, x, condition, 0.5, others.pixels(0.5), others.condition(model, 0.5)
        )
        velocity = model.decode(x, condition)
    assert draws.shape == (len(PARTS), 2, 3, 3, 16, 16)
    torch.testing.assert_close(whole, torch.cat([velocity, x + 0.5 * velocity]))
    torch.testing.assert_close(draws.sum(0), whole[:, None].expand(-1, 3, -1, -1, -1))
