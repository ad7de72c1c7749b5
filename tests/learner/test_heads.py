"""Heads of spaces of several components (MultiDiscrete, MultiBinary, Dict, Tuple), and masks."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch.distributions import Bernoulli, Categorical, Normal

from learner.composite_head import make_head
from learner.masks import mask_outputs

INF = np.inf
ROWS = 50_000

NESTED = Dict(
    {
        "arm": Tuple(
            [Box(np.array([-2.0, 0.0, -INF]), np.array([1.0, INF, INF]), dtype=np.float64), Discrete(3)]
        ),
        "grip": MultiBinary((2, 1)),
        "legs": Dict(
            {"left": MultiDiscrete([2, 5, 2], np.int16, start=[-1, 7, 0]), "right": Discrete(4, start=-2)}
        ),
        "throttle": Box(-1.0, 3.0, ()),
    }
)
CHOICES = Tuple([Discrete(3), Dict({"a": MultiDiscrete([[2, 3], [3, 3]]), "b": MultiBinary(2)})])
MULTI = [
    MultiDiscrete([3, 3, 3]),
    MultiDiscrete([2, 4, 4, 1, 3], start=[5, -1, 0, 2, -7]),
    MultiDiscrete([[2, 3], [3, 5]], np.int8, start=[[1, 0], [-3, 9]]),
    MultiDiscrete(np.array(4)),
    MultiDiscrete([2, 3], np.uint64, start=[4, 0]),
    MultiBinary(3),
    MultiBinary(1),
    MultiBinary((2, 2)),
    MultiBinary(()),
    MultiDiscrete([]),
]
SPACES = [*MULTI, NESTED, CHOICES, Tuple([Box(-1.0, 1.0, (0,)), Discrete(2)]), Dict({}), Tuple([Tuple([])])]


def choices_of(space):
    """The number of choices of each component, in the order of the logits."""
    if isinstance(space, Discrete):
        return [int(space.n)]
    if isinstance(space, MultiDiscrete):
        return space.nvec.ravel().tolist()
    if isinstance(space, MultiBinary):
        return [2] * math.prod(space.shape)
    children = space.spaces.values() if isinstance(space, Dict) else space.spaces
    return [n for child in children for n in choices_of(child)]


def leaves_of(space):
    if isinstance(space, Dict | Tuple):
        children = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return [leaf for child in children for leaf in leaves_of(child)]
    return [space]


def unpack(space, wire):
    """The element of a space whose bytes `wire` begins with, and the bytes after it."""
    if isinstance(space, Dict):
        element = {}
        for name, child in space.spaces.items():
            element[name], wire = unpack(child, wire)
        return element, wire
    if isinstance(space, Tuple):
        elements = []
        for child in space.spaces:
            element, wire = unpack(child, wire)
            elements.append(element)
        return tuple(elements), wire
    dtype = np.dtype(np.int64 if isinstance(space, Discrete) else space.dtype)
    size = math.prod(space.shape) * dtype.itemsize
    element = np.frombuffer(wire[:size], dtype).reshape(space.shape)
    return (element[()] if isinstance(space, Discrete) else element), wire[size:]


def f64(values):
    return torch.as_tensor(values, dtype=torch.float64)


def random_outputs(head, rows, seed=0):
    return np.random.default_rng(seed).normal(0.0, 1.5, (rows, head.num_outputs)).astype(np.float32)


def drawn(head, rows, seed=0):
    """Random outputs f64[rows, K] and actions drawn with them."""
    outputs = random_outputs(head, rows, seed)
    actions = head.sample(outputs, head.draw_noise(np.random.default_rng(seed + 1), rows))
    return f64(outputs), torch.as_tensor(actions)


def random_mask(space, rows, seed=0):
    """A mask bool[rows, K] with at least one legal choice per component."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in choices_of(space):
        part = rng.random((rows, n)) < 0.5
        part[np.arange(rows), rng.integers(n, size=rows)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def reference_log_prob(outputs, actions, nvec):
    """Component after component, by torch.distributions."""
    parts = zip(outputs.split(nvec, dim=1), actions.flatten(1).unbind(1), strict=True)
    return sum(Categorical(logits=logits).log_prob(chosen) for logits, chosen in parts)


def assert_frequencies(found, probs):
    """Counts of a chi-squared statistic below its mean + 5 standard deviations."""
    counts, expected = np.bincount(found, minlength=len(probs)), len(found) * probs
    possible = expected > 0.0
    assert not counts[~possible].any()
    freedom = possible.sum() - 1
    chi_squared = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_squared <= freedom + 5.0 * math.sqrt(2.0 * freedom) + 1e-9


# ---- MultiDiscrete and MultiBinary


@pytest.mark.parametrize("space", MULTI[:-1])
def test_each_component_is_drawn_from_its_own_softmax(space):
    head = make_head(space)
    outputs = random_outputs(head, 1)
    noise = head.draw_noise(np.random.default_rng(1), ROWS)
    actions = head.sample(np.repeat(outputs, ROWS, axis=0), noise)
    assert actions.dtype == np.int64
    assert actions.shape == (ROWS, *space.shape)
    nvec = choices_of(space)
    for logits, chosen in zip(f64(outputs[0]).split(nvec), actions.reshape(ROWS, -1).T, strict=True):
        assert_frequencies(chosen, torch.softmax(logits, 0).numpy())


def test_components_are_drawn_independently():
    head = make_head(MultiBinary(2))
    outputs = np.tile(np.array([0.0, 1.0, 0.5, 0.0], np.float32), (ROWS, 1))
    actions = head.sample(outputs, head.draw_noise(np.random.default_rng(0), ROWS))
    first, second = (torch.softmax(f64(pair), 0).numpy() for pair in ([0.0, 1.0], [0.5, 0.0]))
    assert_frequencies(2 * actions[:, 0] + actions[:, 1], np.outer(first, second).ravel())


@pytest.mark.parametrize("space", MULTI[:-1])
def test_log_prob_and_entropy_are_sums_over_components(space):
    head, nvec = make_head(space), choices_of(space)
    outputs, actions = drawn(head, 40)
    expected = reference_log_prob(outputs, actions.reshape(40, -1), nvec)
    torch.testing.assert_close(head.log_prob(outputs, actions), expected, rtol=1e-12, atol=1e-12)
    entropy = sum(Categorical(logits=logits).entropy() for logits in outputs.split(nvec, dim=1))
    torch.testing.assert_close(head.entropy(outputs), entropy, rtol=1e-12, atol=1e-12)
    assert not head.log_det(actions).any()
    assert head.log_det(actions).shape == (40,)


def test_a_binary_component_is_a_coin_whose_logit_is_the_difference():
    head = make_head(MultiBinary(3))
    outputs, actions = drawn(head, 20)
    coins = Bernoulli(logits=outputs[:, 1::2] - outputs[:, ::2])
    torch.testing.assert_close(head.log_prob(outputs, actions), coins.log_prob(actions.double()).sum(1))
    torch.testing.assert_close(head.entropy(outputs), coins.entropy().sum(1))


@pytest.mark.parametrize("space", MULTI)
def test_the_mode_maximises_each_component(space):
    head, nvec = make_head(space), choices_of(space)
    outputs = random_outputs(head, 7)
    expected = [part.argmax(axis=1) for part in np.split(outputs, np.cumsum(nvec)[:-1], axis=1) if nvec]
    found = head.mode(outputs).reshape(7, len(nvec))
    np.testing.assert_array_equal(found, np.array(expected).reshape(len(nvec), 7).T)


@pytest.mark.parametrize("space", MULTI)
def test_env_actions_begin_at_the_start_and_have_the_dtype_of_the_space(space):
    head = make_head(space)
    _, actions = drawn(head, 200)
    env_actions = head.to_env(actions.numpy())
    assert env_actions.dtype == space.dtype
    assert all(space.contains(np.asarray(env_action)) for env_action in env_actions)
    assert all(head.action_space.contains(np.asarray(action)) for action in actions.numpy())
    start = space.start if isinstance(space, MultiDiscrete) else 0
    np.testing.assert_array_equal(env_actions, actions.numpy() + start)
    found = head.from_env(env_actions)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, actions)


