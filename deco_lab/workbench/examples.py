"""Runs that are worth watching first: each a sentence and the settings of one or two runs."""

from dataclasses import replace
from typing import NamedTuple

from deco_lab.workbench.settings import Settings


class Example(NamedTuple):
    """What a button starts."""

    name: str
    """A few words."""
    help: str
    """What one will see, in a sentence."""
    runs: tuple[Settings, ...]
    """Drawn one after the other; all but the last are pinned to be compared with the next."""


_FOUR = Settings(class_ids=(2, 3, 10, 12))  # chelsea, coffee, motorcycle_left, rocket

EXAMPLES = (
    Example(
        "Watch it settle",
        "One image in 100 small steps: low frequencies settle first, fine detail last.",
        (Settings(class_ids=(2,), num_images=1, num_steps=100),),
    ),
    Example(
        "Guidance too strong",
        "The same noise with scale 3, pinned, and then with 12: contrast and low bands overshoot.",
        (_FOUR, replace(_FOUR, guidance_scale=12.0)),
    ),
    Example(
        "Condition only",
        "The full model, pinned, and then without the Shapley value of the pixels in the velocity.",
        (_FOUR, replace(_FOUR, decoder_gains=(0.0,) * 4)),
    ),
    Example(
        "Let the DiT rest",
        "A DiT pass at each step, pinned, and then at every fourth: see which bands it costs.",
        (_FOUR, replace(_FOUR, condition_reuse=4)),
    ),
    Example(
        "Baseline against DeCo",
        "The single DiT without a pixel decoder, pinned, and then DeCo from the same noise.",
        (replace(_FOUR, model="tiny-dit"), _FOUR),
    ),
)
