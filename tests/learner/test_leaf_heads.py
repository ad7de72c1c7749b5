"""Rows 14 and 15: action heads. What is drawn, what the env gets, and how likely both are."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import env_log_prob
from torch.distributions import (
    AffineTransform,
    Categorical,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from learner.composite_head import make_head
from learner.heads import log_one_minus_tanh_squared

INF = np.inf


def box(low, high, dtype=np.float32):
    return gym.spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


def gaussian(space, log_std=0.0):
    """A Gaussian head in float64."""
    head = make_head(space).double()
    head.log_std.data[:] = torch.as_tensor(log_std, dtype=torch.float64)
    return head


def f64(values):
    return torch.as_tensor(values, dtype=torch.float64)


def random_bounds(count):
    """Awkward float32 bounds, most of them asymmetrical and not exact in binary."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-3.0, 4.0, (2, count))
    first, second = (scale * rng.standard_normal((2, count))).astype(np.float32)
    return np.minimum(first, second), np.maximum(first, second)


# ---- log(1 - tanh^2 u)


@pytest.mark.parametrize(
    ("u", "expected"),
    [(1.0, -0.867562), (3.0, -4.618657), (6.0, -10.613718), (10.0, -18.613706), (20.0, -38.613706)],
)
def test_golden_log_slopes_of_tanh(u, expected):
    both = log_one_minus_tanh_squared(f64([u, -u]))
    np.testing.assert_allclose(both, expected, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(log_one_minus_tanh_squared(torch.tensor([u])), expected, rtol=1e-6)


def test_log_slope_of_tanh_at_0():
    assert log_one_minus_tanh_squared(f64([0.0])).item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_of_the_log_slope_is_minus_2_tanh(dtype):
    u = torch.linspace(-20.0, 20.0, 401, dtype=dtype, requires_grad=True)
    log_one_minus_tanh_squared(u).sum().backward()
    torch.testing.assert_close(u.grad, -2.0 * torch.tanh(u.detach()))


# ---- Gaussian: densities

SPACE = box([-2.0, -0.5, 0.0], [1.0, 0.5, 30.0])
MEANS = [[0.3, -0.2, 0.9], [-1.0, 2.0, 0.0]]
LOG_STD = [-0.5, 0.0, 0.4]
ACTIONS = [[0.1, 0.4, -0.8], [-2.5, 2.9, 0.3]]


def test_log_prob_is_the_sum_over_independent_normals():
    found = gaussian(SPACE, LOG_STD).log_prob(f64(MEANS), f64(ACTIONS))
    expected = Independent(Normal(f64(MEANS), f64(LOG_STD).exp()), 1).log_prob(f64(ACTIONS))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=0.0)


def test_env_log_prob_equals_torchs_transformed_distribution():
    head = gaussian(SPACE, LOG_STD)
    low, high = f64(SPACE.low), f64(SPACE.high)
    squash = [TanhTransform(cache_size=1), AffineTransform((low + high) / 2, (high - low) / 2, cache_size=1)]
    reference = Independent(TransformedDistribution(Normal(f64(MEANS), f64(LOG_STD).exp()), squash), 1)
    env_actions = f64(ACTIONS)
    for transform in squash:
        env_actions = transform(env_actions)
    expected = reference.log_prob(env_actions)
    torch.testing.assert_close(
        env_log_prob(head, f64(MEANS), f64(ACTIONS)).detach(), expected, rtol=1e-10, atol=0.0
    )
    np.testing.assert_allclose(head.to_env(np.array(ACTIONS)), env_actions, rtol=1e-6)


def test_log_det_of_dimensions_that_are_not_squashed_is_0():
    head = gaussian(box([-2.0, -INF, 0.0], [1.0, INF, INF]))
    alone = gaussian(box([-2.0], [1.0]))
    np.testing.assert_array_equal(head.log_det(f64(ACTIONS)), alone.log_det(f64(ACTIONS)[:, :1]))


def test_the_density_of_the_env_action_integrates_to_1():
    low, high = np.array([-2.0, 0.5]), np.array([1.0, 0.75])
    head = gaussian(box(low, high, np.float64), [-0.7, -0.3])
    cells = 400
    axes = [a + (b - a) * (np.arange(cells) + 0.5) / cells for a, b in zip(low, high, strict=True)]
    env_actions = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    actions = np.arctanh((env_actions - (low + high) / 2) / ((high - low) / 2))
    means = f64([0.4, -0.2]).expand(len(actions), 2)
    density = env_log_prob(head, means, f64(actions)).exp()
    assert density.sum().item() * np.prod((high - low) / cells) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_far_out(dtype):
    head = gaussian(box([-1.0], [3.0])).to(dtype)
    actions = torch.linspace(-20.0, 20.0, 81, dtype=dtype).unsqueeze(1).requires_grad_()
    means = torch.zeros(81, 1, dtype=dtype, requires_grad=True)
    env_log_prob(head, means, actions).sum().backward()
    for gradient in (actions.grad, means.grad, head.log_std.grad):
        assert torch.isfinite(gradient).all()
    # d/d mean of log N(u; mean, 1) is u - mean: it is not lost where tanh is flat
    torch.testing.assert_close(means.grad, actions.detach())


