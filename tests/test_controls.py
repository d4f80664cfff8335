from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import deco_lab
from deco_lab.flow import predicted_image, seeded_noise
from deco_lab.spectra.controls import phase_shuffled, untrained, white_noise
from deco_lab.spectra.radial import radial_power

SIZES = [(16, 16), (15, 15), (16, 9), (7, 12), (1, 8), (2, 2)]
BOTH = pytest.mark.parametrize("control", [white_noise, phase_shuffled])

Control = Callable[..., Tensor]


def images_of(size: tuple[int, int], count: int = 3) -> Tensor:
    """Smooth images whose channels go together, with a mean."""
    generator = torch.Generator().manual_seed(1)
    own = torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)
    together = torch.randn(count, 1, *size, generator=generator, dtype=torch.float64)
    return (own + 2 * together).cumsum(-1) / 8 + 0.3


def edges_of(count: int = 4, side: int = 64) -> Tensor:
    """Discs of random places and sizes: black and white, and nothing in between."""
    generator = torch.Generator().manual_seed(2)
    y, x, radius = (torch.rand(3, count, 1, 1, generator=generator) * 24 + 16).double()
    at = torch.arange(side, dtype=torch.float64)
    inside = torch.hypot(at[:, None] - y, at - x) < radius / 2
    return inside.double()[:, None].expand(-1, 3, -1, -1) * 2 - 1


@pytest.mark.parametrize("size", SIZES)
def test_phase_shuffled_keeps_every_power_and_cross_spectrum(size):
    images = images_of(size)
    before, after = (np.fft.fft2(x.numpy()) for x in (images, phase_shuffled(images)))
    crossed = [s[:, :, None] * s[:, None].conj() for s in (before, after)]  # (B, 3, 3, H, W)
    np.testing.assert_allclose(crossed[1], crossed[0], atol=1e-10 * abs(crossed[0]).max())


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (16, 9)])
def test_phase_shuffled_draws_even_phases_independent_of_the_image(size):
    images = images_of(size, 1).expand(600, -1, -1, -1)
    turned = np.fft.fft2(phase_shuffled(images).numpy()) / np.fft.fft2(images.numpy())
    np.testing.assert_allclose(turned[:, 0], turned[:, 2], atol=1e-6)  # of all channels alike
    H, W = size
    real = [(u, v) for u in {0, H / 2} for v in {0, W / 2} if u % 1 == 0 and v % 1 == 0]
    real_at = tuple(np.array(real, int).T)
    assert abs(turned[:, 0].imag[:, *real_at]).max() < 1e-6
    mean, square = turned[:, 0].mean(0), (turned[:, 0] ** 2).mean(0)
    assert mean[0, 0] == pytest.approx(1)
    mean[0, 0] = 0
    square[real_at] = 0
    assert abs(mean).max() < 4.5 / 600**0.5
    assert abs(square).max() < 4.5 / 600**0.5


def test_phase_shuffled_takes_the_edges_and_leaves_the_radial_power():
    images = edges_of()
    shuffled = phase_shuffled(images)
    before, after = (radial_power(x).power for x in (images, shuffled))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)

    def kurtosis(x: Tensor) -> float:
        steps = torch.cat([(x - x.roll(1, axis)).flatten() for axis in (2, 3)])
        return float(steps.pow(4).mean() / steps.square().mean() ** 2)

    # Of steps that are 0 but at a share p of the pixels it is 1 / p; of a Gaussian it is 3.
    assert kurtosis(images) > 15
    assert kurtosis(shuffled) == pytest.approx(3, abs=0.4)


