"""Small trainings that the tests of training share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab.config import DeCoConfig, DiTConfig, ModelConfig
from deco_lab.data import CropSampler
from deco_lab.training.recipe import TrainingConfig
from deco_lab.training.trainer import Trainer

SHAPE: dict[str, Any] = {
    "image_size": 16, "patch_size": 8, "num_classes": 2, "hidden_size": 32, "num_heads": 2,
    "depth": 2,
}  # fmt: skip
TINY = DeCoConfig(**SHAPE, decoder_depth=1, decoder_width=8)
TINY_DIT = DiTConfig(**SHAPE)
RECIPE = TrainingConfig(
    steps=12, batch_size=4, warmup_steps=2, precision="float32", label_dropout=0.5
)
OPTIONS = [
    "--image-size", "16", "--patch-size", "8", "--hidden-size", "32", "--num-heads", "2",
    "--depth", "2", "--decoder-depth", "1", "--decoder-width", "8", "--no-compile",
    "--device", "cpu",
]  # fmt: skip
"""A command line's for `TINY`."""

_ROWS, _COLUMNS = np.mgrid[:50, :60]
CROPS = CropSampler(
    [
        np.stack([3 * _ROWS, 4 * _COLUMNS, 100 * np.ones_like(_ROWS)], axis=-1).astype(np.uint8),
        np.full((50, 60, 3), 230, np.uint8),
    ],
    16,
    num_scales=4,
)


def trained(config: ModelConfig = TINY, recipe: TrainingConfig = RECIPE, steps: int = 0) -> Trainer:
    """Return a trainer after so many steps."""
    trainer = Trainer(config, recipe, CROPS)
    for _ in range(steps):
        trainer.train_step()
    return trainer


def save_encoder(path: Path, registers: int = 0) -> str:
    """Write a tiny random DINOv2 to a folder, and return its name."""
    transformers: Any = pytest.importorskip(
        "transformers", reason="needs transformers; pip install transformers"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(
            image_size=56, num_register_tokens=registers, **shape
        )
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=56, **shape))
    model.save_pretrained(path)
    return str(path)
