"""Runs that are worth watching first: each a sentence and the settings of one or two runs."""

from dataclasses import replace
from typing import NamedTuple

from deco_lab.workbench.library import ModelFacts
from deco_lab.workbench.settings import Settings


class Example(NamedTuple):
    """What a button starts."""

    name: str
    """A few words."""
    help: str
    """What one will see, in a sentence."""
    runs: tuple[Settings, ...]
    """Drawn one after the other; all but the last are pinned to be compared with the next."""


FOUR_CLASSES = (2, 3, 10, 12)
"""Of the bundled photographs: a cat, a cup, a motorcycle, a rocket."""

_ONE = Settings(class_ids=(2,), num_images=1, guidance_scale=1.0)
_FOUR = Settings(class_ids=FOUR_CLASSES, guidance_scale=2.0)

EXAMPLES = (
    Example(
        "Watch it settle",
        "One image in 100 small steps, unguided: low bands settle first, fine detail last.",
        (replace(_ONE, num_steps=100),),
    ),
    Example(
        "Who draws what",
        "One image, unguided: at t = 0.5 the condition draws most of every band, at t = 0.9 the "
        "pixels most of the finest.",
        (_ONE,),
    ),
    Example(
        "Guidance too strong",
        "The same noise with scale 2, pinned, and then with 12: what is below 1/16 stays as "
        "strong, bands above 1/8 get more than three times the energy they had.",
        (_FOUR, replace(_FOUR, guidance_scale=12.0)),
    ),
    Example(
        "Let the DiT rest",
        "A DiT pass at each step, pinned, and then at every fourth: of each band above 1/16 more "
        "than three times as much changes as of the one below.",
        (_FOUR, replace(_FOUR, condition_reuse=4)),
    ),
    Example(
        "Baseline against DeCo",
        "The single DiT without a pixel decoder, pinned, and then DeCo from the same noise.",
        (replace(_FOUR, model="tiny-dit"), _FOUR),
    ),
)


def opening_run(model: ModelFacts) -> Settings:
    """Return the run that the page opens with: four images, of four classes if there are."""
    known = max(FOUR_CLASSES) < model.num_classes
    labels = FOUR_CLASSES if known else tuple(range(min(4, model.num_classes)))
    return Settings(model=model.name, class_ids=labels, guidance_scale=2.0)