def test_small_dtypes_do_not_wrap():
    space = MultiDiscrete(np.array([200, 100], np.uint8), np.uint8, start=np.array([50, 150], np.uint8))
    head = make_head(space)
    assert head.num_outputs == 300
    actions = np.array([[0, 0], [199, 99]])
    env_actions = head.to_env(actions)
    np.testing.assert_array_equal(env_actions, [[50, 150], [249, 249]])
    np.testing.assert_array_equal(head.from_env(env_actions), actions)


def test_a_space_without_components_has_one_certain_action():
    head = make_head(MultiDiscrete([]))
    outputs, actions = drawn(head, 3)
    assert outputs.shape == (3, 0) == actions.shape
    assert head.log_prob(outputs, actions).tolist() == [0.0] * 3 == head.entropy(outputs).tolist()
    assert head.has_choice(np.ones((3, 0), bool)).all()


# ---- Dict and Tuple


def test_a_composite_is_the_sum_of_its_leaves():
    head = make_head(NESTED, log_std_init=-0.5).double()
    leaves = [make_head(leaf, log_std_init=-0.5).double() for leaf in leaves_of(NESTED)]
    outputs, actions = drawn(head, 30)
    widths = [math.prod(leaf.action_space.shape) for leaf in leaves]
    totals = torch.zeros(3, 30, dtype=torch.float64)
    columns = outputs.split([leaf.num_outputs for leaf in leaves], dim=1)
    for leaf, part, flat in zip(leaves, columns, actions.split(widths, dim=1), strict=True):
        chosen = flat.reshape(30, *leaf.action_space.shape)
        totals += torch.stack(
            [leaf.log_prob(part, chosen), leaf.entropy(part), leaf.log_det(chosen)]
        ).detach()
    assert torch.equal(head.log_prob(outputs, actions), totals[0])
    assert torch.equal(head.entropy(outputs), totals[1])
    torch.testing.assert_close(head.log_det(actions), totals[2].float())
    assert (totals != 0.0).all()