def test_gaussian_entropy_and_its_gradient():
    head = gaussian(SPACE, LOG_STD)
    entropy = head.entropy(f64(MEANS))
    expected = Normal(f64(MEANS), f64(LOG_STD).exp()).entropy().sum(1)
    torch.testing.assert_close(entropy.detach(), expected, rtol=1e-12, atol=0.0)
    entropy.mean().backward()
    assert head.log_std.grad.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_actions_of_any_shape_are_summed_over_all_dimensions():
    head, flat = gaussian(box(np.full((2, 3), -1.0), np.ones((2, 3)))), gaussian(box([-1.0] * 6, [1.0] * 6))
    actions = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = torch.zeros(5, 6, dtype=torch.float64)
    assert torch.equal(head.log_prob(means, actions), flat.log_prob(means, actions.flatten(1)))
    assert torch.equal(head.log_det(actions), flat.log_det(actions.flatten(1)))
    noise = np.arange(12.0, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(head.sample(np.ones((2, 6)), noise), 1.0 + noise.reshape(2, 2, 3))
    assert head.to_env(actions.numpy()).shape == (5, 2, 3)


# ---- Gaussian: what is drawn, and what the env gets


def test_gaussian_samples_have_the_heads_mean_and_deviation():
    head = make_head(SPACE)
    head.log_std.data[:] = torch.tensor(LOG_STD)
    rows = 100_000
    noise = head.draw_noise(np.random.default_rng(0), rows)
    assert noise.dtype == np.float32
    samples = head.sample(np.tile(np.array(MEANS[:1], np.float32), (rows, 1)), noise)
    std = np.exp(LOG_STD)
    # five standard errors
    np.testing.assert_allclose((samples.mean(0) - MEANS[0]) / std, 0.0, atol=5.0 / math.sqrt(rows))
    np.testing.assert_allclose(samples.std(0) / std, 1.0, atol=5.0 / math.sqrt(2.0 * rows))
    np.testing.assert_allclose(np.corrcoef(samples.T), np.eye(3), atol=5.0 / math.sqrt(rows))


def test_the_mode_of_a_gaussian_is_its_mean():
    np.testing.assert_array_equal(gaussian(SPACE).mode(np.array(MEANS)), MEANS)


def test_what_is_stored_is_unbounded():
    assert make_head(SPACE).action_space == gym.spaces.Box(-INF, INF, (3,), np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_env_actions_lie_inside_awkward_bounds_exactly(dtype):
    low, high = (bound.astype(dtype) for bound in random_bounds(1000))
    space = box(low, high, dtype)
    head = make_head(space)
    rng = np.random.default_rng(1)
    for u in (-1e30, -100.0, -20.0, -9.0, 0.0, 9.0, 20.0, 100.0, 1e30, rng.normal(0.0, 10.0, 1000)):
        env_actions = head.to_env(np.full((1, 1000), u, np.float32))[0]
        assert env_actions.dtype == dtype
        assert (env_actions >= space.low).all()
        assert (env_actions <= space.high).all()
        assert space.contains(env_actions)
    np.testing.assert_allclose(head.to_env(np.full((1, 1000), 30.0, np.float32))[0], high, rtol=1e-5)
    np.testing.assert_allclose(head.to_env(np.full((1, 1000), -30.0, np.float32))[0], low, rtol=1e-5)


def test_squashing_is_centred_and_scaled_per_dimension():
    head = make_head(box([-2.0, 10.0], [1.0, 30.0]))
    u = np.array([[0.0, 0.0], [1.0, -1.0]], np.float32)
    expected = [[-0.5, 20.0], [-0.5 + 1.5 * math.tanh(1.0), 20.0 - 10.0 * math.tanh(1.0)]]
    np.testing.assert_allclose(head.to_env(u), expected, rtol=1e-6)


def test_dimensions_without_two_bounds_are_not_squashed():
    head = make_head(box([-INF, 0.0, -INF, 3.0], [INF, INF, -1.0, 3.0]))
    u = np.array([[5.5, 5.5, -5.5, 5.5], [-7.0, -7.0, 7.0, -7.0]], np.float32)
    # unbounded; from 0 up; up to -1; a single value
    np.testing.assert_array_equal(head.to_env(u), [[5.5, 5.5, -5.5, 3.0], [-7.0, 0.0, -1.0, 3.0]])


def test_bounds_of_any_size_give_no_overflow():
    largest = np.finfo(np.float64).max
    head = make_head(box([-largest], [largest], np.float64))
    np.testing.assert_array_equal(
        head.to_env(np.array([[-50.0], [0.0], [50.0]])), [[-largest], [0.0], [largest]]
    )


def test_from_env_inverts_to_env():
    head = make_head(box([-2.0, 0.1, -INF, 0.0], [1.0, 0.2, INF, INF], np.float64))
    u = np.random.default_rng(0).uniform(-8.0, 8.0, (1000, 4)).astype(np.float32)
    u[:, 3] = np.abs(u[:, 3])
    found = head.from_env(head.to_env(u))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, u, rtol=1e-6, atol=1e-6)


def test_from_env_of_the_bounds_themselves_is_finite():
    space = box([-2.0, 0.1], [1.0, 0.3])
    head = make_head(space)
    bounds = np.stack([space.low, space.high])
    u = head.from_env(bounds)
    assert np.isfinite(u).all()
    assert (u[0] < -8.0).all()
    assert (u[1] > 8.0).all()
    np.testing.assert_allclose(head.to_env(u), bounds, rtol=1e-6)


# ---- Categorical

LOGITS = [[0.0, 1.0, -2.0, 0.5, 3.0], [5.0, 5.0, 5.0, 5.0, 5.0]]


@pytest.mark.parametrize("logits", LOGITS)
def test_sample_frequencies_match_the_softmax(logits):
    rows = 200_000
    head = make_head(gym.spaces.Discrete(5))
    outputs = np.tile(np.array(logits, np.float32), (rows, 1))
    actions = head.sample(outputs, head.draw_noise(np.random.default_rng(0), rows))
    expected = rows * torch.softmax(f64(logits), 0).numpy()
    chi_squared = ((np.bincount(actions, minlength=5) - expected) ** 2 / expected).sum()
    assert chi_squared < 18.47  # 0.999 quantile at 4 degrees of freedom


def test_categorical_log_prob_and_entropy():
    head = make_head(gym.spaces.Discrete(5))
    reference = Categorical(logits=f64(LOGITS))
    for action in range(5):
        actions = torch.tensor([action, 4 - action])
        torch.testing.assert_close(head.log_prob(f64(LOGITS), actions), reference.log_prob(actions))
    torch.testing.assert_close(head.entropy(f64(LOGITS)), reference.entropy())
    assert head.entropy(f64(LOGITS))[1].item() == pytest.approx(math.log(5))


def test_categorical_entropy_carries_gradient():
    logits = f64(LOGITS).requires_grad_()
    make_head(gym.spaces.Discrete(5)).entropy(logits).sum().backward()
    probs = torch.softmax(f64(LOGITS), 1)
    entropy = -(probs * probs.log()).sum(1, keepdim=True)
    torch.testing.assert_close(logits.grad, -probs * (probs.log() + entropy))
    assert (logits.grad[0] != 0.0).all()


def test_extreme_logits_stay_finite():
    head = make_head(gym.spaces.Discrete(2))
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    (head.log_prob(logits, torch.tensor([1])) + head.entropy(logits)).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_the_mode_of_a_categorical_is_its_likeliest_action():
    np.testing.assert_array_equal(make_head(gym.spaces.Discrete(5)).mode(np.array(LOGITS[:1])), [4])


def test_discrete_actions_are_shifted_to_the_start_of_the_space():
    space = gym.spaces.Discrete(3, start=-1)
    head = make_head(space)
    env_actions = head.to_env(np.array([0, 1, 2]))
    np.testing.assert_array_equal(env_actions, [-1, 0, 1])
    assert all(space.contains(action) for action in env_actions)
    np.testing.assert_array_equal(head.from_env(env_actions), [0, 1, 2])
    assert head.action_space == gym.spaces.Discrete(3)


def test_the_density_of_discrete_actions_is_their_probability():
    head = make_head(gym.spaces.Discrete(5, start=7))
    assert head.log_det(torch.tensor([0, 4])).tolist() == [0.0, 0.0]


# ---- both


@pytest.mark.parametrize("space", [gym.spaces.Discrete(4), box([-1.0, -2.0], [1.0, 3.0])])
def test_the_noise_of_a_row_does_not_depend_on_the_other_rows_in_use(space):
    head = make_head(space)
    outputs = np.random.default_rng(1).standard_normal((8, head.num_outputs)).astype(np.float32)
    noise = head.draw_noise(np.random.default_rng(2), 8)
    everyone = head.sample(outputs, noise)
    for rows in ([0], [7], [1, 4, 5], [0, 2, 3, 4, 5, 6, 7]):
        np.testing.assert_array_equal(head.sample(outputs[rows], noise[rows]), everyone[rows])
    np.testing.assert_array_equal(head.draw_noise(np.random.default_rng(2), 8), noise)


@pytest.mark.parametrize("space", [gym.spaces.Discrete(4), box([-1.0, -2.0], [1.0, 3.0])])
def test_noise_comes_from_the_callers_generator_alone(space):
    head = make_head(space)
    before = torch.get_rng_state()
    rng = np.random.default_rng(0)
    first, second = head.draw_noise(rng, 3), head.draw_noise(rng, 3)
    assert first.dtype == np.float32
    assert first.shape == (3, head.num_outputs)
    assert not np.isin(first, second).any()
    assert torch.equal(torch.get_rng_state(), before)


ALLOWED = "it must be Discrete, MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these"
REFUSED = [
    gym.spaces.Box(0, 5, (2,), np.int64),
    gym.spaces.Box(np.arange(400).reshape(4, 100), np.full((4, 100), 500), dtype=np.int16),
    gym.spaces.Text(5),
    gym.spaces.Sequence(gym.spaces.Discrete(2)),
    gym.spaces.Graph(gym.spaces.Discrete(2), None),
    gym.spaces.OneOf([gym.spaces.Discrete(2)]),
]


@pytest.mark.parametrize("space", REFUSED)
def test_other_action_spaces_are_refused_in_one_line(space):
    nested = gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Dict({"x": space})])
    for refused in (space, nested):
        with pytest.raises(ValueError, match=ALLOWED) as caught:
            make_head(refused)
        assert "\n" not in str(caught.value)
        assert f"action space {type(space).__name__}(" in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(2**40),
        gym.spaces.MultiDiscrete([2**62, 2**62, 2**62]),  # as an int64 the sum would be negative
        gym.spaces.Dict(code=gym.spaces.Discrete(2**40), speed=box(-2.0, 1.0)),
        gym.spaces.Tuple([gym.spaces.Discrete(200_000)] * 2),
    ],
)
def test_more_choices_than_memory_holds_are_refused_in_one_line(space):
    with pytest.raises(ValueError, match=r"^[0-9,]+ choices are too many: the limit is 262,144 for actions$"):
        make_head(space)


