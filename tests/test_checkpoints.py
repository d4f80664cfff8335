import copy
import io
import json
import os
import pickle
import re
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from deco_lab import checkpoints
from deco_lab.checkpoints import CheckpointError, load, our_name, published_name, save
from deco_lab.config import PRESETS, DeCoConfig, config_to_dict
from deco_lab.models import build
from deco_lab.models.zoo import config_from_shapes

KINDS = [("deco_c2i", "DeCo"), ("baseline_dit", "DiT")]
# Published files do not say the size of their images: those of the first tests below do not care.
pytestmark = pytest.mark.filterwarnings("ignore:.* does not say the size of its images")


def published_weights(golden, file):
    recorded = load_file(golden / f"{file}.safetensors")
    return {
        name.removeprefix("weights."): tensor
        for name, tensor in recorded.items()
        if name.startswith("weights.")
    }


@pytest.fixture
def published(golden):
    return published_weights(golden, "deco_c2i")


@pytest.fixture
def written(golden_deco, tmp_path):
    """One of our own files."""
    save(golden_deco, tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def one_sentence(error, path) -> bool:
    text = str(error.value)
    return Path(path).name in text and "\n" not in text and "; " in text


# Names and configurations


@pytest.mark.parametrize(("file", "kind"), KINDS)
def test_names_map_the_published_ones_to_ours_and_back(golden, request, file, kind):
    ours = request.getfixturevalue(f"golden_{kind.lower()}").state_dict().keys()
    published = published_weights(golden, file).keys()
    assert {our_name(name, kind) for name in published} == set(ours)
    assert {published_name(name, kind) for name in ours} == set(published)
    assert all(our_name(str(published_name(name, kind)), kind) == name for name in ours)


@pytest.mark.parametrize(
    "name", ["blocks.x.norm1.weight", "blocks.0.norm3.weight", "weight", "decoder.head.weight", ""]
)
def test_our_name_knows_no_other(name):
    assert our_name(name, "DeCo") is None


@pytest.mark.parametrize(("file", "kind"), KINDS)
def test_load_understands_published_safetensors_from_their_shapes(
    golden, request, tmp_path, file, kind
):
    path = tmp_path / "published.safetensors"
    save_file(published_weights(golden, file), path)
    model = load(path, device="cpu")
    config = request.getfixturevalue(f"golden_{kind.lower()}").config
    assert model.config == replace(config, image_size=64)  # eight patches
    recorded = load_file(golden / f"{file}.safetensors")
    for i in range(2):
        velocity = model(recorded[f"io{i}.x"], recorded[f"io{i}.t"], recorded[f"io{i}.y"])
        error = (velocity - recorded[f"io{i}.velocity"]).norm()
        assert error <= 1e-5 * recorded[f"io{i}.velocity"].norm()


@pytest.mark.parametrize("preset", PRESETS)
def test_config_from_shapes_finds_every_preset(preset):
    config = PRESETS[preset]
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in build(config).state_dict().items()}
    kind = "DeCo" if isinstance(config, DeCoConfig) else "DiT"
    found = config_from_shapes(shapes, kind)
    # What no shape tells: the image size, and what the last layer predicts.
    assumed = 64 if config.patch_size == 8 else config.image_size
    told = replace(config, predicts="velocity") if kind == "DiT" else config
    assert found == replace(told, class_names=(), image_size=assumed)


ABLATIONS = pytest.mark.parametrize(
    ("decoder_patch", "conditioning"), [(2, "adaln"), (8, "adaln"), (1, "add"), (4, "add")]
)


def ablation(decoder_patch, conditioning):
    config = DeCoConfig(
        image_size=64, patch_size=8, num_classes=3, hidden_size=16, num_heads=2, depth=1,
        decoder_depth=2, decoder_width=4,
        decoder_patch=decoder_patch, decoder_conditioning=conditioning,
    )  # fmt: skip
    return build(config)


@ABLATIONS
@pytest.mark.parametrize("names", ["saved", "ours", "published"])
def test_load_returns_the_same_ablation(tmp_path, decoder_patch, conditioning, names):
    model, path = ablation(decoder_patch, conditioning), tmp_path / "model.safetensors"
    state = model.state_dict()
    if names == "published":
        state = {str(published_name(name, "DeCo")): tensor for name, tensor in state.items()}
    save_file(state, path) if names != "saved" else save(model, path)
    loaded = load(path, device="cpu")
    assert loaded.config == model.config
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())


