"""The photographs that scientific Python carries, a class each: what the bundled models are of.

References
----------
[1] van der Walt et al., "scikit-image: image processing in Python", PeerJ 2:e453, 2014; its wheel
    carries fourteen of the bundled photographs, those of scikit-learn (china and flower, CC BY 2.0)
    and matplotlib (grace_hopper, public domain) the other three.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data.crops import CropSampler


def load_photograph(name: str) -> NDArray[np.uint8]:
    """Return one of the bundled photographs by name, (H, W, 3), uint8; grey ones repeated.

    Raises
    ------
    ValueError
        For a name that is not one of the bundled photographs.
    """
    from matplotlib import cbook
    from skimage import color, data
    from sklearn.datasets import load_sample_image

    if name not in PHOTOGRAPHS:
        raise ValueError(f"photograph must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    if name == "motorcycle_left":
        picture = data.stereo_motorcycle()[0]
    elif name in ("china", "flower"):
        picture = load_sample_image(f"{name}.jpg")
    elif name == "grace_hopper":
        picture = np.array(Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    else:
        picture = getattr(data, "immunohistochemistry" if name == "ihc" else name)()
    return color.gray2rgb(picture) if picture.ndim == 2 else picture


def bundled_crops(image_size: int = 64, device: torch.device | str = "cpu") -> CropSampler:
    """Return the sampler over the seventeen photographs, in the bundled label order."""
    photographs = [load_photograph(name) for name in PHOTOGRAPHS]
    return CropSampler(photographs, image_size, class_names=PHOTOGRAPHS, device=device)
