"""Fields: their power against the images' own, and Wiener's filter against what it must be."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from deco_lab import sample_steps
from deco_lab.config import FIELDS
from deco_lab.data import FieldSampler, SourceConfig, field_power, open_source, optimal_velocity
from deco_lab.flow import interpolate, predicted_image


def drawn(class_id: int, count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((count,), class_id)
    return FieldSampler(size).sample(count, generator, labels).images


def power_of(images: torch.Tensor) -> torch.Tensor:
    return torch.fft.fft2(images.double()).abs().square() / images.shape[-1] ** 2


@pytest.mark.parametrize("class_id", range(5), ids=FIELDS)
def test_field_power_is_that_of_the_images(class_id):
    each = power_of(drawn(class_id, 1000)).mean(1)
    error = each.std(0) / len(each) ** 0.5
    z = (each.mean(0) - field_power(class_id, 32)) / error
    assert z.abs().max() < 5  # of 1,024 frequencies, half of which repeat the others
    assert 0.9 < z.square().mean().sqrt() < 1.1


def test_field_power_falls_as_its_name_says():
    for class_id, exponent in enumerate((1, 2, 3)):
        power = field_power(class_id, 64)[0, 1:33]
        assert power[0] / power[7] == pytest.approx(8**exponent)
        assert field_power(class_id, 64).mean() == pytest.approx(0.25)
    with pytest.raises(ValueError, match="class_id must be from 0 to 4, got 5"):
        field_power(5, 32)


def test_fields_have_one_variance_and_channels_that_do_not_correlate():
    for class_id in range(5):
        pixels = drawn(class_id, 500).transpose(0, 1).flatten(1)
        torch.testing.assert_close(torch.cov(pixels), torch.eye(3) / 4, atol=0.03, rtol=0)


def test_shuffled_leaves_keep_the_power_of_their_images_and_lose_the_edges():
    leaves, shuffled = drawn(3, 64), drawn(4, 64)
    torch.testing.assert_close(power_of(shuffled), power_of(leaves), rtol=1e-3, atol=1e-5)
    step = [np.abs(np.diff(images.numpy(), axis=3)) for images in (leaves, shuffled)]
    # Flat discs: most neighbours are equal; of a random-phase texture none are.
    assert (step[0] == 0).mean() > 0.5
    assert (step[1] < 1e-3).mean() < 0.02


def test_a_field_depends_on_its_seed_and_not_on_its_batch():
    fields, whole = FieldSampler(16), torch.Generator().manual_seed(3)
    images, labels = fields.sample(12, whole)
    again = torch.Generator().manual_seed(3)
    part = fields.sample(12, again, rows=slice(4, 7))
    torch.testing.assert_close(part.images, images[4:7], rtol=0, atol=0)
    assert torch.equal(part.class_ids, labels[4:7])
    assert torch.equal(whole.get_state(), again.get_state())


@pytest.mark.parametrize("t", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("class_id", [0, 1, 2])
def test_optimal_velocity_leaves_an_error_that_no_filter_lessens(class_id, t):
    images = drawn(class_id, 400)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    x = interpolate(images, noise, t)
    times, labels = torch.full((400,), t), torch.full((400,), class_id)
    best = predicted_image(x, optimal_velocity(x, times, labels), t)
    # The error is uncorrelated with the input, at every frequency: so no linear filter is better.
    error, seen = (torch.fft.fft2((field).double()) for field in (best - images, x))
    products = (error * seen.conj()).real.mean(1)
    z = products.mean(0) / (products.std(0) / len(products) ** 0.5)
    assert 0.85 < z.square().mean().sqrt() < 1.15
    S = field_power(class_id, 32)
    expected = ((1 - t) ** 2 * S / (t**2 * S + (1 - t) ** 2)).mean()
    assert (best - images).square().mean() == pytest.approx(float(expected), rel=0.03)


def test_sampling_by_the_optimal_velocity_draws_fields_of_the_right_power():
    """The flow of a Gaussian's exact velocity ends in that Gaussian: each frequency's gain is
    sqrt(S), to the error of the steps."""

    class Optimal(torch.nn.Module):
        config = type("Config", (), {"image_size": 32, "num_classes": 5, "patch_size": 8})

        def forward(self, x: torch.Tensor, t: torch.Tensor, class_ids: torch.Tensor):
            return optimal_velocity(x, t, class_ids)

    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    S = field_power(1, 32)
    ends = []
    for steps in (50, 100):
        *_, last = sample_steps(
            Optimal(), class_ids=[1] * 4, noise=x, num_steps=steps, solver="heun", guidance_scale=1
        )
        gain = (torch.fft.fft2(last.x.double()) / torch.fft.fft2(x.double())).real
        ends.append(float((gain.mean((0, 1)) / S.sqrt() - 1).abs().max()))
    assert ends[1] < 0.01
    assert all(coarse / fine > 2.5 for coarse, fine in pairwise(ends))  # of order 2


def test_open_source_draws_fields():
    source = open_source(SourceConfig(data="fields"), 16, torch.device("cpu"))
    assert source.crops.class_names == FIELDS
    images, _ = source.crops.sample(5, torch.Generator().manual_seed(0))
    assert images.shape == (5, 3, 16, 16)
    assert source.fresh is source.crops