# The size of the images, which tensors do not tell


def lightning_file(path: Path, *, patch_size=16, **content) -> Path:
    """Write a small model as a Lightning file, with whatever else it is to hold."""
    model = build(
        DeCoConfig(
            patch_size=patch_size, num_classes=2, hidden_size=16, num_heads=2, depth=1,
            decoder_width=4,
        )
    )  # fmt: skip
    state = {f"ema_denoiser.{published_name(n, 'DeCo')}": t for n, t in model.state_dict().items()}
    torch.save({"state_dict": state, **content}, path)
    return path


def load_quietly(*arguments, **named):
    """Load without the warning that a size is assumed; it is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(*arguments, device="cpu", **named)


def test_load_says_that_it_assumes_a_size_whatever_the_name(tmp_path):
    path = lightning_file(tmp_path / "imagenet512_epoch340.ckpt")
    with pytest.warns(UserWarning, match="image_size=256 is assumed; give image_size") as said:
        model = load(path, device="cpu")
    assert path.name in str(said[0].message)
    assert said[0].filename == __file__
    assert (model.config.image_size, model.config.image_size_assumed) == (256, True)


def test_load_takes_the_size_that_is_given(tmp_path):
    path = lightning_file(tmp_path / "ImageNet512.ckpt")
    config = load_quietly(path, image_size=512).config
    assert (config.image_size, config.image_size_assumed) == (512, False)
    smaller = lightning_file(tmp_path / "smaller.ckpt", patch_size=4)
    assert load(smaller, device="cpu").config.image_size == 32  # eight patches
    for wrong, message in [(500, "divisible by patch_size=16, got 500; use 512"), ("512", "whole")]:
        with pytest.raises(ValueError, match=f"image_size must be .*{message}"):
            load(path, device="cpu", image_size=wrong)


def test_load_reads_the_size_in_a_lightning_files_hyper_parameters(tmp_path):
    ring: list[object] = []
    ring.append(ring)
    told: Any
    for told in (
        {"hyper_parameters": {"image_size": 512, "lr": 1e-4, "betas": (0.9, 0.95), "ring": ring}},
        {"hyper_parameters": {"model": {"init_args": {"denoiser": {"img_size": [512, 512]}}}}},
        {"hyper_parameters": {}, "datamodule_hyper_parameters": {"train": [{"resolution": 512}]}},
    ):
        path = lightning_file(tmp_path / "model.ckpt", **told)
        config = load_quietly(path).config
        assert (config.image_size, config.image_size_assumed) == (512, False)
        assert load_quietly(path, image_size=256).config.image_size == 256  # who asks knows better
    for untold in (
        {"train": {"resolution": 512}, "eval": {"resolution": 256}},
        {"resolution": 500},  # no multiple of the patches
        {"resolution": True, "image_size": "512", "img_size": [512.0, -512], "depth": 512},
        512,
    ):
        path = lightning_file(tmp_path / "model.ckpt", hyper_parameters=untold)
        with pytest.warns(UserWarning, match="image_size=256 is assumed"):
            assert load(path, device="cpu").config.image_size_assumed


def test_load_knows_the_size_of_the_published_addresses(monkeypatch, tmp_path):
    path = lightning_file(tmp_path / "blob")
    monkeypatch.setattr("deco_lab.checkpoints.files._download", lambda *asked: path)
    for name, size in (("imagenet512_epoch340", 512), ("imagenet256_epoch800", 256)):
        config = load_quietly(f"hf://zehongma/DeCo/{name}.ckpt").config
        assert (config.image_size, config.image_size_assumed) == (size, False)
    assert load("hf://other/DeCo/imagenet512.ckpt", device="cpu").config.image_size_assumed


def test_load_refuses_another_size_than_a_file_of_ours_says(golden_deco, written):
    assert load_quietly(written, image_size=32).config == golden_deco.config
    with pytest.raises(CheckpointError, match=r"must be 32, as .* says, got 64") as error:
        load(written, image_size=64)
    assert one_sentence(error, written)


def test_save_keeps_that_a_size_was_assumed(tmp_path):
    path = tmp_path / "ours.safetensors"
    with pytest.warns(UserWarning, match="image_size=256 is assumed"):
        model = load(lightning_file(tmp_path / "model.ckpt"), device="cpu")
    save(model, path)
    with pytest.warns(UserWarning, match="image_size=256 is assumed"):
        assert load(path, device="cpu").config.image_size_assumed
    save(load_quietly(path, image_size=512), path)
    assert load_quietly(path).config.image_size == 512


# Lightning files


@pytest.mark.parametrize("ema", [True, False])
def test_load_takes_the_moving_average_of_a_lightning_file_or_the_raw_weights(golden, ema):
    path = golden / "official_layout.ckpt"
    stored = torch.load(path, weights_only=True)["state_dict"]
    model = load(path, device="cpu", ema=ema)
    for name, tensor in model.state_dict().items():
        theirs = published_name(name, "DeCo")
        assert torch.equal(tensor, stored[f"{'ema_' if ema else ''}denoiser.{theirs}"])
    recorded = load_file(golden / "deco_c2i.safetensors")
    velocity = model(recorded["io0.x"], recorded["io0.t"], recorded["io0.y"])
    error = (velocity - recorded["io0.velocity"]).norm() / recorded["io0.velocity"].norm()
    assert (error <= 1e-5) == ema


@pytest.mark.parametrize("kind", ["own", "published", "lightning"])
@pytest.mark.parametrize(
    ("place", "wrapped"),
    [
        ("^", "module._orig_mod."),
        (r"(?<=denoiser\.)", "_orig_mod."),
        (r"(?<=blocks\.\d\.)", "_checkpoint_wrapped_module."),
        (r"\b(?=blocks\.)", "_fsdp_wrapped_module."),
    ],
)
def test_load_sees_past_the_names_of_wrappers(
    golden_deco, published, tmp_path, kind, place, wrapped
):
    state = {"own": golden_deco.state_dict(), "published": published}.get(kind) or {
        f"{network}.{name}": tensor + (network == "denoiser")
        for network in ("denoiser", "ema_denoiser")
        for name, tensor in published.items()
    }
    path = tmp_path / "wrapped.safetensors"  # whatever its name
    torch.save({"state_dict": {re.sub(place, wrapped, n): t for n, t in state.items()}}, path)
    for name, tensor in load(path, device="cpu").state_dict().items():
        assert torch.equal(tensor, golden_deco.state_dict()[name])


# Our own files


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [None, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("fixture", ["golden_deco", "golden_dit"])
def test_save_and_load_return_the_same_model(request, tmp_path, fixture, stored, wanted):
    path = tmp_path / "new" / "model.safetensors"
    model = copy.copy(request.getfixturevalue(fixture))
    model.config = replace(model.config, class_names=tuple("abcdefghij"))
    (tmp_path / "plain").touch()
    save(model, path, dtype=stored, training={"steps": 7})  # the folder is made
    assert {tensor.dtype for tensor in load_file(path).values()} == {stored}
    loaded = load(path, device="cpu", dtype=wanted)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert loaded.config.class_names == model.config.class_names
    assert loaded.trained == checkpoints.read_training(path) == {"steps": 7}
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it
    for name, tensor in loaded.state_dict().items():
        expected = model.state_dict()[name].to(stored).to(wanted or torch.float32)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_load_is_not_bound_to_the_file(golden, tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes((golden / "official_layout.ckpt").read_bytes())
    model = load(path, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_read_training_of_a_file_without_a_record_is_empty(written):
    assert checkpoints.read_training(written) == load(written, device="cpu").trained == {}


def test_save_leaves_the_old_file_when_it_fails(golden_deco, written, monkeypatch):
    before = written.read_bytes()

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(golden_deco, written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("first", [0x80, ord("P")])
def test_load_takes_safetensors_whose_length_looks_like_a_pickle(golden_deco, tmp_path, first):
    path = tmp_path / "model.safetensors"
    for padding in range(0, 256, 8):  # the header's length is a multiple of eight
        save(golden_deco, path, training={"note": "x" * padding})
        if path.read_bytes()[0] == first & ~7:
            break
    assert path.read_bytes()[0] == first & ~7
    assert load(path, device="cpu").config == golden_deco.config


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (1e6, torch.float16)])
def test_save_refuses_weights_that_are_not_finite(written, value, dtype):
    before = written.read_bytes()
    model = load(written, device="cpu")
    model.backbone.patch_embedding.bias[3] = value
    with pytest.raises(CheckpointError, match=r"trunk\.patch_embedding\.bias holds NaN") as error:
        save(model, written, dtype=dtype)
    assert one_sentence(error, written)
    assert written.read_bytes() == before


def test_save_refuses_a_wrapped_model(golden_deco, tmp_path):
    wrapped = torch.nn.Sequential(golden_deco)
    wrapped.config = golden_deco.config
    with pytest.raises(CheckpointError, match="save the model itself"):
        save(wrapped, tmp_path / "model.safetensors")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# Bad files


def without(*names):
    return lambda tensors: [tensors.pop(name) for name in names]


def with_(**tensors):
    """With tensors of these names, in which "__" stands for a dot."""
    return lambda known: known.update({n.replace("__", "."): t for n, t in tensors.items()})


def poisoned(value):
    return lambda tensors: tensors["blocks.2.norm1.weight"].__setitem__(5, value)


def unwrapped(tensors):
    """As torch.compile leaves them, but for one, which is there twice."""
    names = list(tensors)
    tensors.update({f"_orig_mod.{name}": tensors.pop(name) for name in names})
    tensors[names[0]] = tensors[f"_orig_mod.{names[0]}"].clone()


def wrapped_without(tensors):
    unwrapped(tensors)
    without("_orig_mod.s_embedder.proj.bias", next(reversed(tensors)))(tensors)


MODULATION = [f"dec_net.res_blocks.1.adaLN_modulation.1.{last}" for last in ("weight", "bias")]
TIME = [f"t_embedder.mlp.{i}.{last}" for i in (0, 2) for last in ("weight", "bias")]
WEIGHT = "trunk.blocks.0.attention.output.weight"
OUTPUT = r"trunk\.blocks\.0\.attention\.output\.weight must be .*\(64, 64\), got "
NO_MODEL = "no model has the shapes of its tensors"
WRONG_TENSORS = [
    ("own", without("trunk.blocks.1.mlp.gate.weight"), r"lacks trunk\.blocks\.1\.mlp\.gate"),
    ("own", with_(extra=torch.ones(2)), "holds unexpected extra"),
    ("own", with_(**{WEIGHT: torch.ones(64, 63)}), OUTPUT + r".*63\)"),
    ("own", with_(**{WEIGHT: torch.ones(64, 64).int()}), OUTPUT + "torch.int32"),
    *(
        ("published", without(name), f"lacks {name}")
        for name in (
            "blocks.1.mlp.w1.weight", "y_embedder.embedding_table.weight", "s_embedder.proj.weight",
            "blocks.0.attn.q_norm.weight", "x_embedder.embedder.0.weight",
        )
    ),
    ("published", without(*MODULATION), r"lacks dec_net\.res_blocks\.1\.adaLN_modulation"),
    ("published", without(*TIME), r"lacks t_embedder.*, t_emb.*, t_emb.* and 1 more"),
    ("published", poisoned(float("nan")), r"blocks\.2\.norm1\.weight holds NaN"),
    ("published", poisoned(float("inf")), r"blocks\.2\.norm1\.weight holds NaN"),
    ("published", with_(y_embedder__embedding_table__weight=torch.ones(11)), NO_MODEL),
    ("published", with_(y_embedder__embedding_table__weight=torch.ones(1, 64)), NO_MODEL),
    ("published", with_(s_embedder__proj__weight=torch.ones(64, 2)), NO_MODEL),
    ("published", with_(blocks__0__attn__q_norm__weight=torch.ones(0)), NO_MODEL),
    ("published", with_(blocks__0__attn__q_norm__weight=torch.ones(65)), NO_MODEL),
    ("published", with_(x_embedder__embedder__0__weight=torch.ones(16, 60)), "at least 1, got 0"),
    ("published", with_(x_embedder__embedder__0__weight=torch.ones(16, 91)), "patch_size=8, got 3"),
    ("published", with_(x_embedder__embedder__0__weight=torch.ones(16, 68)), r"got .*\(16, 68\)"),
    ("published", with_(y_embedder__proj__weight=torch.ones(64, 48)), "conditioned on text"),
    ("published", unwrapped, "holds .* twice, wrapped and not"),
    ("published", wrapped_without, r"lacks s_embedder\.proj\.bias"),
    ("lightning", with_(vae__weight=torch.ones(1)), r"holds unexpected vae\.weight"),
    ("raw", lambda tensors: None, r"no ema_denoiser\.\* tensors.*ema=False"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "message"), WRONG_TENSORS)
def test_load_names_the_tensor_that_is_wrong(
    golden_deco, published, tmp_path, kind, change, message
):
    prefix = {"lightning": "ema_denoiser.", "raw": "denoiser."}.get(kind, "")
    tensors = golden_deco.state_dict() if kind == "own" else published
    tensors = {prefix + name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    path, metadata = tmp_path / "model.safetensors", None
    if kind == "own":
        metadata = {"deco_lab_config": json.dumps(config_to_dict(golden_deco.config))}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert one_sentence(error, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "save it again"),
        ("[]", "save it again"),
        ("{}", "save it again"),
        ('{"model": "DeCo", "depth": 3}', "save it again"),
        ({"depth": 2}, r"holds unexpected trunk\.blocks\.2\."),
    ],
)
def test_load_refuses_a_config_that_is_not_the_tensors(golden_deco, tmp_path, text, message):
    if isinstance(text, dict):
        text = json.dumps(config_to_dict(golden_deco.config) | text)
    path = tmp_path / "model.safetensors"
    save_file(golden_deco.state_dict(), path, metadata={"deco_lab_config": text})
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert one_sentence(error, path)


def archive(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def a_zip():
    with zipfile.ZipFile(file := io.BytesIO(), "w") as opened:
        opened.writestr("readme.txt", "hello")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is cut short"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a safetensors file nor a PyTorch checkpoint"),
        (b"<!DOCTYPE html><html>not found</html>", "neither a safetensors file nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (bytes([255]) * 8 + b"{" + bytes(50), "cut short or damaged"),
        (b"\x02" + bytes(7) + b"{}", "holds no tensor of a DeCo or DiT"),
        (a_zip(), "is not a PyTorch checkpoint"),
        (archive({"state_dict": 3}), "holds no state_dict of tensors"),
        (archive({"state_dict": {"a": "b"}}), "holds no state_dict of tensors"),
        (archive([1, 2]), "holds no state_dict of tensors"),
        (archive({}), "holds no tensor of"),
        (None, "is a folder"),
    ],
)
def test_load_refuses_what_is_no_file_of_a_model(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert one_sentence(error, path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("file", ["official_layout.ckpt", "deco_c2i.safetensors"])
def test_load_refuses_a_truncated_file(golden, tmp_path, file, share):
    whole, path = (golden / file).read_bytes(), tmp_path / file
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="cut short") as error:
        load(path)
    assert one_sentence(error, path)


def test_load_refuses_damaged_archives_with_one_sentence(tmp_path):
    torch.save({"state_dict": {"denoiser.a": torch.ones(3)}}, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    path = tmp_path / "damaged.ckpt"
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in torch.randint(4, len(whole), (3,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            load(path)
        assert one_sentence(error, path)


class Trap:
    """A pickle of it makes a folder when it is read with code allowed."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("layout", ["archive", "pickle", "legacy"])
