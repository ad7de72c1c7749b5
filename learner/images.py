"""Which boxes are images, and where their pixels lie."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from learner.networks import NatureCNN


def is_image(space: gym.spaces.Box) -> bool:
    """Whether the NatureCNN reads a Box: its shape and its values are those of an image.

    Bytes are always pixels; other dtypes are if every number is in [0, 1], or every number in [0, 255].
    """
    return has_image_shape(space.shape) and has_pixel_values(space)


def has_image_shape(shape: tuple[int, ...], min_size: int = NatureCNN.MIN_SIZE) -> bool:
    """Whether there are two to four dimensions, [H, W], with channels, or stacked, and H, W >= min_size."""
    return 2 <= len(shape) <= 4 and min(channel_count_and_sides(shape)[1:]) >= min_size


def has_pixel_values(space: gym.spaces.Box) -> bool:
    """Whether the dtype or the bounds are those of pixels."""
    if space.dtype == np.uint8:
        return True
    return not space.low.any() and any(bool((space.high == top).all()) for top in (1, 255))


def channel_count_and_sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """C, H and W of images of a shape that `channels_first` takes."""
    # A tensor on the meta device has a shape and no data.
    channels, height, width = channels_first(shape)(torch.empty(1, *shape, device="meta")).shape[1:]
    return channels, height, width


def channels_first(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A function that brings images [S, *shape] into the form [S, C, H, W].

    Args:
        shape: [H, W]; [H, W, C] or [C, H, W], the channels being the shorter end; or one of these stacked,
            [K, ...].
    """
    if len(shape) == 2:
        return lambda images: images.unsqueeze(1)
    if len(shape) == 3:
        if shape[2] < shape[0]:
            return lambda images: images.permute(0, 3, 1, 2)
        return lambda images: images
    last_is_channels = shape[3] < shape[1]

    def flattened(images: Tensor) -> Tensor:
        if last_is_channels:
            images = images.permute(0, 1, 4, 2, 3)
        return images.flatten(start_dim=1, end_dim=2)

    return flattened