def test_a_composite_agrees_with_torchs_distributions():
    space = Tuple([Discrete(3), Box(-1.0, 1.0, (2,)), MultiBinary(1)])
    head = make_head(space, log_std_init=0.3)
    outputs, actions = drawn(head, 20)
    normal = Normal(outputs[:, 3:5], math.exp(0.3))
    coin, choice = Categorical(logits=outputs[:, 5:]), Categorical(logits=outputs[:, :3])
    expected = choice.log_prob(actions[:, 0]) + normal.log_prob(actions[:, 1:3].double()).sum(1)
    torch.testing.assert_close(head.log_prob(outputs, actions), expected + coin.log_prob(actions[:, 3]))
    entropy = choice.entropy() + normal.entropy().sum(1) + coin.entropy()
    torch.testing.assert_close(head.entropy(outputs), entropy)


def test_leaves_draw_their_noise_one_after_the_other():
    head, rng = make_head(NESTED), np.random.default_rng(5)
    expected = np.concatenate([make_head(leaf).draw_noise(rng, 4) for leaf in leaves_of(NESTED)], axis=1)
    np.testing.assert_array_equal(head.draw_noise(np.random.default_rng(5), 4), expected)


def test_composite_actions_are_a_vector_of_float32():
    head = make_head(NESTED)
    assert head.action_space == Box(-INF, INF, (3 + 1 + 2 + 3 + 1 + 1,), np.float32)
    assert head.num_outputs == 3 + 3 + 4 + 9 + 4 + 1
    outputs = random_outputs(head, 5)
    noise = head.draw_noise(np.random.default_rng(0), 5)
    for actions in (
        head.sample(outputs, noise),
        head.mode(outputs),
        head.from_env(head.to_env(head.mode(outputs))),
    ):
        assert actions.dtype == np.float32
        assert actions.shape == (5, 11)
    np.testing.assert_array_equal(head.sample(outputs, np.zeros_like(noise)), head.mode(outputs))


