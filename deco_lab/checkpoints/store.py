"""Models in files: load what this package or the published code wrote, save safely.

Our own files are safetensors with the configuration as JSON in their metadata. Published files [1]
are Lightning checkpoints, which hold two networks (`denoiser.`, and `ema_denoiser.`, its moving
average, the one to sample with), or plain safetensors, in the published code's names; their
configuration is understood from the shapes of their tensors.

Loading is strict: a missing, unexpected, misshapen or non-finite tensor is an error that names it.
Writing is atomic: a temporary file in the same folder, then a rename, so that a crash leaves either
the old file or the new one.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365; weights at https://huggingface.co/zehongma/DeCo.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from deco_lab.checkpoints.files import CheckpointError, File, json_object, local_file, read_file
from deco_lab.config import ModelConfig, config_from_dict, config_to_dict
from deco_lab.fast import keep_freed_memory
from deco_lab.fast.build import first_line
from deco_lab.fast.regions import fast_dtype, ready_for_sampling
from deco_lab.files import replacing
from deco_lab.models import Model, build
from deco_lab.models.zoo import config_from_shapes, kind_of, our_name, published_name

_CONFIG, _TRAINING = "deco_lab_config", "training"
_EMA, _RAW, _TRAINER = "ema_denoiser.", "denoiser.", "diffusion_trainer."
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What PyTorch's compile, DataParallel, FSDP and checkpoint wrappers put into a tensor's name."""
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PUBLISHED_SIZES = {
    "hf://zehongma/DeCo/imagenet256_epoch320.ckpt": 256,
    "hf://zehongma/DeCo/imagenet256_epoch600.ckpt": 256,
    "hf://zehongma/DeCo/imagenet256_epoch800.ckpt": 256,
    "hf://zehongma/DeCo/imagenet512_epoch340.ckpt": 512,
}
"""Image sizes of the published checkpoints, which are these files and no others."""


