"""Two minutes of `scripts/soak.py`; it is made for hours. They need half a minute of a core."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "scripts/soak.py"
FLAGS = (
    "--env-id CartPole-v1 --preset none --num-workers 2 --num-envs 16 --num-groups 2 "
    "--rollout steps --num-steps 64 --seed 5"
)


@pytest.mark.slow
def test_training_under_faults_at_random_comes_to_the_weights_of_an_undisturbed_run():
    command = [sys.executable, str(SOAK), "--minutes", "2", "--waiting", "--grace", "60", "--"]
    done = subprocess.run(
        [*command, *FLAGS.split()], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the same weights as without faults\n")
