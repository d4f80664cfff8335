"""Runs that are worth watching first: each a sentence and the settings of one or two runs."""

from typing import NamedTuple

from deco_lab.workbench.settings import Settings


class Preset(NamedTuple):
    """What a button starts."""

    name: str
    """A few words."""
    help: str
    """What one will see, in a sentence."""
    runs: tuple[Settings, ...]
    """Drawn one after the other; all but the last are pinned to be compared with the next."""


_CLASSES = (2, 3, 10, 12)  # chelsea, coffee, motorcycle_left, rocket

PRESETS = (
    Preset(
        "Watch it settle",
        "One image in 100 small steps: low frequencies settle first, fine detail last.",
        (Settings(class_ids=(2,), num_images=1, num_steps=100),),
    ),
    Preset(
        "Guidance too strong",
        "The same noise with scale 3, pinned, and then with 12: contrast and low bands overshoot.",
        (Settings(class_ids=_CLASSES), Settings(class_ids=_CLASSES, guidance_scale=12.0)),
    ),
    Preset(
        "Condition alone",
        "The full model, pinned, and then without the Shapley value of the pixels in the velocity.",
        (Settings(class_ids=_CLASSES), Settings(class_ids=_CLASSES, decoder_gains=(0.0,) * 4)),
    ),
    Preset(
        "Let the DiT rest",
        "A DiT pass at each step, pinned, and then at every fourth: see which bands it costs.",
        (Settings(class_ids=_CLASSES), Settings(class_ids=_CLASSES, condition_reuse=4)),
    ),
    Preset(
        "Baseline against DeCo",
        "The single DiT without a pixel decoder, pinned, and then DeCo from the same noise.",
        (
            Settings(class_ids=_CLASSES, model="tiny-dit"),
            Settings(class_ids=_CLASSES, model="tiny"),
        ),
    ),
)