@torch.inference_mode(False)  # of whose tensors PyTorch counts no changes
def load(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    ema: bool = True,
    fast: bool = False,
    image_size: int | None = None,
) -> Model:
    """Return the model that a file holds, in eval mode, its parameters without gradients.

    Parameters
    ----------
    name_or_path : str or path
        A bundled model's name; the path of a .safetensors or .ckpt file (told apart by content);
        or hf://owner/repo/file, downloaded once into the Hugging Face cache.
    device : str or torch.device, optional
        Where the model goes; by default CUDA, then MPS, then the CPU, whichever there is.
    dtype : torch.dtype, optional
        The parameters' dtype, whatever the file stores: torch.float32, float64, bfloat16 or
        float16; by default float32, or with `fast` bfloat16 on a GPU that multiplies in it.
    ema : bool
        Of a file that holds two networks, take the moving average or, if False, the raw weights;
        without effect on others.
    fast : bool
        Compute without gradients as fast as the device can: on a CPU by native kernels, which the
        machine's compiler builds once in some seconds, on a GPU by torch.compile and CUDA graphs.
        Compared with the plain model once, and left plain with a warning where they differ or a
        compiler is missing.
        On a CPU weights are kept twice, a change of them through `.data` is not seen, and the
        process keeps memory that is freed (`deco_lab.fast.keep_freed_memory`). On a GPU what is
        computed for the four sizes drawn last is kept, up to about a GiB for each.
    image_size : int, optional
        Side of the model's images in pixels, for a file of others: tensors do not tell it. By
        default what a Lightning file's hyper-parameters say, or is known of a published address.
        Where nothing tells, 256 is assumed for patches of 16 pixels, otherwise eight patches, and a
        warning says so.

    Returns
    -------
    DeCo or DiT
        With `model.config`; its `class_names` are empty where the file stores no configuration, and
        `image_size_assumed` says whether the size is a guess.

    Raises
    ------
    CheckpointError
        For an unknown name, a file that does not hold exactly the tensors of a model, or one that
        cannot be downloaded.
    FileNotFoundError
        Where there is no such file.
    ValueError
        For a device that cannot be used here, another dtype, or an image_size that patches do not
        tile or that is not what the file's own configuration says.
    """
    target = choose_device(device)
    dtype = _checked(dtype) or (fast_dtype(target) if fast else torch.float32)
    if image_size is None:
        image_size = PUBLISHED_SIZES.get(os.fspath(name_or_path))
    with local_file(name_or_path) as path:
        file = read_file(path)
        network = _network(path, file.tensors, ema)
        config = _config(path, file, network, image_size)
        with torch.device("meta"):
            model = build(config)
        _check_tensors(path, network, model.state_dict())
        state = {}
        for name, tensor in network.tensors.items():
            # A copy: it must not stay bound to a file that may change.
            state[name] = tensor.to(device=target, dtype=dtype, copy=True).contiguous()
            if not state[name].isfinite().all():
                raise CheckpointError(
                    f"{path}: {network.file_name(name)} holds NaN or infinite weights as {dtype}; "
                    "use another checkpoint, or float32 if its own weights are finite"
                )
        with suppress(CheckpointError):  # the model itself can be loaded
            model.trained = json_object(path, _TRAINING, file.metadata.get(_TRAINING, "{}"))
    if config.image_size_assumed:
        warnings.warn(
            f"{os.fspath(name_or_path)} does not say the size of its images: "
            f"image_size={config.image_size} is assumed; give image_size",
            stacklevel=3,
        )
    model.load_state_dict(state, assign=True)
    model = model.requires_grad_(False).eval()
    if fast:
        if target.type == "cpu":
            keep_freed_memory()
        ready_for_sampling(model)
    return model


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write `model` and its configuration to a safetensors file that `load` reads, atomically.

    Parameters
    ----------
    model : DeCo or DiT
        The model, of any device.
    path : str or path
        The file, replaced if it exists; its folder is made if it does not.
    dtype : torch.dtype, optional
        Store the weights in this dtype; by default as they are.
    training : mapping, optional
        How the model came about (data, steps, loss, ...), JSON-ready; see `read_training`.

    Raises
    ------
    CheckpointError
        Where weights are not finite, or not those of a DeCo or DiT; nothing is written then.
    ValueError
        For another dtype than `load` takes.
    """
    path, dtype = Path(path), _checked(dtype)
    tensors = {
        name: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    with torch.device("meta"):
        expected = build(model.config).state_dict()
    if tensors.keys() != expected.keys():
        raise CheckpointError(
            f"{path} is not written, since the model's tensors are not those of its config; "
            "save the model itself, not one wrapped by torch.compile or another module"
        )
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{path} is not written, since {name} holds NaN or infinite weights as "
                f"{tensor.dtype}; keep an earlier checkpoint, or store float32"
            )
    metadata = {_CONFIG: json.dumps(config_to_dict(model.config))}
    if training is not None:
        metadata[_TRAINING] = json.dumps(dict(training))
    with replacing(path) as beside:
        save_file(tensors, beside, metadata=metadata)
        os.umask(mask := os.umask(0o022))  # which can be read only by setting it
        beside.chmod(0o666 & ~mask)


def _checked(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return a dtype; raise ValueError for one that models do not compute in."""
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype must be {', '.join(map(str, _DTYPES))} or None, got {dtype}")
    return dtype


def read_training(name_or_path: str | os.PathLike[str]) -> dict[str, object]:
    """Return the record of a model's training that `save` stored, empty where there is none.

    No tensor is read; a loaded model has the same as `model.trained`.

    Raises
    ------
    CheckpointError, FileNotFoundError, ValueError
        As for `load`, where the file cannot be read.
    """
    with local_file(name_or_path) as path:
        metadata = read_file(path, tensors=False).metadata
        return json_object(path, _TRAINING, metadata.get(_TRAINING, "{}"))


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return `device` if it can be used here; by default CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        Where it cannot be used here.
    """
    choices = ["cpu"]
    if torch.backends.mps.is_available():
        choices = ["mps", *choices]
    if torch.cuda.is_available():
        choices = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *choices]
    if device is None:
        return torch.device(choices[0])
    if str(device) not in choices:
        raise ValueError(f"device must be one of {', '.join(choices)} here, got {str(device)!r}")
    return torch.device(device)


class _Network(NamedTuple):
    """One network's tensors, out of all that a file holds."""

    kind: str
    tensors: dict[str, Tensor]
    """By our names."""
    unexpected: list[str]
    """The file's names of tensors that no model of the kind has."""
    published: bool
    """Whether the file has the published code's names."""

    def file_name(self, name: str) -> str:
        """Return the file's name of our tensor `name`."""
        return (published_name(name, self.kind) or name) if self.published else name


