"""The networks of a policy: tensors in, tensors out. `learner.actor` acts with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy.typing as npt
import torch
from torch import Tensor, nn

from learner.composite_head import make_head
from learner.encoders import CustomEncoder, Encoder, make_encoder
from learner.forward_only import ForwardOnly
from learner.masks import make_masks
from learner.networks import ACTIVATIONS, mlp
from learner.normalize import ObservationNormalizer

Array = npt.NDArray[Any]

_CHUNK_BYTES = 16 << 20  # of observations per forward pass where no gradient is needed: bounds the memory


class ActorCritic(nn.Module):
    """An actor and a critic for any observation and action space.

    Vectors go through separate networks; images through a NatureCNN that both share (Huang et al., "The 37
    implementation details of PPO", detail 13); Dict and Tuple through one encoder per leaf. A Dict
    observation with the key "action_mask" makes the masked actions impossible.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.
        action_space: Discrete, Box of floats, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.
        hidden_sizes: of actor and critic, behind the encoder; images have no hidden layers there.
        seed: of the initial weights.
        activation: "tanh" or "relu", between the layers of actor and critic.
        log_std_init: initial log standard deviation of continuous actions.
        normalize_obs: numbers in Box observations go through a running normaliser, part of this model.
        encoder: a custom module: observations, [G, *O] or a dict or tuple of such, to features
            f32[G, F]. Actor and critic share it.

    Raises:
        ValueError: a space is not supported, or the encoder does not fit.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
        seed: int = 0,
        *,
        activation: str = "tanh",
        log_std_init: float = 0.0,
        normalize_obs: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be {' or '.join(ACTIVATIONS)}, got {activation!r}")
        if encoder is not None and normalize_obs:
            raise ValueError("normalize_obs does not reach a custom encoder: normalise inside it")
        generator = torch.Generator().manual_seed(seed)
        self.observation_space = observation_space
        self.action_space = action_space
        self.head = make_head(action_space, log_std_init=log_std_init)
        self.masks = make_masks(observation_space, self.head.num_outputs if self.head.maskable else 0)
        self.encoder: Encoder
        if encoder is not None:
            self.encoder = CustomEncoder(observation_space, encoder)
        else:
            normalizer = ObservationNormalizer if normalize_obs else None
            self.encoder = make_encoder(observation_space, generator, normalizer)
        sizes = [self.encoder.features, *(hidden_sizes if self.encoder.needs_hidden_layers else ())]
        self.actor = mlp([*sizes, self.head.num_outputs], 0.01, generator, activation)
        self.critic = mlp([*sizes, 1], 1.0, generator, activation)

    @property
    def device(self) -> torch.device:
        return next(self.actor.parameters()).device

    def preprocess(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What of the networks has no weights, and can be done once for a whole batch.

        Args:
            rows: [S, *O].

        Returns:
            Inputs of the networks [S, ...], and action masks bool[S, K]; bool[S, 0] if the space has none.
        """
        return self.encoder.preprocess(rows), self.masks.read(rows)

    def outputs_and_values(self, inputs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's outputs f32[S, K] and values f32[S], for what `preprocess` returns."""
        features = self.encoder(inputs)
        values: Tensor = self.critic(features).squeeze(1)
        return self.masks.apply(self.actor(features), masks), values

    def outputs(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """The actor's outputs f32[S, K], for what `preprocess` returns."""
        return self.masks.apply(self.actor(self.encoder(inputs)), masks)

    def values(self, rows: Tensor) -> Tensor:
        """V(obs), f32[S], for rows [S, *O]."""
        values: Tensor = self.critic(self.encoder(self.encoder.preprocess(rows))).squeeze(1)
        return values

    @torch.no_grad()
    def values_without_grad(self, rows: Tensor) -> Tensor:
        """V(obs), f32[S], for rows [S, *O], which may be none; chunk by chunk, which bounds the memory."""
        features = (self.encoder(self.encoder.preprocess(chunk)) for chunk in _chunks(rows))
        critic = ForwardOnly(self.critic)
        return torch.cat([critic(chunk).squeeze(1) for chunk in features])

    @torch.no_grad()
    def evaluate_actions(self, inputs: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of a whole batch with the present weights, without gradients.

        Args:
            inputs, masks: as `preprocess` returns them.
            actions: [S, *A].

        Returns:
            log pi(a|s) f32[S] and V(s) f32[S].
        """
        actor, critic = ForwardOnly(self.actor), ForwardOnly(self.critic)
        log_probs, values = [], []
        size = _rows_per_chunk(inputs)
        for chunk in zip(inputs.split(size), masks.split(size), actions.split(size), strict=True):
            features = self.encoder(chunk[0])
            outputs = self.masks.apply(actor(features), chunk[1])
            log_probs.append(self.head.log_prob(outputs, chunk[2]))
            values.append(critic(features).squeeze(1))
        return torch.cat(log_probs), torch.cat(values)

    @torch.no_grad()
    def update_statistics(self, obs: Array) -> None:
        """Count observations [S, *O] in the running statistics of the normalisers, if there are any."""
        for rows in _chunks(torch.as_tensor(obs, device=self.device)):
            self.encoder.update_statistics(rows)

    @property
    def normalizes(self) -> bool:
        """Whether there are running statistics of observations."""
        return any(isinstance(module, ObservationNormalizer) for module in self.encoder.modules())


def _rows_per_chunk(rows: Tensor) -> int:
    # The same number for the same space, whatever the batch: sums may depend on it.
    return max(256, min(16384, _CHUNK_BYTES // (4 * max(1, rows[:1].numel()))))


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    chunks: Sequence[Tensor] = rows.split(_rows_per_chunk(rows))
    return chunks
