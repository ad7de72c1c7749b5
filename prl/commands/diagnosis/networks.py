"""What the networks make of an env's spaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from learner.encoders import CompositeEncoder, Encoder, ImageEncoder, OneHotEncoder, VectorEncoder
from learner.observation_notes import observation_notes
from learner.policy import ActorCritic
from learner.settings import ConfigError
from learner.spaces import Leaf, leaves, observed_leaves
from prl.config.train_config import TrainConfig
from prl.run.build import build_policy
from workers.envs import EnvFactory
from workers.errors import EnvError, one_line
from workers.exam_checks import counted
from workers.findings import Finding, error, note, ok

_SHOWN = 4  # parts of a composite space


def network_findings(factory: EnvFactory, config: TrainConfig) -> Iterator[Finding]:
    """Encoder, head and masks, and what a run would say about the spaces."""
    try:
        policy = build_policy(factory, config)
    except (ConfigError, EnvError) as problem:
        yield error("networks", one_line(problem))
        return
    yield ok("observations", f"{_shape(factory.observation_space)}: {_read_by(policy, config)}")
    masks = "" if policy.masks.leaf is None else "; masks rule illegal ones out"
    yield ok("actions", f"{_shape(factory.action_space)}: {_drawn(factory.action_space)}{masks}")
    if factory.ignored_observations:
        yield note("left out", f"holds no numbers: {', '.join(factory.ignored_observations)}")
    lines = [*factory.notes]
    if config.encoder is None:
        lines += observation_notes(factory.observation_space, config.batch_size)
    yield from (note("spaces", line) for line in lines)


def _shape(space: gym.Space[Any]) -> str:
    kind = type(space).__name__
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return f"{kind} of {len(space.spaces)}"
    if isinstance(space, gym.spaces.Discrete):
        return f"{kind}({space.n})"
    return f"{kind}{space.shape} of {space.dtype}"


def _read_by(policy: ActorCritic, config: TrainConfig) -> str:
    encoder = policy.encoder
    if isinstance(encoder, CompositeEncoder):
        found = observed_leaves(policy.observation_space)
        pairs = zip(found, encoder.parts, strict=True)
        text = _listed([f"{_name(leaf)} {_read(part)}" for leaf, part in pairs])  # type: ignore[arg-type]
    else:
        text = _read(encoder)
    if encoder.needs_hidden_layers and config.hidden_sizes:
        sizes = "-".join(str(size) for size in config.hidden_sizes)
        text += f"; actor and critic with {sizes} hidden units ({config.activation})"
    return text


def _read(encoder: Encoder) -> str:
    if isinstance(encoder, VectorEncoder):
        normalized = "" if encoder.normalizer is None else ", normalised by running statistics"
        return f"{counted(encoder.features, 'number')}{normalized}"
    if isinstance(encoder, OneHotEncoder):
        return f"one-hot, {encoder.features:,} choices"
    if isinstance(encoder, ImageEncoder):
        return f"an image, by a NatureCNN with {encoder.features} features that actor and critic share"
    return f"{encoder.features:,} features of {type(getattr(encoder, 'module', encoder)).__name__}"


def _drawn(space: gym.Space[Any]) -> str:
    return _listed([f"{_name(leaf)} {_drawn_leaf(leaf.space)}".strip() for leaf in leaves(space)])


def _drawn_leaf(space: gym.Space[Any]) -> str:
    if isinstance(space, gym.spaces.Discrete):
        return f"categorical, {space.n:,} choices"
    if isinstance(space, gym.spaces.MultiDiscrete):
        return f"categorical, {space.nvec.size} choices of {space.nvec.min()} to {space.nvec.max()} each"
    if isinstance(space, gym.spaces.MultiBinary):
        return f"{int(np.prod(space.shape))} bits, each drawn by itself"
    if isinstance(space, gym.spaces.Box):
        bounded = int((np.isfinite(space.low) & np.isfinite(space.high)).sum())
        squashed = f", {bounded} squashed into bounds" if bounded else ""
        return f"Gaussian, {counted(int(np.prod(space.shape)), 'number')}{squashed}"
    return type(space).__name__


def _name(leaf: Leaf) -> str:
    return "".join(f"[{key!r}]" for key in leaf.path)


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more
