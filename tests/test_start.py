"""Runs that start from a picture or from another run's state."""

from typing import Any

import pytest
import torch
from torch import Tensor

from deco_lab import sample, sample_steps
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.sampling import SOLVERS, Start

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def towards(target: Tensor) -> Any:
    """A model that knows the image: its velocity leads to it from any state at once."""

    def model(x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return (target - x) / (1 - t[:, None, None, None]).clamp(min=1e-6)

    return model


def decay(x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
    return -x


RUN: Any = {"guidance_scale": 1.0, "num_steps": 10}


def test_starts_at_the_picture_with_the_noise_of_its_seeds_and_takes_the_steps_that_are_left():
    steps = list(sample_steps(decay, [0, 0], **RUN, seed=5, start=Start(IMAGE, 0.35)))
    noise = seeded_noise(2, (3, 8, 8), 5)
    torch.testing.assert_close(steps[0].x, interpolate(IMAGE.expand(2, -1, -1, -1), noise, 0.35))
    assert [round(step.t, 6) for step in steps] == [0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [step.index for step in steps] == [*range(8)]
    assert steps[-1].nfe == 7
    # x' = -x by Euler: each step multiplies by 1 - (t' - t).
    torch.testing.assert_close(steps[-1].x, steps[0].x * 0.95 * 0.9**6)


def test_at_zero_it_is_the_run_without_a_picture():
    plain = sample(decay, [0], **RUN, noise=seeded_noise(1, (3, 8, 8), 3))
    assert torch.equal(sample(decay, [0], **RUN, seed=3, start=Start(IMAGE, 0.0)), plain)


@pytest.mark.parametrize(
    "solver", [name for name in SOLVERS if not name.startswith(("adams", "heun_reuse"))]
)
def test_a_run_goes_on_from_its_own_step_as_if_it_had_not_stopped(solver):
    run: Any = {**RUN, "solver": solver}
    steps = list(sample_steps(decay, [0], **run, noise=IMAGE))
    again = list(sample_steps(decay, [0], **run, start=steps[4]))
    assert torch.equal(again[-1].x, steps[-1].x)
    assert [step.t for step in again] == [step.t for step in steps[4:]]


def test_a_step_goes_on_with_other_settings():
    step = list(sample_steps(decay, [0], **RUN, noise=IMAGE))[4]
    ended = sample(decay, [0], guidance_scale=1.0, num_steps=5, start=step)
    torch.testing.assert_close(ended, step.x * 0.8**3)


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 8, 8), (2, 1, 8, 8)])
def test_what_is_kept_is_the_picture_and_the_rest_is_drawn(shape):
    keep = torch.zeros(shape, dtype=torch.bool)
    keep[..., :4] = True
    target = torch.full((1, 3, 8, 8), 0.25)
    steps = list(sample_steps(towards(target), [0, 0], **RUN, start=Start(IMAGE, 0.0, keep)))
    end = steps[-1].x
    torch.testing.assert_close(end[..., :4], IMAGE.expand(2, -1, -1, -1)[..., :4])
    torch.testing.assert_close(end[..., 4:], torch.full((2, 3, 8, 4), 0.25), atol=1e-5, rtol=0)
    noise, half = seeded_noise(2, (3, 8, 8), 0), steps[5]
    expected = interpolate(IMAGE.expand(2, -1, -1, -1), noise, half.t)
    torch.testing.assert_close(half.x[..., :4], expected[..., :4])
    for step in steps[1:]:  # and so is what a step predicts
        assert step.predicted_image is not None
        assert torch.equal(step.predicted_image[..., :4], IMAGE.expand(2, -1, -1, -1)[..., :4])
        torch.testing.assert_close(step.predicted_image[..., 4:], end[..., 4:])


def test_a_run_that_keeps_goes_on_from_its_own_step_as_if_it_had_not_stopped():
    keep = torch.zeros(8, 8, dtype=torch.bool)
    keep[2:6] = True
    run: Any = {**RUN, "seed": 3}
    steps = list(sample_steps(decay, [0, 0], **run, start=Start(IMAGE, 0.25, keep)))
    start = Start(IMAGE, steps[4].t, keep, steps[4].x)
    again = list(sample_steps(decay, [0, 0], **run, start=start))
    assert torch.equal(again[0].x, steps[4].x)
    assert torch.equal(again[-1].x, steps[-1].x)
    # Another mask takes hold at once.
    other = next(sample_steps(decay, [0, 0], **run, start=Start(IMAGE, 0.5, ~keep, steps[4].x)))
    noise = seeded_noise(2, (3, 8, 8), 3)
    torch.testing.assert_close(other.x[..., :2, :], interpolate(IMAGE, noise, 0.5)[..., :2, :])
    assert torch.equal(other.x[..., 2:6, :], steps[4].x[..., 2:6, :])


def test_trained_model_goes_on_and_starts_on_any_device():
    import deco_lab

    model = deco_lab.load("fields", device="cpu")
    picture = torch.zeros(1, 3, 32, 32)
    near = sample(model, [1, 2], num_steps=8, start=Start(picture, 0.9))
    far = sample(model, [1, 2], num_steps=8, start=Start(picture, 0.2))
    assert near.abs().mean() < far.abs().mean()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": IMAGE[0], "t": 0.5}, r"image must be \(B, 3, H, W\)"),
    ({"image": IMAGE.byte(), "t": 0.5}, "floating point"),
    ({"image": IMAGE * float("nan"), "t": 0.5}, "image must be finite"),
    ({"image": IMAGE, "t": 1}, "t of start must be below 1"),
    ({"image": IMAGE, "t": -0.1}, "t of start must be a number from 0 to 1"),
    ({"image": IMAGE, "t": 0.5, "keep": torch.ones(8, 8)}, "keep must be bool"),
    ({"image": IMAGE, "t": 0.5, "keep": torch.ones(4, 8, dtype=torch.bool)}, "height and width"),
    ({"image": IMAGE, "t": 0.5, "keep": torch.ones(3, 8, 8, dtype=torch.bool)}, r"\(H, W\) or"),
    ({"image": IMAGE, "t": 0.5, "x": IMAGE[..., :4]}, r"x of start must be \(B, 3, H, W\)"),
    ({"image": IMAGE, "t": 0.5, "x": IMAGE.byte()}, "x of start must be .* take a step's x"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_start_refuses_what_is_no_picture(given, message):
    with pytest.raises(ValueError, match=message):
        Start(**given)


def test_sample_refuses_starts_that_do_not_fit():
    step = list(sample_steps(decay, [0], **RUN, noise=IMAGE))[-1]
    with pytest.raises(ValueError, match="below 1, where nothing is left"):
        sample(decay, [0], **RUN, start=step)
    with pytest.raises(ValueError, match=r"one image and one mask, or 3, .* got 2"):
        sample(decay, [0] * 3, **RUN, start=Start(IMAGE.expand(2, -1, -1, -1), 0.5))
    with pytest.raises(ValueError, match="noise must have the size of the start's image"):
        sample(decay, [0], **RUN, noise=torch.zeros(1, 3, 4, 4), start=Start(IMAGE, 0.5))
    first = next(sample_steps(decay, [0], **RUN, noise=IMAGE))
    with pytest.raises(ValueError, match="noise must be left out"):
        sample(decay, [0], **RUN, noise=IMAGE, start=first)
    with pytest.raises(ValueError, match=r"noise must have the shape .*B=2"):
        sample(decay, [0, 0], **RUN, start=first)
