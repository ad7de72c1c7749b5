"""The policy: an encoder, an actor and a critic, and the head that makes actions of the actor's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from learner.composite_head import make_head
from learner.encoders import CustomEncoder, Encoder, make_encoder
from learner.masks import mask_outputs
from learner.networks import ACTIVATIONS, mlp
from learner.normalize import ObservationNormalizer
from learner.spaces import MASK_KEY, leaves

Array = npt.NDArray[Any]

_CHUNK_BYTES = 16 << 20  # of observations per forward pass where no gradient is needed: bounds the memory


class NoLegalAction(ValueError):
    """An env's action mask allows nothing.

    Args:
        rows: i64, of the batch; or the envs themselves.
        what: they are.
    """

    def __init__(self, rows: npt.NDArray[np.int64], what: str = "rows") -> None:
        self.rows = rows
        which = f"{what} {', '.join(map(str, rows.tolist()))}"
        super().__init__(f"{which}: the action mask allows no action, but the episode is not over")


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
        encoder: a module of one's own: observations, [G, *O] or a dict or tuple of such, to features
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
            raise ValueError("normalize_obs does not reach an encoder of one's own: normalise inside it")
        generator = torch.Generator().manual_seed(seed)
        self.observation_space = observation_space
        self.action_space = action_space
        self.head = make_head(action_space, log_std_init=log_std_init)
        self._mask = _mask_reader(observation_space, self.head.num_outputs if self.head.maskable else 0)
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

    def preprocess(self, rows: Tensor) -> Tensor:
        """What of the networks has no weights and can be done ahead: [S, ...] for rows [S, *O]."""
        # The mask has to be read from the rows again in every minibatch.
        return rows if self._mask is not None else self.encoder.preprocess(rows)

    def outputs_and_values(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's outputs f32[S, K] and values f32[S] for preprocessed rows [S, ...]."""
        features = self._features(inputs)
        values: Tensor = self.critic(features).squeeze(1)
        return self._masked(self.actor(features), inputs), values

    def outputs(self, rows: Tensor) -> Tensor:
        """The actor's outputs f32[S, K] for rows [S, *O]."""
        inputs = self.preprocess(rows)
        return self._masked(self.actor(self._features(inputs)), inputs)

    def values(self, rows: Tensor) -> Tensor:
        """V(obs), f32[S], for rows [S, *O]."""
        values: Tensor = self.critic(self._features(self.preprocess(rows))).squeeze(1)
        return values

    def _features(self, inputs: Tensor) -> Tensor:
        if self._mask is not None:
            inputs = self.encoder.preprocess(inputs)
        features: Tensor = self.encoder(inputs)
        return features

    def _masked(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        return outputs if self._mask is None else mask_outputs(outputs, self._mask(inputs))

    @torch.no_grad()
    def update_statistics(self, obs: Array) -> None:
        """Count observations [S, *O] in the running statistics of the normalisers, if there are any."""
        for rows in _chunks(torch.as_tensor(obs, device=self.device)):
            self.encoder.update_statistics(rows)

    @property
    def normalizes(self) -> bool:
        """Whether there are running statistics of observations."""
        return any(isinstance(module, ObservationNormalizer) for module in self.encoder.modules())

    def act(self, obs: Array, noise: Array) -> Array:
        """Sample actions.

        Args:
            obs: [G, *O].
            noise: f32[G, K] from `head.draw_noise`.

        Returns:
            Actions [G, *A]; `head.to_env` makes env actions of them.

        Raises:
            NoLegalAction: a mask allows nothing.
        """
        return self.head.sample(self._actor_outputs(obs), noise)

    @torch.inference_mode()
    def act_with_values(self, obs: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Sample actions as `act` does, with what a loop of one's own has to remember of them.

        Args:
            obs: [G, *O].
            noise: f32[G, K].

        Returns:
            Actions [G, *A], V(obs) f32[G] and the log-probabilities of the actions f32[G].

        Raises:
            NoLegalAction: a mask allows nothing.
        """
        rows = torch.as_tensor(obs, device=self.device)
        self._require_choice(rows)
        outputs, values = self.outputs_and_values(self.preprocess(rows))
        actions = self.head.sample(outputs.cpu().numpy(), noise)
        log_probs = self.head.log_prob(outputs, torch.as_tensor(actions, device=self.device))
        return actions, values.cpu().numpy(), log_probs.cpu().numpy()

    def act_greedily(self, obs: Array) -> Array:
        """The most likely actions [G, *A] for obs [G, *O]."""
        return self.head.mode(self._actor_outputs(obs))

    @torch.inference_mode()
    def _actor_outputs(self, obs: Array) -> Array:
        rows = torch.as_tensor(obs, device=self.device)
        self._require_choice(rows)
        outputs: Array = self.outputs(rows).cpu().numpy()
        return outputs

    def _require_choice(self, rows: Tensor) -> None:
        if self._mask is not None:
            stuck = np.flatnonzero(~self.head.has_choice(self._mask(rows).cpu().numpy()))
            if len(stuck):
                raise NoLegalAction(stuck)

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Log pi(action | obs), f32[S], for obs [S, *O] and actions [S, *A]."""
        return self.head.log_prob(self.outputs(obs), actions)

    @torch.no_grad()
    def evaluate_actions(self, inputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of a whole batch with the present weights, without gradients.

        Args:
            inputs: [S, ...], preprocessed.
            actions: [S, *A].

        Returns:
            log pi(a|s) f32[S] and V(s) f32[S].
        """
        log_probs, values = [], []
        for chunk, drawn in zip(_chunks(inputs), actions.split(_rows_per_chunk(inputs)), strict=True):
            outputs, value = self.outputs_and_values(chunk)
            log_probs.append(self.head.log_prob(outputs, drawn))
            values.append(value)
        return torch.cat(log_probs), torch.cat(values)

    @torch.no_grad()
    def values_without_grad(self, obs: Tensor) -> Tensor:
        """V(obs), f32[S], without gradients; obs [S, *O] may be empty."""
        return torch.cat([self.values(chunk) for chunk in _chunks(obs)])


def _rows_per_chunk(rows: Tensor) -> int:
    # The same number for the same space, whatever the batch: sums may depend on it.
    return max(256, min(16384, _CHUNK_BYTES // (4 * max(1, rows[:1].numel()))))


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    chunks: Sequence[Tensor] = rows.split(_rows_per_chunk(rows))
    return chunks


def _mask_reader(space: gym.Space[Any], width: int) -> Callable[[Tensor], Tensor] | None:
    """What reads the action mask, bool[S, K], from rows; None if the space has none.

    Raises:
        ValueError: there is a mask that does not fit `width`, the number K of choices.
    """
    everywhere = [leaf for leaf in leaves(space) if MASK_KEY in leaf.path]
    found = [leaf for leaf in everywhere if leaf.path == (MASK_KEY,)]
    if found != everywhere:
        raise ValueError(
            f"{MASK_KEY!r} must be one array at the top of the observation's Dict, not within {space}"
        )
    if not found:
        return None
    size = int(np.prod(found[0].shape, dtype=np.int64))
    if size != width:
        raise ValueError(
            f"the observation's {MASK_KEY!r} has {size} entries, but the action space has "
            + (f"{width} choices" if width else "parts that cannot be masked (Box)")
        )
    return lambda rows: found[0].read(rows).flatten(start_dim=1) != 0
