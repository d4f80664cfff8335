"""Pictures: the bytes are the images', clipped, rounded and averaged as said."""

import base64

import numpy as np
import torch

from deco_lab.workbench import pictures
from deco_lab.workbench.pictures import plain, to_host, to_pictures


def pixels_of(shown):
    data = np.frombuffer(base64.b64decode(shown.pixels), np.uint8)
    return data.reshape(shown.count, shown.height, shown.width, 3)


def test_to_pictures_clips_puts_the_range_from_black_to_white_and_makes_numbers_of_what_is_none():
    images = torch.tensor([-1.0, -0.5, 0.5, 1.0, 2.0, -3.0]).view(1, 3, 1, 2)
    np.testing.assert_array_equal(pixels_of(to_pictures(images)), [[[[0, 191, 255], [64, 255, 0]]]])
    grey = pixels_of(to_pictures(torch.tensor([[[[-3.0, 0.0, 3.0]]]]), -3, 3))
    np.testing.assert_array_equal(grey[0, 0], [[0] * 3, [128] * 3, [255] * 3])
    none = torch.tensor([float("nan"), float("inf"), -float("inf")]).view(1, 3, 1, 1)
    np.testing.assert_array_equal(pixels_of(to_pictures(none)).flatten(), [0, 255, 0])


def test_to_pictures_averages_large_ones_down(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_SIDE", 16)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown = to_pictures(images)
    assert (shown.shrink, shown.height) == (2, 8)
    means = images.unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5))
    expected = ((means + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels_of(shown), expected)


def test_plain_has_four_digits_and_none_for_nan():
    assert plain(torch.tensor([[1.23456789, float("nan")], [1e-30, float("inf")]])) == [
        [1.235, None],
        [1e-30, None],
    ]


def test_to_host_gives_back_every_tensor():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randint(256, (3, 5), generator=generator).byte(),
        torch.randn(7, generator=generator),
        torch.randn(2, 3, dtype=torch.float64, generator=generator).T,
        torch.randn((), generator=generator),
        torch.arange(3).byte(),
    ]
    for copied, tensor in zip(to_host(tensors), tensors, strict=True):
        assert copied.dtype == tensor.dtype
        assert torch.equal(copied, tensor)
