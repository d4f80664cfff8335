from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from deco_lab.flow import seeded_noise
from deco_lab.spectra.states import (
    Crops,
    Run,
    measured,
    velocity_of,
)

MODEL = SimpleNamespace(config=SimpleNamespace(num_classes=4, patch_size=4))
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_batches_hold_every_image_with_its_own_noise(batch_size):
    crops = Crops(IMAGES, [0, 1, 2, 3, 4], [0.25], seed=7, batch_size=batch_size)
    batches = list(crops.batches(MODEL, 0.25))
    image, noise, x = (
        torch.cat([getattr(b, name) for b in batches]) for name in ("image", "noise", "x")
    )
    assert torch.equal(image, IMAGES)
    assert torch.equal(noise, seeded_noise(5, (3, 8, 8), 7))
    torch.testing.assert_close(x, 0.25 * image + 0.75 * noise)
    assert torch.cat([b.class_ids for b in batches]).tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([b.t for b in batches]).tolist() == [0.25] * 5
    assert [b.first for b in batches] == list(range(0, 5, batch_size))


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_batches_are_of_float32_or_float64(given, computed):
    crops = Crops(IMAGES.to(given), [0] * 5, [0.5], batch_size=2)
    assert next(crops.batches(MODEL, 0.5)).x.dtype == computed


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": IMAGES[0]}, r"images must have shape \(B, C, H, W\)"),
        ({"images": IMAGES[:0]}, "images must have shape .* and hold pixels"),
        ({"images": IMAGES.mul(127).byte()}, "images must be floating point"),
        ({"images": IMAGES / 0}, "images must be finite"),
        ({"images": IMAGES * float("nan")}, "images must be finite"),
        ({"class_ids": [0]}, r"class_ids must be one whole number for each image, shape \(5,\)"),
        ({"class_ids": [0.5] * 5}, "class_ids must be one whole number"),
        ({"class_ids": [0, 0, 0, 0, 5]}, "class_ids must be from 0 to 4, the null class"),
        ({"class_ids": [-1, 0, 0, 0, 0]}, "class_ids must be at least 0"),
        ({"times": []}, r"times must be at least one t in \[0, 1\]"),
        ({"times": [0.5, 1.5]}, r"times must be at least one t in \[0, 1\], got \(0.5, 1.5\)"),
        ({"times": [float("nan")]}, "times must be at least one t"),
        (
            {"images": IMAGES[..., :7]},
            "divisible by patch_size=4, got 8 x 7; crop to 8 x 4",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**32 - 1}, "seed must be at least 0 and below"),
    ],
)
def test_crops_name_what_is_wrong(change, match):
    given: dict[str, Any] = {"images": IMAGES, "class_ids": [0] * 5, "times": [0.5], "seed": 0}
    with pytest.raises(ValueError, match=match):
        list(Crops(**given | change).batches(MODEL, 0.5))


def test_crops_of_a_model_without_config_bound_labels_below():
    assert len(list(Crops(IMAGES, [99] * 5, [0.5]).batches(object(), 0.5))) == 1
    with pytest.raises(ValueError, match="class_ids must be at least 0"):
        Crops(IMAGES, [-1] * 5, [0.5])


def test_crops_take_arrays():
    crops = Crops(IMAGES.numpy()[:, ::-1], [0] * 5, [1.0])
    [batch] = crops.batches(MODEL, 1.0)
    assert torch.equal(batch.image, IMAGES.flip(1))


class Step(NamedTuple):
    t: float
    x: torch.Tensor


def test_run_gives_the_states_below_1_batch_by_batch():
    steps = [Step(0.0, IMAGES), Step(0.5, -IMAGES), Step(1.0, IMAGES / 0)]
    run = Run(steps, [0, 1, 2, 3, 4], batch_size=2)
    moments = [(t, list(batches)) for t, batches in run.moments(MODEL)]
    assert [t for t, _ in moments] == [0.0, 0.5]
    for (time, batches), step in zip(moments, steps, strict=False):
        assert torch.equal(torch.cat([batch.x for batch in batches]), step.x)
        assert torch.cat([batch.class_ids for batch in batches]).tolist() == [0, 1, 2, 3, 4]
        assert torch.cat([batch.t for batch in batches]).tolist() == [time] * 5
        assert [batch.first for batch in batches] == [0, 2, 4]


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([], "steps must hold a state with t below 1, got none"),
        ([Step(1.0, IMAGES)], "steps must hold a state with t below 1"),
        ([Step(0.5, IMAGES / 0)], "the x of a step must be finite, got NaN or infinity at t=0.5"),
        ([Step(0.5, IMAGES[0])], r"the x of a step must have shape \(B, C, H, W\)"),
        ([Step(0.0, IMAGES), Step(0.5, IMAGES[..., :4])], "must have the same shape"),
        ([Step(0.5, IMAGES[:2])], "class_ids must be one whole number for each image"),
    ],
)
def test_run_names_what_is_wrong(steps, match):
    run = Run(steps, [0] * 5)
    with pytest.raises(ValueError, match=match):
        measured(MODEL, run, lambda batch: batch.x)


def test_measured_holds_images_by_times():
    crops = Crops(IMAGES, [0] * 5, [0.25, 0.75], seed=7, batch_size=2)
    times, values = measured(MODEL, crops, lambda batch: batch.x.mean((2, 3)))
    assert times.tolist() == [0.25, 0.75]
    assert values.shape == (5, 2, 3)
    noise = seeded_noise(5, (3, 8, 8), 7)
    expected = (0.75 * IMAGES + 0.25 * noise).mean((2, 3))
    torch.testing.assert_close(torch.from_numpy(values[:, 1]).float(), expected)


def test_velocity_of_names_a_wrong_shape():
    crops = Crops(IMAGES, [0] * 5, [0.5])
    batch = next(crops.batches(MODEL, 0.5))
    with pytest.raises(ValueError, match="must return a velocity in the shape of x"):
        velocity_of(lambda x, t, class_ids: x[:, :1], batch)


def test_measured_refuses_what_is_not_finite():
    crops = Crops(IMAGES, [0] * 5, [0.25, 0.75], seed=7, batch_size=2)
    with pytest.raises(ValueError, match=r"model must answer in finite numbers, .* at t=0\.75"):
        measured(MODEL, crops, lambda batch: batch.x / (batch.time < 0.5))


def test_recipes_tell_images_runs_and_labels_apart():
    recipes = [
        Crops(images, labels, [0.5], seed=7).recipe()
        for images, labels in ((IMAGES, [0] * 5), (-IMAGES, [0] * 5), (IMAGES, [1] * 5))
    ]
    assert recipes[0]["seed"] == 7
    assert len({(recipe["images"], str(recipe["class_ids"])) for recipe in recipes}) == 3
    first = []
    for images in (IMAGES, -IMAGES):
        run = Run([Step(0.0, images), Step(0.5, images / 2)], [0] * 5)
        measured(MODEL, run, lambda batch: batch.x)
        first.append(run.recipe()["first_state"])
    assert first[0] != first[1]


def test_measured_names_what_are_no_states():
    with pytest.raises(ValueError, match=r"states must be Crops\(.*\) or Run\(.*\) got a Tensor"):
        measured(MODEL, IMAGES, lambda batch: batch.x)  # type: ignore[arg-type]