def test_load_never_runs_pickled_code(published, tmp_path, layout):
    path, sprung = tmp_path / "trap.ckpt", tmp_path / "sprung"
    content = {"state_dict": published, "callbacks": Trap(sprung)}
    if layout == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "archive")
    with pytest.raises(CheckpointError, match="is refused") as error:
        load(path)
    assert one_sentence(error, path)
    assert not sprung.exists()
    if layout == "archive":
        assert "posix.mkdir" in str(error.value) or "nt.mkdir" in str(error.value)
        torch.load(path, weights_only=False)  # the trap is live: unguarded, it springs
        assert sprung.exists()


# Names and places


def test_load_of_an_unknown_name_lists_the_choices():
    with pytest.raises(CheckpointError, match=r"bundled model \(.*tiny-fm.* here\).*'tinny'"):
        load("tinny")
    with pytest.raises(FileNotFoundError, match=r"runs/mine\.safetensors does not exist"):
        load("runs/mine.safetensors")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalEntryNotFoundError("offline"), "Hugging Face cannot be reached"),
        (errors.HfHubHTTPError.__bases__[0]("timed out"), r"could not be downloaded \(timed out\)"),
        (errors.OfflineModeIsEnabled("offline"), "Hugging Face cannot be reached"),
        (errors.EntryNotFoundError("404"), r"someone/something holds no file a/model\.ckpt"),
        (errors.HFValidationError("bad name"), r"could not be downloaded \(bad name\)"),
        (OSError("disk\nfull"), r"could not be downloaded \(disk\)"),
        (ImportError("Using SOCKS proxy"), r"could not be downloaded \(Using SOCKS proxy\)"),
        (ValueError("Unknown scheme"), r"could not be downloaded \(Unknown scheme\)"),
    ],
)
@pytest.mark.parametrize("begun", [False, True], ids=["asked", "begun"])
def test_load_from_the_hub_says_what_went_wrong(monkeypatch, error, message, begun):
    def fails(repo_id, filename, dry_run=False):
        if begun and dry_run:
            return SimpleNamespace(file_size=1)
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(CheckpointError, match=message) as caught:
        load("hf://someone/something/a/model.ckpt")
    assert one_sentence(caught, "model.ckpt")


