"""How often the README's quick start and custom loop learn CartPole-v1: ten and five fixed seeds.

    python scripts/studies/quickstart_seeds.py > docs/quickstart_seeds.md

Prints, for each seed, the steps after which a whole round of 32 episodes first had a mean return of 475
(quick start), and the first round with a mean return of 400 (custom loop).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from prl import PPO, AsyncPPO, EnvVectorizer, VecMemory, utils
from prl.run.curves import read_curve

NUM_ENVS = 32


def make_ppo(seed: int) -> PPO:
    """The quick start's agent, for CartPole-v1."""
    return PPO(
        is_continuous=False,
        action_dim=2,
        observ_dim=4,
        Actor_lr=0.0010,
        Critic_lr=0.0025,
        policy_clip=0.2,
        k_epochs=11,
        GAE_lambda=0.95,
        batch_size=1024,
        mini_batch_size=1024,
        gamma=0.995,
        use_RND=False,
        beta=0.01,
        seed=seed,
    )


def quick_start(seed: int, steps: int = 140_000, goal: float = 475.0) -> tuple[int | None, float]:
    """Steps until a round's mean return first reached the goal, and the seconds of the whole run."""
    env = gym.make("CartPole-v1", max_episode_steps=500)
    with tempfile.TemporaryDirectory() as folder:
        run = AsyncPPO(
            env=env,
            ppo=make_ppo(seed),
            num_envs=NUM_ENVS,
            steps=steps,
            seed=seed,
            run_folder=Path(folder) / "run",
        )
        summary = run.run()
        curve = read_curve(Path(folder) / "run", "rollout/iteration_rew_mean")
    reached = curve.steps[curve.returns >= goal]
    return (int(reached[0]) if len(reached) else None), summary["wall_seconds"]


def custom_loop(seed: int, rounds: int = 40, goal: float = 400.0) -> tuple[int | None, float]:
    """The round whose mean return first reached the goal, and the mean return of the last round."""
    env = EnvVectorizer(env=gym.make("CartPole-v1"), num_envs=NUM_ENVS, seed=seed)
    ppo = make_ppo(seed)
    buffer = VecMemory(num_envs=NUM_ENVS)
    reached, mean = None, 0.0
    for number in range(1, rounds + 1):
        states = env.reset()[0]
        total = 0.0
        while not np.all(env.envs_active):
            actions, state_values, log_probs = ppo.get_action(torch.from_numpy(states))
            next_states, rewards, dones, truncates, _ = env.step(actions)
            total += float(rewards.sum())
            utils.buffer_append(
                buffer,
                states,
                actions,
                rewards,
                dones,
                state_values,
                log_probs,
                is_env_terminal=env.envs_active,
                num_envs=NUM_ENVS,
                truncates=truncates,
                next_states=next_states,
            )
            states = utils.inactive_states_dropout(next_states, dones | truncates)
            env.envs_active = utils.update_active_environments_list(env.envs_active, dones | truncates)
        utils.buffer_to_target_buffer_transfer(buffer, ppo.memory)
        ppo.learn()
        mean = total / NUM_ENVS
        if reached is None and mean >= goal:
            reached = number
    env.close()
    return reached, mean


def main() -> None:
    """Print both tables."""
    print("# Quick start and custom loop on CartPole-v1\n")
    print("Made by `python scripts/studies/quickstart_seeds.py > docs/quickstart_seeds.md`.\n")
    print("Quick start, 140,000 steps; goal: mean return 475 over a whole round of 32 episodes.\n")
    print("| seed | goal reached after steps | seconds for the whole run |\n|---|---|---|")
    for seed in range(10):
        reached, seconds = quick_start(seed)
        print(
            f"| {seed} | {'not reached' if reached is None else f'{reached:,}'} | {seconds:.1f} |", flush=True
        )
    print("\nCustom loop, 40 rounds of 32 episodes; goal: mean return 400.\n")
    print("| seed | goal reached in round | mean return of round 40 | seconds |\n|---|---|---|---|")
    for seed in range(5):
        start = time.perf_counter()
        reached, mean = custom_loop(seed)
        seconds = time.perf_counter() - start
        print(f"| {seed} | {reached or 'not reached'} | {mean:.1f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
