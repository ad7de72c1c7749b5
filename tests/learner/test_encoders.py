"""Row 13: from observations of every kind to features, number by number, and who learns what."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from learner_helpers import weights_of
from torch import nn

from learner.encoders import CompositeEncoder, ImageEncoder, OneHotEncoder, VectorEncoder, make_encoder
from learner.networks import NatureCNN
from learner.normalize import ObservationNormalizer
from workers.rows import pack

INF = np.inf


def encoder_of(space, normalizer=None, seed=0):
    return make_encoder(space, torch.Generator().manual_seed(seed), normalizer)


def encode(encoder, rows):
    return encoder(encoder.preprocess(torch.as_tensor(np.asarray(rows))))


def features(space, rows, normalizer=None):
    found = encode(encoder_of(space, normalizer), rows)
    assert found.dtype == torch.float32
    return found.tolist()


# ---- choices


def test_discrete_is_one_hot_and_counts_from_its_start():
    space = Discrete(3, start=-1)
    assert features(space, [-1, 0, 1, 0]) == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert encoder_of(space).features == 3
    assert not encoder_of(space).is_trainable


def test_multi_discrete_is_one_hot_component_by_component():
    space = MultiDiscrete([2, 3], start=[5, -2])
    assert features(space, [[5, -2], [6, 0], [5, -1]]) == [
        [1, 0, 1, 0, 0],
        [0, 1, 0, 0, 1],
        [1, 0, 0, 1, 0],
    ]
    assert encoder_of(space).features == 5


def test_multi_discrete_of_any_shape_is_flattened():
    space = MultiDiscrete([[2, 1], [2, 2]])
    assert features(space, [[[1, 0], [0, 1]]]) == [[0, 1, 1, 1, 0, 0, 1]]


def test_multi_binary_is_as_it_is():
    assert features(MultiBinary([2, 2]), np.array([[[0, 1], [1, 1]]], np.int8)) == [[0, 1, 1, 1]]


HUGE = [
    Discrete(2**40),
    Discrete(2**18 + 1),
    MultiDiscrete([2**62, 2**62, 2**62]),  # as an int64 the sum would be negative
    MultiDiscrete(np.full((600, 600), 2)),
    Dict(code=Discrete(2**40), place=Box(0, 1, (2,), np.float32)),
    Dict({str(k): Discrete(200_000) for k in range(2)}),
    Tuple([Tuple([Discrete(2**40)])]),
]


@pytest.mark.parametrize("space", HUGE)
def test_more_choices_than_memory_holds_are_refused_in_one_line(space):
    with pytest.raises(ValueError, match=r"are too many: the limit is 262,144 for .*encoder") as caught:
        encoder_of(space)
    assert "\n" not in str(caught.value)


def test_the_refusal_says_how_many_choices_there_are():
    with pytest.raises(ValueError, match=r"^13,835,058,055,282,163,712 choices"):
        encoder_of(HUGE[2])


def test_many_choices_are_one_hot_up_to_the_limit():
    encoder = encoder_of(Discrete(2**18, start=5))
    (found,) = encode(encoder, [2**18 + 4])
    assert (found.nonzero().tolist(), len(found)) == ([[2**18 - 1]], 2**18)


def test_a_mask_is_no_choice():
    space = Dict(action_mask=MultiDiscrete(np.full(2**17 + 1, 2)), obs=Discrete(3))
    assert encoder_of(space).features == 3


# ---- vectors


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_flattened_and_left_alone(dtype):
    space = Box(-100.0, 100.0, (2, 2), dtype)
    assert features(space, np.array([[[1.5, -2.0], [99.0, 0.25]]], dtype)) == [[1.5, -2.0, 99.0, 0.25]]


def test_a_scalar_is_a_vector_of_one():
    assert features(Box(0, 1, (), np.float32), np.array([0.5, 0.25], np.float32)) == [[0.5], [0.25]]
    assert features(Discrete(2), np.array([1])) == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "value", "expected"),
    [
        (0, 255, np.uint8, [0, 51, 255], [0.0, 0.2, 1.0]),
        (-10, 30, np.int64, [-10, 0, 30], [0.0, 0.25, 1.0]),
        (100, 104, np.int16, [100, 101, 104], [0.0, 0.25, 1.0]),
        (5, 6, np.int64, [5, 6, 5], [0.0, 1.0, 0.0]),  # a width of 1 has to be moved, too
        (0, 1, np.int8, [0, 1, 1], [0.0, 1.0, 1.0]),
        (7, 7, np.int64, [7, 7, 7], [0.0, 0.0, 0.0]),
        # no float32 is so fine:
        (10**9, 10**9 + 4, np.int64, [10**9, 10**9 + 1, 10**9 + 4], [0.0, 0.25, 1.0]),
    ],
)
def test_whole_numbers_with_bounds_are_scaled_to_0_1(low, high, dtype, value, expected):
    found = features(Box(low, high, (3,), dtype), np.array([value], dtype))
    np.testing.assert_allclose(found, [expected], rtol=0.0, atol=1e-7)


def test_every_component_has_separate_bounds():
    space = Box(np.array([0, -4]), np.array([1, 1_000_000]), dtype=np.int64)
    assert features(space, [[0, -4], [1, 1_000_000], [1, 499_998]]) == [[0.0, 0.0], [1.0, 1.0], [1.0, 0.5]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_without_bounds_are_left_alone(dtype):
    info = np.iinfo(dtype)
    assert features(Box(info.min, info.max, (2,), dtype), np.array([[7, -3]], dtype)) == [[7.0, -3.0]]
    assert features(Box(0, info.max, (2,), dtype), np.array([[7, 3]], dtype)) == [[7.0, 3.0]]


def test_bools_are_0_and_1():
    assert features(Box(0, 1, (3,), np.bool_), [[True, False, True]]) == [[1.0, 0.0, 1.0]]


def test_a_normalizer_takes_the_place_of_scaling_and_is_made_for_boxes_only():
    space = Dict(
        [
            ("bytes", Box(0, 255, (2,), np.uint8)),
            ("bits", MultiBinary(2)),
            ("choice", Discrete(2)),
            ("numbers", Box(-9, 9, (1, 2), np.float32)),
        ]
    )
    encoder = encoder_of(space, ObservationNormalizer)
    found = [m for m in encoder.modules() if isinstance(m, ObservationNormalizer)]
    assert [tuple(m.mean.shape) for m in found] == [(2,), (2,)]
    elements = [{"bytes": [a, 200], "bits": [1, 0], "choice": 1, "numbers": [[a, 5.0]]} for a in (0, 4)]
    rows = torch.from_numpy(np.stack([pack(space, element) for element in elements]))
    # Before anything was observed: mean 0, variance 1, clipped.
    assert encode(encoder, rows).tolist() == [[0, 10, 1, 0, 0, 1, 0, 5], [4, 10, 1, 0, 0, 1, 4, 5]]
    encoder.update_statistics(rows)
    assert found[0].mean.tolist() == [2.0, 200.0]
    assert found[1].var.tolist() == [4.0, 0.0]
    expected = [[-1, 0, 1, 0, 0, 1, -1, 0], [1, 0, 1, 0, 0, 1, 1, 0]]
    np.testing.assert_allclose(encode(encoder, rows).tolist(), expected, atol=1e-6)


# ---- images


def image(height, width, channels):
    """Channels-first; every pixel is another number, as far as a byte allows."""
    c, h, w = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    return ((c * 97 + h * 7 + w * 3) % 251).astype(np.uint8)


def pixels_of(encoder, rows):
    """What the CNN sees."""
    seen = []
    with (
        torch.no_grad(),
        encoder.cnn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
    ):
        assert encode(encoder, rows).shape == (len(rows), 512)
    return seen[0]


# the space's shape, and how an image [C, H, W] is brought into it
LAYOUTS = [
    pytest.param((84, 80), 1, lambda chw: chw[0], id="HW"),
    pytest.param((84, 80, 1), 1, lambda chw: chw.transpose(1, 2, 0), id="HW1"),
    pytest.param((84, 80, 3), 3, lambda chw: chw.transpose(1, 2, 0), id="HWC"),
    pytest.param((40, 90, 3), 3, lambda chw: chw.transpose(1, 2, 0), id="wide HWC"),
    pytest.param((1, 84, 80), 1, lambda chw: chw, id="1HW"),
    pytest.param((3, 84, 80), 3, lambda chw: chw, id="CHW"),
    pytest.param((3, 40, 90), 3, lambda chw: chw, id="wide CHW"),
    pytest.param((4, 84, 84), 4, lambda chw: chw, id="stacked HW"),
    pytest.param(
        (4, 84, 80, 3), 12, lambda chw: chw.reshape(4, 3, 84, 80).transpose(0, 2, 3, 1), id="stacked HWC"
    ),
    pytest.param((4, 3, 84, 80), 12, lambda chw: chw.reshape(4, 3, 84, 80), id="stacked CHW"),
    pytest.param((2, 84, 80, 1), 2, lambda chw: chw[..., None], id="stacked HW1"),
]


@pytest.mark.parametrize(("shape", "channels", "arrange"), LAYOUTS)
def test_images_of_every_layout_come_channels_first_with_every_pixel_in_its_place(shape, channels, arrange):
    encoder = encoder_of(Box(0, 255, shape, np.uint8))
    assert isinstance(encoder, ImageEncoder)
    assert encoder.is_trainable
    assert not encoder.needs_hidden_layers
    assert encoder.features == 512
    height, width = [size for size in shape if size >= 36]
    plain = np.stack([image(height, width, channels), 250 - image(height, width, channels)])
    rows = np.stack([np.ascontiguousarray(arrange(one)) for one in plain])
    assert rows.shape == (2, *shape)
    np.testing.assert_allclose(pixels_of(encoder, rows), plain / 255.0, rtol=0.0, atol=1e-7)


def test_images_wait_as_bytes_until_they_are_needed():
    encoder = encoder_of(Box(0, 255, (84, 84, 3), np.uint8))
    rows = torch.zeros(2, 84, 84, 3, dtype=torch.uint8)
    assert encoder.preprocess(rows) is rows  # a batch in floats would be four times as large


def test_pixels_are_divided_by_the_upper_bound():
    rows = np.full((1, 36, 36), 3, np.uint8)
    assert (pixels_of(encoder_of(Box(0, 4, (36, 36), np.uint8)), rows) == 0.75).all()
    assert not pixels_of(encoder_of(Box(0, 0, (36, 36), np.uint8)), 0 * rows).any()  # not 0 / 0


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (128,), np.uint8),  # the RAM of an Atari
        Box(0, 255, (35, 84, 3), np.uint8),  # too low for the CNN
        Box(0, 255, (84, 35), np.uint8),
        Box(0, 255, (8, 8, 3), np.uint8),
        Box(0, 255, (2, 2, 2, 40, 40), np.uint8),
        Box(0.0, 1.0, (35, 84, 3), np.float32),
        Box(-1.0, 1.0, (84, 84, 3), np.float32),
        Box(0.0, 2.0, (84, 84, 3), np.float64),
        Box(-INF, INF, (84, 84, 3), np.float32),
        Box(-255, 255, (84, 84, 3), np.int16),
        Box(0, 65535, (84, 84), np.uint16),
        Box(np.zeros((84, 84)), np.where(np.eye(84), 255.0, 1.0), dtype=np.float64),  # two scales
    ],
)
def test_other_boxes_are_vectors(space):
    encoder = encoder_of(space)
    assert isinstance(encoder, VectorEncoder)
    assert encoder.features == math.prod(space.shape)
    assert not encoder.is_trainable
    assert encoder.needs_hidden_layers


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_images_of_any_dtype_are_known_by_their_bounds(dtype):
    """The CNN sees what it sees of the same image in bytes."""
    plain = np.stack([image(40, 36, 3), 250 - image(40, 36, 3)]).transpose(0, 2, 3, 1)
    top = 1 if dtype in ("bool", "int8") else 255
    rows = plain if top == 255 else plain > 125
    encoder = encoder_of(Box(0, top, (40, 36, 3), np.dtype(dtype)))
    assert isinstance(encoder, ImageEncoder)
    same = encoder_of(Box(0, top, (40, 36, 3), np.uint8))
    found, want = pixels_of(encoder, rows.astype(dtype)), pixels_of(same, rows.astype(np.uint8))
    np.testing.assert_array_equal(found, want)


def test_floats_between_0_and_1_reach_the_cnn_as_they_are():
    rows = np.linspace(0.0, 1.0, 40 * 36, dtype=np.float32).reshape(1, 40, 36)
    space = Box(0.0, 1.0, (40, 36), np.float32)
    np.testing.assert_array_equal(pixels_of(encoder_of(space, ObservationNormalizer), rows)[0], rows)


def test_small_images_are_vectors_of_scaled_bytes():
    found = features(Box(0, 255, (2, 2, 1), np.uint8), np.array([[[[0], [51]], [[102], [255]]]], np.uint8))
    np.testing.assert_allclose(found, [[0.0, 0.2, 0.4, 1.0]], atol=1e-7)


def test_an_image_encoder_is_a_nature_cnn_with_the_weights_of_its_seed():
    encoder = encoder_of(Box(0, 255, (84, 84, 3), np.uint8), seed=3)
    cnn = NatureCNN(3, 84, 84, torch.Generator().manual_seed(3))
    left, right = weights_of(encoder.cnn), weights_of(cnn)
    assert all(torch.equal(left[name], right[name]) for name in right)


# ---- Dict and Tuple


MIXED = Dict(
    [
        ("vector", Box(-9.0, 9.0, (2,), np.float64)),
        ("camera", Box(0, 255, (36, 40, 3), np.uint8)),
        ("where", Tuple([Discrete(3, start=1), Box(0, 10, (1,), np.int16)])),
        ("map", Box(0, 255, (36, 36), np.uint8)),
    ]
)


def mixed_rows(count):
    MIXED.seed(3)
    elements = [MIXED.sample() for _ in range(count)]
    return elements, torch.from_numpy(np.stack([pack(MIXED, element) for element in elements]))


@pytest.mark.parametrize("count", [1, 4])
def test_dict_features_are_those_of_its_leaves_side_by_side(count):
    encoder = encoder_of(MIXED)
    elements, rows = mixed_rows(count)
    kinds = [VectorEncoder, ImageEncoder, OneHotEncoder, VectorEncoder, ImageEncoder]
    assert [type(part) for part in encoder.parts] == kinds
    assert encoder.features == 2 + 512 + 3 + 1 + 512
    with torch.no_grad():
        found = encode(encoder, rows)
        assert found.shape == (count, encoder.features)
        for row, element in zip(found, elements, strict=True):
            np.testing.assert_allclose(row[:2], element["vector"], rtol=1e-6)
            camera = torch.as_tensor(element["camera"])[None]
            torch.testing.assert_close(row[2:514], encoder.parts[1](camera)[0])
            assert row[514:517].tolist() == [float(k == element["where"][0]) for k in (1, 2, 3)]
            assert float(row[517]) == pytest.approx(element["where"][1][0] / 10.0)
            torch.testing.assert_close(row[518:], encoder.parts[4](torch.as_tensor(element["map"])[None])[0])


def test_every_part_of_a_dict_is_learnt():
    encoder = encoder_of(MIXED)
    _, rows = mixed_rows(3)
    encode(encoder, rows).square().sum().backward()
    found = {name.split(".")[1] for name, p in encoder.named_parameters() if p.grad is not None}
    assert found == {"1", "4"}  # the two images
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_images_in_a_dict_have_separate_networks():
    space = Dict(left=Box(0, 255, (36, 36), np.uint8), right=Box(0, 255, (36, 36), np.uint8))
    left, right = encoder_of(space).parts
    assert not torch.equal(left.cnn.layers[0].weight, right.cnn.layers[0].weight)


def test_what_has_no_weights_is_done_ahead():
    space = Dict([("choice", Discrete(2)), ("numbers", Box(0, 4, (2,), np.int64))])
    encoder = encoder_of(space)
    rows = torch.from_numpy(np.stack([pack(space, {"choice": 1, "numbers": np.array([1, 4])})]))
    inputs = encoder.preprocess(rows)
    assert inputs.tolist() == [[0.0, 1.0, 0.25, 1.0]]
    assert encoder(inputs) is inputs
    mixed = encoder_of(MIXED)
    rows = mixed_rows(2)[1]
    assert mixed.preprocess(rows) is rows  # here the CNN would have to be undone


@pytest.mark.parametrize(
    ("space", "is_trainable", "is_image"),
    [
        (Dict(a=Discrete(2), b=MultiBinary(2)), False, False),
        (MIXED, True, False),
        (Tuple([Box(0, 255, (36, 36), np.uint8)]), True, True),
        (Dict(a=Box(0, 255, (36, 36), np.uint8), action_mask=MultiBinary(2)), True, True),
    ],
)
def test_a_composite_is_an_image_if_there_is_nothing_else_in_it(space, is_trainable, is_image):
    encoder = encoder_of(space)
    assert isinstance(encoder, CompositeEncoder)
    assert (encoder.is_trainable, not encoder.needs_hidden_layers) == (is_trainable, is_image)


def test_the_action_mask_is_left_out_where_it_is_one():
    space = Dict([("action_mask", MultiBinary(3)), ("obs", Box(0, 9, (2,), np.float32))])
    row = pack(space, {"action_mask": np.array([1, 0, 1], np.int8), "obs": np.array([4, 5], np.float32)})
    assert features(space, row[None]) == [[4.0, 5.0]]
    deeper = Dict(inner=Dict(action_mask=MultiBinary(3)))  # a key like any other
    assert encoder_of(deeper).features == 3


@pytest.mark.parametrize("space", [Dict(), Tuple([]), Dict(action_mask=MultiBinary(3)), Dict(a=Tuple([]))])
def test_a_space_without_anything_to_see_is_refused(space):
    with pytest.raises(ValueError, match="nothing to learn from"):
        encoder_of(space)


def test_a_space_without_an_encoder_is_named():
    with pytest.raises(ValueError, match=r"Text\(.* is not supported: it must be Box, Discrete"):
        encoder_of(gym.spaces.Text(3))


@pytest.mark.parametrize("space", [MIXED, Box(0, 255, (36, 36), np.uint8)])
def test_encoders_draw_from_their_own_generator_only(space):
    before = torch.get_rng_state()
    encoder_of(space)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "space", [MIXED, MultiDiscrete([2, 3]), Box(0, 9, (3,), np.int64), Dict(a=Discrete(2))]
)
def test_no_rows_give_no_features(space):
    shape, dtype = (pack(space, space.sample()).shape, pack(space, space.sample()).dtype)
    encoder = encoder_of(space)
    assert encode(encoder, np.zeros((0, *shape), dtype)).shape == (0, encoder.features)


def test_modules_of_an_encoder_are_saved_with_it():
    encoder = encoder_of(MIXED, ObservationNormalizer)
    names = set(encoder.state_dict())
    assert {"parts.0.normalizer.mean", "parts.3.normalizer.count", "parts.1.cnn.layers.0.weight"} <= names
    assert not any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
