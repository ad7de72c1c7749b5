"""Whatever happens to workers, a run comes to the weights of the undisturbed one.

Some of all combinations; `scripts/checks/fault_matrix.py` does all of them.
"""

import pytest
from fault_matrix import FAULTS, MODES, Cell, disturbed, undisturbed, wrong

pytestmark = [
    pytest.mark.usefixtures("leaves_nothing"),
    pytest.mark.filterwarnings("ignore:worker .* it is started again"),
    pytest.mark.filterwarnings("ignore:worker .* did not close"),  # on a busy machine
    pytest.mark.filterwarnings("ignore:an episode of env .* is lost"),
]

CELLS = (
    Cell("CartPole", "episodes", "shared", "learner", "reset"),
    Cell("CartPole", "steps, overlap", "pipe", "worker", "reset"),
    Cell("CartPole", "steps", "pipe", "worker", "step"),
    Cell("CartPole", "steps, overlap, rnd", "shared", "worker", "stepped"),
    Cell("CartPole", "episodes, overlap", "pipe", "learner", "torn"),
    Cell("CartPole", "episodes, rnd", "pipe", "worker", "torn"),
    Cell("CartPole", "steps", "shared", "learner", "answered"),
    Cell("CartPole", "steps", "shared", "worker", "answered"),
    Cell("CartPole", "steps, overlap", "pipe", "worker", "restart"),
    Cell("masks in a Dict", "episodes", "shared", "worker", "again"),
    Cell("masks in a Dict", "steps", "pipe", "learner", "again"),
    Cell("CartPole", "episodes", "shared", "worker", "stop"),
    Cell("masks in a Dict", "steps", "shared", "learner", "idle"),
    Cell("CartPole", "steps, overlap, rnd", "pipe", "worker", "anytime"),
    Cell("LunarLander", "steps", "shared", "worker", "stepped"),
    Cell("HalfCheetah", "episodes", "pipe", "learner", "step"),
)
NEEDS = {"LunarLander": "Box2D", "BipedalWalker": "Box2D", "HalfCheetah": "mujoco"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What comes of undisturbed runs, by env and mode."""
    found = {}

    def of(env, mode):
        if (env, mode) not in found:
            found[env, mode] = undisturbed(env, mode, tmp_path_factory.mktemp("whole") / "run")
        return found[env, mode]

    return of


@pytest.mark.parametrize("cell", CELLS, ids=", ".join)
def test_a_fault_changes_no_bit(cell, expected, tmp_path):
    if cell.env in NEEDS:
        pytest.importorskip(NEEDS[cell.env])
    whole = expected(cell.env, cell.mode)
    assert whole.iterations >= 3
    assert wrong(cell, disturbed(cell, tmp_path / "run"), whole) == ""


def test_every_fault_and_every_mode_has_its_run():
    assert {cell.fault for cell in CELLS} == set(FAULTS)
    assert {cell.mode for cell in CELLS} == set(MODES)


@pytest.mark.parametrize("mode", ["episodes", "steps"])
def test_episodes_that_cannot_be_repeated_are_counted_and_training_goes_on(mode, tmp_path):
    """A used env of BipedalWalker-v3 shows other numbers than a new one with the same seed."""
    pytest.importorskip("Box2D")
    cell = Cell("BipedalWalker", mode, "shared", "learner", "stepped")
    found = disturbed(cell, tmp_path / "run")
    assert found.restarts >= 1
    assert found.lost >= 1
    assert found.status == "finished"
    assert len(list((tmp_path / "run" / "crashes").iterdir())) >= 1