def test_wire_bytes_are_the_leaves_bytes_in_the_order_of_the_space():
    space = Tuple([Discrete(4, start=-2), Dict({"b": Box(-INF, INF, (2,)), "a": MultiBinary(3)}),
                   MultiDiscrete([3, 3], np.int16, start=[1, 5]), Box(0.0, INF, (), np.float64)])  # fmt: skip
    actions = np.array(
        [[3, 1, 0, 1, 0.25, -1.5, 2, 0, 7.125], [0, 0, 0, 1, -2.0, 9.0, 0, 1, 0.5]], np.float32
    )
    found = make_head(space).to_env(actions)
    expected = [
        (np.array(1), np.array([1, 0, 1], np.int8), np.array([0.25, -1.5], np.float32),
         np.array([3, 5], np.int16), np.array(7.125)),
        (np.array(-2), np.array([0, 0, 1], np.int8), np.array([-2.0, 9.0], np.float32),
         np.array([1, 6], np.int16), np.array(0.5)),
    ]  # fmt: skip
    assert list(space.spaces[1].spaces) == ["a", "b"]  # Gymnasium sorts plain dicts
    assert found.dtype == np.uint8
    assert found.shape == (2, 8 + 3 + 8 + 4 + 8)
    for row, leaves in zip(found, expected, strict=True):
        wire = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
        np.testing.assert_array_equal(row, wire)
    np.testing.assert_array_equal(make_head(space).from_env(found), actions)


def test_wire_bytes_are_in_native_order():
    head = make_head(Tuple([Box(-INF, INF, (1,), ">f4"), Discrete(3, dtype=np.int8)]))
    wire = head.to_env(np.array([[0.5, 2.0]], np.float32))
    assert wire.tobytes() == np.float32(0.5).tobytes() + np.int8(2).tobytes()
    np.testing.assert_array_equal(head.from_env(wire), [[0.5, 2.0]])


@pytest.mark.parametrize("space", [NESTED, CHOICES])
def test_from_env_inverts_to_env_of_composites(space):
    head = make_head(space)
    _, actions = drawn(head, 500)
    expected = actions.numpy().copy()
    if space is NESTED:
        assert (expected[:, 1] < 0.0).any()
        expected[:, 1] = np.maximum(expected[:, 1], 0.0)  # clipped at its only bound
    tolerance = 0.0 if head.maskable else 1e-4  # of a tanh in float32
    found = head.from_env(head.to_env(actions.numpy()))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def random_space(rng, depth=2):
    kind = rng.integers(6 if depth else 4)
    if kind == 0:
        return Discrete(int(rng.integers(1, 5)), start=int(rng.integers(-3, 4)))
    if kind == 1:
        shape = tuple(rng.integers(1, 3, size=rng.integers(0, 3)))
        return MultiDiscrete(rng.integers(1, 5, shape), np.int8, start=rng.integers(-9, 9, shape))
    if kind == 2:
        return MultiBinary(tuple(rng.integers(1, 4, size=rng.integers(0, 3))))
    if kind == 3:
        shape = tuple(rng.integers(0, 3, size=rng.integers(0, 3)))
        low = np.where(rng.random(shape) < 0.3, -INF, rng.uniform(-5.0, 0.0, shape))
        high = np.where(rng.random(shape) < 0.3, INF, low + rng.integers(0, 3, shape))
        high = np.where(np.isnan(high) | (high == -INF), 4.0, high)
        dtype = rng.choice([np.float32, np.float64])
        return Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype)
    children = [random_space(rng, depth - 1) for _ in range(rng.integers(4))]
    if kind == 4:
        return Tuple(children)
    return Dict({f"{rng.integers(100)}-{i}": child for i, child in enumerate(children)})


@pytest.mark.filterwarnings("ignore:.*precision lowered")
@pytest.mark.parametrize("seed", range(30))
def test_env_actions_of_random_nested_spaces_lie_in_the_space(seed):
    rng = np.random.default_rng(seed)
    space = Tuple([random_space(rng) for _ in range(3)])
    head = make_head(space, log_std_init=1.0)
    actions = head.sample(random_outputs(head, 20, seed), head.draw_noise(rng, 20))
    for row in head.to_env(actions):
        element, rest = unpack(space, row.tobytes())
        assert rest == b""
        assert space.contains(element)
    if head.maskable:
        np.testing.assert_array_equal(head.from_env(head.to_env(actions)), actions)


