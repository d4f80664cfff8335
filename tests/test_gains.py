"""Gains of parts: a linear decoder's closed form, and a hand-written sampler."""

import pytest
import torch

from deco_lab.config import DeCoConfig
from deco_lab.flow import seeded_noise
from deco_lab.models import build
from deco_lab.sampling import sample
from deco_lab.spectra import PartGains, decompose, split_bands

CONFIG = DeCoConfig(
    image_size=16, patch_size=2, num_classes=3, hidden_size=16, num_heads=2, depth=1,
    decoder_depth=1, decoder_width=8,
)  # fmt: skip


class Linear(torch.nn.Module):
    """g(s, p) = s + 2 p + 1, with s the state moved by one pixel: every part is known."""

    def condition(self, x, t, class_ids):
        return x.roll(1, -1).flatten(2).mT

    def decode(self, x, condition):
        return condition.mT.unflatten(2, x.shape[-2:]) + 2 * x + 1

    def forward(self, x, t, class_ids):
        return self.decode(x, self.condition(x, t, class_ids))


@pytest.fixture(scope="module")
def deco():
    model = build(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


X, T, LABELS = seeded_noise(2, (3, 16, 16), 0), torch.full((2,), 0.3), torch.tensor([0, 2])


def test_part_gains_scale_the_bands_of_a_linear_decoders_parts():
    dit, decoder = (1, 0.5, 0, 2), (0, 1, -1, 3)
    velocity = PartGains(Linear(), dit=dit, decoder=decoder)(X, T, LABELS)
    condition = X.roll(1, -1)
    mean = condition.mean((2, 3), keepdim=True)  # the reference "mean"; pixels have "zero"
    expected = mean + 1
    for gains, part in ((dit, condition - mean), (decoder, 2 * X)):
        for gain, band in zip(gains, split_bands(part), strict=True):
            expected = expected + gain * band
    torch.testing.assert_close(velocity, expected, rtol=1e-5, atol=1e-5)


def test_part_gains_of_one_are_the_model_to_the_last_bit(deco, monkeypatch):
    expected = deco(X, T, LABELS)
    calls = []
    decode = deco.decode
    monkeypatch.setattr(deco, "decode", lambda *inputs: calls.append(1) or decode(*inputs))
    assert torch.equal(PartGains(deco)(X, T, LABELS), expected)
    assert len(calls) == 1


def test_part_gains_of_zero_leave_the_baseline(deco):
    silent = PartGains(deco, dit=(0,) * 4, decoder=(0,) * 4)
    baseline = decompose(deco, X, T, LABELS).baseline
    torch.testing.assert_close(silent(X, T, LABELS), baseline, rtol=1e-4, atol=1e-5)


def test_part_gains_take_other_edges_and_references(deco):
    gained = PartGains(deco, dit=(1, 0), decoder=(1, 1), edges=(0.2,), pixel_reference="patch_mean")
    parts = decompose(deco, X, T, LABELS, pixel_reference="patch_mean")
    expected = parts.velocity - split_bands(parts.dit, (0.2,))[1]
    torch.testing.assert_close(gained(X, T, LABELS), expected, rtol=1e-4, atol=1e-5)


def test_part_gains_in_a_sampler_equal_eulers_loop(deco):
    gained = PartGains(deco, decoder=(0,) * 4)
    drawn = sample(gained, [1, 2], num_steps=5, guidance_scale=2.0, guidance_interval=(0, 1))
    x = seeded_noise(2, (3, 16, 16), 0)
    for step in range(5):
        velocities = []
        for labels in ([1, 2], [3, 3]):
            parts = decompose(deco, x, step / 5, labels)
            velocities.append(parts.velocity - parts.decoder)
        cond, uncond = velocities
        guided = cond if step == 0 else uncond + 2 * (cond - uncond)  # t = 0 is never guided
        x = x + guided / 5
    torch.testing.assert_close(drawn, x, rtol=1e-4, atol=1e-4)


def test_part_gains_pass_condition_and_decode_through(deco):
    gained = PartGains(deco, dit=(0,) * 4)
    condition = gained.condition(X, T, LABELS)
    assert torch.equal(condition, deco.condition(X, T, LABELS))
    assert torch.equal(gained.decode(X, condition), deco.decode(X, condition))
    assert gained.config is deco.config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dit": (1, 1)}, "dit must be 4 finite gains, one for each band, got \\(1, 1\\)"),
        ({"decoder": (1, 1, 1, float("nan"))}, "decoder must be 4 finite gains"),
        ({"edges": (0.3, 0.1)}, "edges must rise"),
    ],
)
def test_part_gains_refuse_what_fits_no_band(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartGains(Linear(), **arguments)


def test_part_gains_refuse_a_model_without_decoder():
    with pytest.raises(ValueError, match="decode"):
        PartGains(torch.nn.Identity())