def _network(path: Path, tensors: Mapping[str, Tensor], ema: bool) -> _Network:
    """Return the tensors of the only network, or of the moving average or the raw one of two."""
    found: dict[str, Tensor] = {}
    for wrapped, tensor in tensors.items():
        name = _WRAPPERS.sub("", wrapped)
        if name in found:
            raise CheckpointError(
                f"{path} holds {name} twice, wrapped and not; save only one network's weights"
            )
        found[name] = tensor
    unexpected = []
    if any(name.startswith((_EMA, _RAW)) for name in found):
        unexpected = [n for n in found if not n.startswith((_EMA, _RAW, _TRAINER))]
        prefix = _EMA if ema else _RAW
        found = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
        if not found:
            raise CheckpointError(
                f"{path} holds no {prefix}* tensors; load it with ema={not ema} for the others"
            )
    if "y_embedder.proj.weight" in found:
        raise CheckpointError(
            f"{path} is conditioned on text, which is not supported; "
            "use a class-conditional checkpoint, such as imagenet256_epoch800.ckpt"
        )
    kind, published = kind_of(found), not any(name.startswith("trunk.") for name in found)
    ours: dict[str, Tensor] = {}
    for name, tensor in found.items():
        known = our_name(name, kind) if published else name
        if known is None or published_name(known, kind) is None:
            unexpected.append(name)
        else:
            ours[known] = tensor
    if not ours:
        raise CheckpointError(
            f"{path} holds no tensor of a DeCo or DiT; check that it is the right file"
        )
    return _Network(kind, ours, unexpected, published)


def _check_tensors(path: Path, network: _Network, expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the tensors are those expected, one for one."""
    found = network.tensors
    missing = [network.file_name(name) for name in expected if name not in found]
    beyond = [network.file_name(name) for name in found if name not in expected]
    problems = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        for what, names in (("lacks", missing), ("holds unexpected", network.unexpected + beyond))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path} {' and '.join(problems)}; "
            f"use a file that holds all tensors of one {network.kind} and no others"
        )
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {network.file_name(name)} must be floating-point of shape "
                f"{tuple(expected[name].shape)}, got {tensor.dtype} of {tuple(tensor.shape)}; "
                "check that it is the right file"
            )


def _config(path: Path, file: File, network: _Network, asked: int | None) -> ModelConfig:
    """Return the configuration that a file stores or its shapes tell, with the size asked for."""
    try:
        if _CONFIG in file.metadata:
            config = config_from_dict(json_object(path, _CONFIG, file.metadata[_CONFIG]))
        else:
            shapes = {name: tuple(tensor.shape) for name, tensor in network.tensors.items()}
            config = config_from_shapes(shapes, network.kind)
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(
            f"{path} lacks {network.file_name(error.args[0])}; use a file that holds all tensors "
            f"of one {network.kind}"
        ) from error
    except (ValueError, TypeError) as error:
        what = "configuration in it" if _CONFIG in file.metadata else "shapes of its tensors"
        raise CheckpointError(
            f"{path}: no model has the {what} ({first_line(error)}); check that it is the right "
            "file, or save it again"
        ) from error
    known = _CONFIG in file.metadata and not config.image_size_assumed
    if known and asked not in (None, config.image_size):
        raise CheckpointError(
            f"image_size must be {config.image_size}, as {path} says, got {asked}; leave it out"
        )
    if asked is None and file.image_size and file.image_size % config.patch_size == 0:
        asked = file.image_size
    return config if asked is None else replace(config, image_size=asked, image_size_assumed=False)