def test_log_std_init_reaches_every_box_and_is_a_parameter_of_the_composite():
    head = make_head(NESTED, log_std_init=-0.7)
    parameters = dict(head.named_parameters())
    assert sorted(parameters) == ["leaves.0.log_std", "leaves.5.log_std"]
    assert all(torch.equal(p, torch.full_like(p, -0.7)) for p in parameters.values())
    other = make_head(NESTED)
    other.load_state_dict(head.state_dict())
    outputs, actions = drawn(head, 5)
    assert torch.equal(head.log_prob(outputs, actions), other.log_prob(outputs, actions))
    head.entropy(outputs).sum().backward()
    assert all((p.grad == 5.0).all() for p in parameters.values())


# ---- all of them


@pytest.mark.parametrize("space", SPACES)
def test_a_row_does_not_depend_on_the_other_rows(space):
    head = make_head(space)
    outputs, noise = random_outputs(head, 8), head.draw_noise(np.random.default_rng(2), 8)
    assert noise.dtype == np.float32
    assert noise.shape == (8, head.num_outputs)
    everyone = head.sample(outputs, noise)
    for rows in ([], [0], [7], [1, 4, 5]):
        few = head.sample(outputs[rows], noise[rows])
        np.testing.assert_array_equal(few, everyone[rows])
        np.testing.assert_array_equal(head.to_env(few), head.to_env(everyone)[rows])
        np.testing.assert_array_equal(head.mode(outputs[rows]), head.mode(outputs)[rows])
        np.testing.assert_array_equal(
            head.from_env(head.to_env(few)), head.from_env(head.to_env(everyone))[rows]
        )
        assert head.log_prob(torch.as_tensor(outputs[rows]), torch.as_tensor(few)).shape == (len(rows),)
        assert head.entropy(torch.as_tensor(outputs[rows])).shape == (len(rows),)
        assert head.log_det(torch.as_tensor(few)).shape == (len(rows),)
        assert head.has_choice(np.ones((len(rows), head.num_outputs), bool)).shape == (len(rows),)


@pytest.mark.parametrize("space", SPACES)
def test_the_same_generator_gives_the_same_actions(space):
    before = torch.get_rng_state()
    (first, actions), (again, repeated) = drawn(make_head(space), 6), drawn(make_head(space), 6)
    assert torch.equal(first, again)
    assert torch.equal(actions, repeated)
    assert torch.equal(torch.get_rng_state(), before)


# ---- masks

MASKABLE = [Discrete(6), MultiDiscrete([3, 4, 4]), MultiDiscrete([[3, 3], [3, 3]]), MultiBinary(3), CHOICES]


@pytest.mark.parametrize("space", MASKABLE)
def test_a_masked_distribution_is_the_legal_part_renormalised(space):
    head, mask = make_head(space), random_mask(space, 50)
    outputs = f64(random_outputs(head, 50))
    masked = mask_outputs(outputs, torch.as_tensor(mask))
    actions = torch.as_tensor(
        head.sample(masked.float().numpy(), head.draw_noise(np.random.default_rng(0), 50))
    )
    log_prob, entropy = torch.zeros(2, 50, dtype=torch.float64)
    nvec = choices_of(space)
    parts = zip(outputs.split(nvec, 1), torch.as_tensor(mask).split(nvec, 1),
                actions.reshape(50, -1).long().unbind(1), strict=True)  # fmt: skip
    for logits, legal, chosen in parts:
        probs = torch.softmax(logits, 1) * legal
        probs = probs / probs.sum(1, keepdim=True)
        log_prob += probs.gather(1, chosen.unsqueeze(1)).squeeze(1).log()
        entropy += Categorical(probs=probs).entropy()
    torch.testing.assert_close(head.log_prob(masked, actions), log_prob)
    torch.testing.assert_close(head.entropy(masked), entropy, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("space", MASKABLE)
def test_gradients_of_masked_outputs_are_finite_and_0_where_illegal(space):
    head, mask = make_head(space), torch.as_tensor(random_mask(space, 50))
    outputs = torch.as_tensor(random_outputs(head, 50))
    outputs[~mask] = torch.tensor([1e4, -1e4, INF, -INF, math.nan]).repeat(len(outputs[~mask]))[
        : (~mask).sum()
    ]
    outputs.requires_grad_()
    masked = mask_outputs(outputs, mask)
    noise = head.draw_noise(np.random.default_rng(0), 50)
    actions = torch.as_tensor(head.sample(masked.detach().numpy(), noise))
    log_prob, entropy = head.log_prob(masked, actions), head.entropy(masked)
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(entropy).all()
    (log_prob + entropy).sum().backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[~mask] == 0.0).all()
    assert (outputs.grad[mask] != 0.0).any()


