from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deco_lab.flow import seeded_noise
from deco_lab.spectra.renoised import check_batch_size, check_crops

MODEL = SimpleNamespace(config=SimpleNamespace(num_classes=4))
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_batches_hold_every_image_with_its_own_noise(batch_size):
    crops = check_crops(IMAGES, [0, 1, 2, 3, 4], [0.25], 7, MODEL)
    batches = list(crops.batches(0.25, MODEL, batch_size))
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
    crops = check_crops(IMAGES.to(given), [0] * 5, [0.5], 0, MODEL)
    assert next(crops.batches(0.5, MODEL, 2)).x.dtype == computed


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
        ({"class_ids": [-1, 0, 0, 0, 0]}, "class_ids must be from 0 to 4"),
        ({"times": []}, r"times must be at least one t in \[0, 1\]"),
        ({"times": [0.5, 1.5]}, r"times must be at least one t in \[0, 1\], got \(0.5, 1.5\)"),
        ({"times": [float("nan")]}, "times must be at least one t"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**32 - 1}, "seed must be at least 0 and below"),
    ],
)
def test_check_crops_names_what_is_wrong(change, match):
    given: dict[str, Any] = {"images": IMAGES, "class_ids": [0] * 5, "times": [0.5], "seed": 0}
    with pytest.raises(ValueError, match=match):
        check_crops(**given | change, model=MODEL)


def test_check_crops_of_a_model_without_config_bounds_labels_below():
    check_crops(IMAGES, [99] * 5, [0.5], 0, object())
    with pytest.raises(ValueError, match="class_ids must be at least 0"):
        check_crops(IMAGES, [-1] * 5, [0.5], 0, object())


def test_check_batch_size_refuses_none():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        check_batch_size(0)
