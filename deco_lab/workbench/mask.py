"""A mask as text: where a picture is drawn anew, short enough for a link.

    64.gQ8wCI...      the side in pixels, then how many pixels stay, are painted, stay, and so on,
                      row by row from the top left

A number is written in letters of base64url, each five bits, the lowest first; the sixth says that
more follow. A mask has one text, so that equal masks are equal settings: only the first number may
be zero, and none has letters to spare.
"""

import re

import numpy as np
import torch
from torch import Tensor

from deco_lab.setting import RuleError, said

MAX_TEXT = 5000
"""Most characters, so that links stay links and a picture can remember eight runs. Any mask of
64 x 64 has fewer; one of 1024 x 1024 may be entered and left once by each row."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TEXT = re.compile(r"([1-9][0-9]{0,3})\.([A-Za-z0-9_-]+)", re.ASCII)
_MORE = 32  # the bit that says that the number goes on


def mask_text(painted: Tensor) -> str:
    """Return a mask as text.

    Parameters
    ----------
    painted : Tensor
        (S, S), bool: what is drawn anew. All else stays as it is.

    Returns
    -------
    str
        As `Settings.mask` takes it, "" where nothing is painted.

    Raises
    ------
    ValueError
        Where it is no square of bool.
    """
    if painted.dtype != torch.bool or painted.ndim != 2 or painted.shape[0] != painted.shape[1]:
        raise ValueError(
            f"painted must be bool and square, (S, S), got {tuple(painted.shape)} of "
            f"{painted.dtype}; compare a mask with a number"
        )
    if not painted.any():
        return ""
    flat = painted.flatten().cpu().numpy()
    ends = [*(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    runs = np.diff([0, *ends]).tolist()
    return f"{len(painted)}.{''.join(map(_letters, [0, *runs] if flat[0] else runs))}"


def keep_of(text: str) -> Tensor:
    """Return what stays, (S, S) bool, as the `keep` of `deco_lab.sampling.Start`.

    Raises
    ------
    ValueError
        As `check_mask`.
    """
    side, runs = check_mask(text)
    kept = torch.arange(len(runs)) % 2 == 0
    return kept.repeat_interleave(torch.tensor(runs)).reshape(side, side)


def check_mask(text: object) -> tuple[int, list[int]]:
    """Return the side and the runs of pixels that stay and are painted, in turn.

    Raises
    ------
    ValueError
        Where it is not the text of a mask that paints something.
    """
    if isinstance(text, str) and len(text) > MAX_TEXT:
        raise RuleError(
            "mask",
            f"must have at most {MAX_TEXT} characters, got {len(text)}; paint fewer or simpler "
            "shapes",
        )
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    runs = _numbers(found[2]) if found else None
    if found is None or runs is None:
        raise RuleError(
            "mask",
            "must be the text of a painted mask, its side and the lengths of its runs in letters "
            f"of base64url, got {said(text)}; paint it again, or leave it empty",
        )
    side = int(found[1])
    if sum(runs) != side**2:
        raise RuleError(
            "mask",
            f"must say {side**2} pixels, {side} x {side}, got {sum(runs)}; paint it again, or "
            "leave it empty",
        )
    if len(runs) == 1:
        raise RuleError("mask", "must paint something, got nothing; leave it empty to draw all")
    return side, runs


def _letters(number: int) -> str:
    letters = ""
    while number >= _MORE:
        letters += _LETTERS[number % _MORE + _MORE]
        number //= _MORE
    return letters + _LETTERS[number]


def _numbers(letters: str) -> list[int] | None:
    """Return the numbers that letters say; None where they are cut short or not as short."""
    numbers, number, place = [], 0, 0
    for letter in letters:
        value = _LETTERS.index(letter)
        number += (value % _MORE) << place
        place += 5
        if value >= _MORE and place < 30:
            continue
        if value >= _MORE or (value == 0 and (numbers or place > 5)):
            return None  # without an end, a zero after the first, or a letter to spare
        numbers.append(number)
        number, place = 0, 0
    return numbers if place == 0 else None
