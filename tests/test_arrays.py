"""NumPy arrays in the place of tensors: the public functions answer as for tensors."""

import inspect
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from test_analyses_input import CROPS, IMAGES, LABELS, RUNS, TIMES, Asked, assert_same, model_of

from deco_lab import spectra
from deco_lab.arrays import as_tensor

DECO = model_of("deco")
RGB = IMAGES[:, :, :, :32].contiguous()
T, IDS = torch.full((8,), 0.5), torch.tensor(LABELS)
CONDITION = DECO.condition(IMAGES, T, IDS)
WEIGHTS = spectra.frequency_weights()
CALLS: dict[str, tuple[Any, ...]] = {
    "band_shares": (IMAGES, IMAGES.flip(-1)),
    "block_dct": (IMAGES,),
    "block_tokens": (DECO, IMAGES, 0.5, LABELS),
    "dct_energy": (IMAGES,),
    "decompose": (DECO, IMAGES, 0.5, LABELS),
    "favoured_parts": (RGB, WEIGHTS),
    "find_seams": (IMAGES, 8),
    "intervention_effect": (IMAGES, IMAGES.flip(-1)),
    "inverse_block_dct": (spectra.block_dct(IMAGES),),
    "log_energy": (spectra.dct_energy(IMAGES),),
    "loss_bands": (RGB, RGB.flip(-1)),
    "phase_shuffled": (IMAGES,),
    "pixel_jacobian": (DECO, IMAGES, CONDITION),
    "radial_power": (IMAGES,),
    "rgb_to_ycbcr": (IMAGES,),
    "settling_times": (([*TIMES, 1.0], torch.stack([IMAGES.flip(-1), IMAGES + 1, IMAGES])),),
    "split_bands": (IMAGES,),
    "token_map": (CONDITION, 4, 5),
    "white_noise": (IMAGES,),
}


def arrays_for(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(arrays_for, value))
    return value.numpy() if isinstance(value, torch.Tensor) else value


def numbers_of(found: Any) -> list[torch.Tensor]:
    """Return the tensors and the arrays of numbers in an answer."""
    if isinstance(found, np.ndarray) and found.dtype.kind == "f":
        return [torch.from_numpy(found)]
    if isinstance(found, torch.Tensor):
        return [found]
    if is_dataclass(found):
        found = tuple(vars(found).values())
    return [n for value in found for n in numbers_of(value)] if isinstance(found, tuple) else []


@pytest.mark.parametrize("name", CALLS)
def test_functions_take_arrays_and_answer_as_for_tensors(name):
    function = getattr(spectra, name)
    expected = numbers_of(function(*CALLS[name]))
    found = numbers_of(function(*arrays_for(CALLS[name])))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CROPS | RUNS)
def test_analyses_take_arrays_and_answer_as_for_tensors(name):
    analysis = (CROPS | RUNS)[name]
    found = analysis(Asked(IMAGES.numpy(), np.array(LABELS)))  # type: ignore[arg-type]
    assert_same(found, analysis(Asked()), rtol=0)


def test_no_public_function_of_images_is_left_out():
    of_images = set()
    for name in spectra.__all__:
        function = getattr(spectra, name)
        if inspect.isfunction(function):
            asked = inspect.signature(function).parameters.values()
            labels = ("class_ids", "groups")
            types = [str(p.annotation) for p in asked if p.name not in labels]
            if any("Tensor" in kind and "Callable" not in kind for kind in types):
                of_images.add(name)
    assert of_images - set(CALLS) <= {name.split()[0] for name in CROPS | RUNS}


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :, ::-1, ::-1],
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1], x.shape),  # read only, of stride 0
        lambda x: (100 * x).astype(np.uint16),
        lambda x: (100 * x).astype(np.uint8),
        lambda x: x > 0,
        lambda x: x.astype(np.float16),
    ],
)
def test_as_tensor_takes_arrays_of_any_layout(change):
    array = change(np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32))
    before = array.copy()
    tensor = as_tensor(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    energy = spectra.dct_energy(array)
    torch.testing.assert_close(energy, spectra.dct_energy(torch.tensor(array.astype(np.float64))),
                               rtol=1e-5, atol=1e-5)  # fmt: skip
    tensor.zero_()
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", [object, str, "datetime64[s]", np.longdouble])
def test_as_tensor_refuses_arrays_that_are_no_numbers(dtype):
    with pytest.raises(
        ValueError, match=r"an array must hold numbers .* got .*; use array\.astype"
    ):
        spectra.split_bands(np.zeros((1, 3, 8, 8)).astype(dtype))  # type: ignore[arg-type]
