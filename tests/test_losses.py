import pytest
import torch
from safetensors.torch import load_file

from deco_lab import losses
from deco_lab.losses import alignment_loss, flow_matching_loss, frequency_loss
from deco_lab.spectra import jpeg_table, rgb_to_ycbcr


@pytest.fixture(scope="module")
def recorded(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "frequency_loss.safetensors")


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 2, 3, 16, 24, generator=generator)
    return predicted, target


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 85, 95, 100])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_frequency_loss_matches_recorded_outputs(recorded, quality, gamma):
    loss = frequency_loss(recorded["predicted"], recorded["target"], quality, gamma)
    expected = recorded[f"loss_q{quality}_g{gamma}"][0]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_frequency_loss_with_uniform_weights_is_the_mean_square_of_ycbcr(pair):
    predicted, target = pair
    expected = rgb_to_ycbcr(predicted - target).square().mean()
    torch.testing.assert_close(frequency_loss(predicted, target, gamma=0), expected)


def test_frequency_loss_of_a_grey_offset_weighs_the_luminance_dc():
    # An offset of 1 in R, G and B is 8 in only Y's DC coefficient, of 3 * 64 averaged.
    target = torch.zeros(1, 3, 8, 8)
    weight = (1 / 5) / (1 / jpeg_table(85)).mean()  # at quality 85 the DC is quantised by 5
    loss = frequency_loss(target + 1, target)
    torch.testing.assert_close(loss, weight * 64 / (3 * 64))


def test_frequency_loss_ignores_autocast(pair):
    plain = frequency_loss(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = frequency_loss(*pair)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [flow_matching_loss, frequency_loss])
def test_losses_compute_narrow_types_in_float32(loss, pair):
    narrow = [velocity.bfloat16() for velocity in pair]
    value = loss(*narrow)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*[v.float() for v in narrow]), rtol=0, atol=0)


def test_frequency_loss_after_inference_mode_can_be_trained_through(pair):
    losses._weights_on.cache_clear()
    with torch.inference_mode():
        frequency_loss(*pair)
    predicted = pair[0].clone().requires_grad_()
    frequency_loss(predicted, pair[1]).backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().min() > 0


def test_flow_matching_loss_is_the_mean_square():
    predicted = torch.tensor([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 2, 2)
    assert flow_matching_loss(predicted, target) == (4 + 9 + 16) / 4


@pytest.mark.parametrize(("scale", "expected"), [(3.0, 0), (-0.5, 2)])
def test_alignment_loss_knows_direction_alone(scale, expected):
    features = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    loss = alignment_loss(scale * features, features)
    torch.testing.assert_close(loss, torch.tensor(float(expected)), rtol=0, atol=1e-6)


def test_alignment_loss_of_orthogonal_tokens_is_1():
    projected, features = torch.eye(4)[None, :2], torch.eye(4)[None, 2:]
    assert alignment_loss(projected, features) == 1


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (flow_matching_loss, ("target", "predicted")),
        (frequency_loss, ("target", "predicted")),
        (alignment_loss, ("features", "projected")),
    ],
)
def test_losses_refuse_shapes_that_differ(loss, names):
    rule = rf"{names[0]} must have the shape of {names[1]}, \(1, 3, 8\), got \(1, 3, 1\)"
    with pytest.raises(ValueError, match=rule):
        loss(torch.zeros(1, 3, 8), torch.zeros(1, 3, 1))
