"""What a user should know about how the encoders read an observation space."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym

from learner.images import channel_count_and_sides, has_image_shape, is_image
from learner.networks import NatureCNN
from learner.spaces import Leaf, num_choices, observed_leaves

_MANY_CHOICES = 10_000
_SMALL_IMAGE = 16  # boxes with smaller sides are grids rather than pictures
_CHANNELS = (1, 3, 4)  # of small images; without one of these, three dimensions are likely something else


def observation_notes(space: gym.Space[Any], batch_size: int) -> list[str]:
    """One line for each part of a space that is read in a way that users may not expect.

    Args:
        space: of the observations, supported by `learner.encoders.make_encoder`.
        batch_size: steps per update, for the memory that one-hot vectors take.
    """
    leaves = observed_leaves(space)
    notes = [_large_one_hot(leaf, batch_size) for leaf in leaves]
    notes += [_image_as_numbers(leaf) for leaf in leaves]
    return [note for note in notes if note is not None]


def _large_one_hot(leaf: Leaf, batch_size: int) -> str | None:
    choices = num_choices(leaf.space)
    if choices < _MANY_CHOICES:
        return None
    megabytes = 4 * choices * batch_size / 1e6
    return (
        f"{_name(leaf)} has {choices:,} choices: one-hot vectors of that length take {megabytes:,.0f} MB per "
        "batch and make every step slow; a custom encoder (--encoder) with an embedding is faster"
    )


def _image_as_numbers(leaf: Leaf) -> str | None:
    if not isinstance(leaf.space, gym.spaces.Box) or is_image(leaf.space):
        return None
    if has_image_shape(leaf.shape):
        wanted = "dtype uint8, or the bounds [0, 1] or [0, 255]"
    elif _is_small_image(leaf.shape):
        wanted = f"at least {NatureCNN.MIN_SIZE} pixels on each side"
    else:
        return None
    return (
        f"{_name(leaf)} of shape {leaf.shape} is read as {math.prod(leaf.shape):,} numbers by an MLP; "
        f"if it is an image: the CNN needs {wanted}"
    )


def _is_small_image(shape: tuple[int, ...]) -> bool:
    return (
        len(shape) == 3
        and has_image_shape(shape, _SMALL_IMAGE)
        and channel_count_and_sides(shape)[0] in _CHANNELS
    )


def _name(leaf: Leaf) -> str:
    return "observation" + "".join(f"[{key!r}]" for key in leaf.path)