@pytest.mark.parametrize("size", SIZES)
@BOTH
def test_controls_keep_the_means_and_spreads_of_each_channel(control: Control, size):
    images, null = images_of(size), control(images_of(size))
    assert null.shape == images.shape
    torch.testing.assert_close(null.mean((2, 3)), images.mean((2, 3)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(null.std((2, 3)), images.std((2, 3)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (33, 48)])
def test_white_noise_is_flat_and_its_channels_have_nothing_in_common(size):
    images = images_of(size, 40)
    unit = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    power = radial_power(white_noise(unit)).power.numpy()
    assert power[0] < 1e-12  # the mean, taken off
    # 120 channels of 8 coefficients, half of them mirrored, in the smallest ring.
    np.testing.assert_allclose(power[1:], 1, atol=4 * (2 / 120 / 8) ** 0.5)
    np.testing.assert_allclose(power[8:].mean(), 1, atol=0.01)
    white = white_noise(unit).flatten(2)
    together = np.array([np.corrcoef(image) for image in white.numpy()])[:, *np.triu_indices(3, 1)]
    assert abs(together).max() < 4.5 / (size[0] * size[1]) ** 0.5


@BOTH
def test_controls_of_an_image_do_not_depend_on_its_batch(control: Control):
    images = images_of((16, 9), 5)
    whole = control(images, seed=3)
    for i in range(5):
        assert torch.equal(control(images[i : i + 1], seed=3 + i), whole[i : i + 1])
    assert not torch.allclose(control(images[:1], seed=4), whole[:1])
    assert (
        len({tuple(x.flatten().tolist()) for x in control(images[:1].expand(5, -1, -1, -1))}) == 5
    )


@BOTH
def test_controls_have_nothing_of_the_noise_that_analyses_add(control: Control):
    # Analyses draw the noise of image i from seed + i, of the same small seeds.
    noise = seeded_noise(14, (3, 32, 32), 0).double()
    null = control(images_of((32, 32), 14), seed=0)
    phases = [torch.fft.rfft2(x) for x in (noise, null)]
    same = (phases[0] * phases[1].conj())[..., 1:, 1:-1]  # less the mean, and what is real
    cosine = (same / same.abs()).real.mean((0, 2, 3))
    assert float(cosine.abs().max()) < 4.5 / (2 * 14 * 31 * 15) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@BOTH
def test_controls_are_of_the_images_own_type(control: Control, dtype):
    images = images_of((16, 16)).to(dtype)
    null = control(images)
    assert null.dtype == dtype
    # The same images in float64, rounded once.
    assert torch.equal(null, control(images.double()).to(dtype))


@BOTH
def test_controls_leave_their_images_and_the_global_generator_alone(control: Control):
    images = images_of((8, 8))
    before, state = images.clone(), torch.get_rng_state()
    control(images)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@BOTH
def test_controls_of_flat_images_are_the_images(control: Control):
    flat = torch.full((2, 3, 8, 8), 0.25, dtype=torch.float64)
    torch.testing.assert_close(control(flat), flat)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(3, 8, 8), r"images must have shape \(B, C, H, W\)"),
        (torch.zeros(0, 3, 8, 8), "images must have shape .* and hold pixels"),
        (torch.zeros(1, 3, 8, 8).byte(), "images must be floating point"),
        (torch.full((1, 3, 8, 8), float("nan")), "finite, got torch.float32 with 192 values"),
    ],
)
@BOTH
def test_controls_name_what_is_wrong(control: Control, images, match):
    with pytest.raises(ValueError, match=match):
        control(images)


@pytest.mark.parametrize("name", ["tiny", "tiny-dit"])
def test_untrained_is_the_same_architecture_without_its_weights(name):
    model = deco_lab.load(name, device="cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fresh = untrained(model, 1)
    assert type(fresh) is type(model)
    assert fresh.config == model.config
    assert fresh.training == model.training
    kinds = {
        (p.device, p.dtype, p.requires_grad) for one in (fresh, model) for p in one.parameters()
    }
    assert len(kinds) == 1
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    x, t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.ones(2) / 2
    with torch.no_grad():
        drawn, learned = (one(x, t, torch.tensor([0, 1])) for one in (fresh, model))
    if model.config.predicts == "image":  # a velocity from an image holds the noisy image
        drawn, learned = (predicted_image(x, v, 0.5) for v in (drawn, learned))
    cosine = torch.cosine_similarity(drawn.flatten(), learned.flatten(), 0)
    assert abs(cosine) < 0.15
    assert 0.05 < drawn.std() < 20  # not the zeros of a fresh last layer


def test_untrained_is_that_of_its_seed_and_leaves_the_global_generator_alone():
    model = deco_lab.load("tiny", device="cpu")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (untrained(model, seed).backbone.patch_embedding for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_untrained_needs_a_config():
    with pytest.raises(ValueError, match=r"model must have a config .* which a Linear has not"):
        untrained(torch.nn.Linear(1, 1))