def test_illegal_actions_are_never_drawn():
    head = make_head(Discrete(5))
    mask = torch.tensor([[True, False, True, False, True]])
    outputs = torch.tensor([[0.0, 1e4, 1.0, 1e4, -1.0]])
    masked = mask_outputs(outputs, mask).numpy()
    actions = head.sample(
        np.repeat(masked, 100_000, axis=0), head.draw_noise(np.random.default_rng(0), 100_000)
    )
    legal = torch.softmax(f64([0.0, 1.0, -1.0]), 0).numpy()
    assert_frequencies(actions, np.array([legal[0], 0.0, legal[1], 0.0, legal[2]]))
    assert head.mode(masked).tolist() == [2]


def test_illegal_choices_of_components_are_never_drawn():
    head = make_head(CHOICES)
    mask = random_mask(CHOICES, 1, seed=3)
    outputs = torch.where(torch.as_tensor(mask), torch.as_tensor(random_outputs(head, 1)), 1e4)
    masked = mask_outputs(outputs, torch.as_tensor(mask)).numpy()
    noise = head.draw_noise(np.random.default_rng(0), 100_000)
    actions = head.sample(np.repeat(masked, 100_000, axis=0), noise).astype(np.int64)
    ends = np.cumsum(choices_of(CHOICES))[:-1]
    parts = zip(np.split(masked[0], ends), np.split(mask[0], ends), actions.T, strict=True)
    for logits, legal, chosen in parts:
        assert_frequencies(chosen, torch.softmax(f64(np.where(legal, logits, -INF)), 0).numpy())


@pytest.mark.parametrize("space", MASKABLE)
def test_a_single_legal_choice_is_certain(space):
    head = make_head(space)
    mask = torch.zeros(3, head.num_outputs, dtype=torch.bool)
    mask[:, np.cumsum([0, *choices_of(space)[:-1]])] = True
    masked = mask_outputs(torch.as_tensor(random_outputs(head, 3)), mask)
    actions = torch.as_tensor(head.mode(masked.numpy()))
    assert not actions.any()
    assert head.entropy(masked).tolist() == [0.0] * 3 == head.log_prob(masked, actions).tolist()


def test_a_full_mask_changes_nothing():
    outputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_outputs(outputs, torch.ones(4, 6, dtype=torch.bool)), outputs)


def test_only_choices_are_maskable():
    assert all(make_head(space).maskable for space in [*MASKABLE, *MULTI])
    assert not any(make_head(space).maskable for space in (Box(-1.0, 1.0), NESTED, Tuple([Box(0.0, 1.0)])))


@pytest.mark.parametrize("space", MASKABLE)
def test_has_choice_is_false_where_one_component_has_none(space):
    head, nvec = make_head(space), choices_of(space)
    mask = np.concatenate([random_mask(space, 1), np.ones((len(nvec) + 1, head.num_outputs), bool)])
    for component, columns in enumerate(np.split(np.arange(head.num_outputs), np.cumsum(nvec)[:-1])):
        mask[1 + component, columns] = False
    found = head.has_choice(mask)
    assert found.dtype == np.bool_
    assert found.tolist() == [True, *[False] * len(nvec), True]


def test_a_box_always_has_a_choice():
    assert make_head(Box(-1.0, 1.0, (2,))).has_choice(np.zeros((3, 2), bool)).tolist() == [True] * 3
    space: gym.Space = Tuple([Box(-1.0, 1.0, (2,)), Discrete(2)])
    mask = np.array([[False, False, True, False], [True, True, False, False]])
    assert make_head(space).has_choice(mask).tolist() == [True, False]