def test_load_from_the_hub_reads_what_it_downloads(monkeypatch, golden, golden_deco):
    asked = []

    def download(dry_run=False, **what):
        asked.append(what)
        return SimpleNamespace(file_size=1) if dry_run else str(golden / "official_layout.ckpt")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = load("hf://zehongma/DeCo/folder/model.ckpt", device="cpu")
    assert asked == [{"repo_id": "zehongma/DeCo", "filename": "folder/model.ckpt"}] * 2
    assert model.config.depth == golden_deco.config.depth


def test_load_from_the_hub_begins_no_download_that_the_disk_cannot_hold(monkeypatch, tmp_path):
    def download(repo_id, filename, dry_run=False):
        assert dry_run, "the download began"
        return SimpleNamespace(file_size=2**60, will_download=True)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "not yet"))
    with pytest.raises(CheckpointError, match=r"1,073,741,824\.0 GiB, and .* GiB free") as caught:
        load("hf://someone/something/model.ckpt")
    assert one_sentence(caught, "model.ckpt")


def test_load_from_the_hub_gives_up_in_time_and_takes_what_is_in_the_cache(monkeypatch, golden):
    cached = [str(golden / "official_layout.ckpt")]

    def download(repo_id, filename, dry_run=False, local_files_only=False):
        if not local_files_only:
            time.sleep(5)
        elif not cached:
            raise errors.LocalEntryNotFoundError("offline")
        return SimpleNamespace(file_size=1, will_download=False) if dry_run else cached[0]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("deco_lab.checkpoints.files.PATIENCE", 0.1)
    started = time.monotonic()
    load("hf://someone/something/model.ckpt", device="cpu")
    cached.clear()
    with pytest.raises(CheckpointError, match="Hugging Face cannot be reached") as caught:
        load("hf://someone/something/model.ckpt")
    assert one_sentence(caught, "model.ckpt")
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("address", ["hf://", "hf://owner", "hf://owner/repo", "hf://owner/repo/"])
def test_load_from_the_hub_needs_a_whole_address(address):
    with pytest.raises(CheckpointError, match="must read hf://owner/repo/file"):
        load(address)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.complex64, "float32"]
)
def test_load_and_save_refuse_dtypes_that_models_do_not_compute_in(written, golden_deco, dtype):
    match = rf"dtype must be torch\.float32, .*, got {re.escape(str(dtype))}"
    with pytest.raises(ValueError, match=match):
        load(written, dtype=dtype)
    with pytest.raises(ValueError, match=match):
        save(golden_deco, written, dtype=dtype)


def test_choose_device_prefers_cuda_then_mps(monkeypatch):
    for cuda, mps, expected in ((0, False, "cpu"), (0, True, "mps"), (2, True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert checkpoints.choose_device() == torch.device(expected)
    assert checkpoints.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="of cuda, cuda:0, cuda:1, mps, cpu here, got 'cuda:2'"):
        checkpoints.choose_device("cuda:2")