# ---- Gaussian: shapes and first deviations


@pytest.mark.parametrize("space", [box(-2.0, 1.0), box(0.0, INF, np.float64), box(3.0, 3.0)])
def test_a_box_without_dimensions_is_like_one_of_a_single_dimension(space):
    flat_space = gym.spaces.Box(space.low[None], space.high[None], dtype=space.dtype)
    head, flat = make_head(space), make_head(flat_space)
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((6, 1), np.float32)
    actions = head.sample(outputs, head.draw_noise(rng, 6))
    assert actions.shape == (6,) == head.mode(outputs).shape
    env_actions = head.to_env(actions)
    np.testing.assert_array_equal(env_actions, flat.to_env(actions[:, None])[:, 0])
    assert all(space.contains(np.asarray(env_action)) for env_action in env_actions)
    np.testing.assert_array_equal(head.from_env(env_actions), flat.from_env(env_actions[:, None])[:, 0])
    means, drawn = torch.as_tensor(outputs), torch.as_tensor(actions)
    assert torch.equal(head.log_prob(means, drawn), flat.log_prob(means, drawn[:, None]))
    assert torch.equal(head.log_det(drawn), flat.log_det(drawn[:, None]))
    assert head.entropy(means).shape == (6,)


@pytest.mark.parametrize("rows", [0, 3])
def test_a_box_without_elements_has_one_certain_action(rows):
    head = make_head(gym.spaces.Box(-1.0, 1.0, (2, 0)))
    noise = head.draw_noise(np.random.default_rng(0), rows)
    actions = head.sample(np.empty((rows, 0), np.float32), noise)
    assert actions.shape == (rows, 2, 0) == head.to_env(actions).shape
    outputs, drawn = torch.empty(rows, 0), torch.as_tensor(actions)
    for total in (head.log_prob(outputs, drawn), head.entropy(outputs), head.log_det(drawn)):
        assert total.tolist() == [0.0] * rows


def test_the_first_standard_deviation_can_be_chosen():
    head = make_head(SPACE, log_std_init=-1.25)
    assert head.log_std.tolist() == [-1.25] * 3
    assert head.log_std.dtype == torch.float32
    assert make_head(SPACE).log_std.tolist() == [0.0] * 3
    assert head.sample(np.zeros((1, 3)), np.ones((1, 3)))[0] == pytest.approx(math.exp(-1.25))
    assert make_head(gym.spaces.Discrete(2), log_std_init=-1.0).num_outputs == 2
