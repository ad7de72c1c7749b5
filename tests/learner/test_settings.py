"""Wrong hyper-parameters: one line that names the field, the value and what is allowed."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from learner.ppo_config import PPOConfig
from learner.settings import ConfigError, check, type_in_words

POSITIVE = "a positive number"
SHARE = "between 0 and 1"
COUNT = "at least 1"
NOT_NEGATIVE = "0 or a positive number"

# field -> what is allowed, values outside, values at the edge inside
RULES = {
    "actor_lr": (POSITIVE, [0.0, -1e-3, math.inf], [1e-9, 10.0]),
    "critic_lr": (POSITIVE, [0.0, -1e-3, math.inf], [1e-9, 10.0]),
    "gamma": (SHARE, [-0.01, 1.01, math.inf], [0.0, 0.5, 1.0]),
    "gae_lambda": (SHARE, [-0.01, 1.01, -math.inf], [0.0, 0.5, 1.0]),
    "clip_range": (POSITIVE, [0.0, -0.2, math.inf], [1e-3, 2.0]),
    "clip_range_vf": (POSITIVE, [0.0, -0.2, math.inf], [None, 1e-3, 20.0]),
    "num_epochs": (COUNT, [0, -1], [1, 1000]),
    "minibatch_size": (COUNT, [0, -64], [1, 10**9]),
    "ent_coef": (NOT_NEGATIVE, [-1e-9, math.inf], [0.0, 1.0]),
    "vf_coef": (NOT_NEGATIVE, [-0.5, math.inf], [0.0, 1.0]),
    "max_grad_norm": (POSITIVE, [0.0, -0.5, math.inf], [1e-9, 1e9]),
    "target_kl": (POSITIVE, [0.0, -0.01, math.inf], [None, 1e-9, 1.0]),
}
FLAGS = {"anneal_lr", "anneal_clip_range", "normalize_advantage", "normalize_reward", "compile", "bf16"}


def test_every_number_has_a_rule():
    assert {item.name for item in dataclasses.fields(PPOConfig)} == set(RULES) | FLAGS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, v)
        for field, rule in RULES.items()
        for v in [*rule[1], *([] if rule[0] == COUNT else [math.nan])]
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(field, value):
    with pytest.raises(ConfigError) as caught:
        PPOConfig(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field} must be ")
    assert RULES[field][0] in message
    assert message.endswith(f"got {value!r}")
    assert "\n" not in message


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, rule in RULES.items() for v in rule[2]])
def test_a_value_at_the_edge_is_taken(field, value):
    assert getattr(PPOConfig(**{field: value}), field) == value


def test_a_config_cannot_be_changed_unchecked():
    config = PPOConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.gamma = 2.0
    with pytest.raises(ConfigError, match="gamma"):
        dataclasses.replace(config, gamma=2.0)


def test_a_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


def test_check_names_the_first_wrong_field_and_takes_none_only_where_it_is_the_default():
    @dataclasses.dataclass
    class Config:
        first: int | None = None
        second: int = 1
        third: int = 6

    rules = (("first second", lambda v: v > 0, "positive"), ("third", lambda v: v > 5, "more than 5"))
    check(Config(None, 1, 6), rules)
    with pytest.raises(ConfigError, match=r"^second must be positive, got -1$"):
        check(Config(1, -1, 0), rules)
    with pytest.raises(ConfigError, match=r"^third must be more than 5, got 5$"):
        check(Config(1, 1, 5), rules)
    with pytest.raises(ConfigError, match=r"^second must be an integer, got None$"):
        check(Config(None, None), rules)


@pytest.mark.parametrize(
    ("hint", "words", "right", "wrong"),
    [
        (int, "an integer", [3, np.int64(3)], [3.0, math.nan, "3", True, None]),
        (float, "a number", [0.5, 2, np.float32(0.5), np.int64(2)], ["0.5", False, None, [0.5]]),
        (bool, "true or false", [True, np.bool_(False)], [1, 0.0, "no", None]),
        (str, "text", ["a"], [1, b"a", None]),
        (Path, "a path", [Path("a"), "a"], [1, None]),
        (int | None, "an integer or null", [3, None], [0.5, "", False]),
        (float | None, "a number or null", [0.5, None], ["", True]),
        (Literal["a", "b"], "a or b", ["a", "b"], ["c", None, 1]),
        (Sequence[int], "a list, each an integer", [(), [1], (1, np.int32(2))], [3, "12", [0.5], [None]]),
        (Sequence[str], "a list, each text", [["a"], ()], ["a", [1]]),
        (Mapping[str, Any], "a mapping", [{}, {"a": 1}], [[], "a", None]),
        (set, "<class 'set'>", [set(), 3], []),  # of a subclass's own: nothing is known about it
    ],
)
def test_every_setting_has_its_type(hint, words, right, wrong):
    config_class = dataclasses.make_dataclass("Config", [("setting", hint)])
    assert type_in_words(hint) == words
    for value in right:
        check(config_class(value), ())
    for value in wrong:
        with pytest.raises(
            ConfigError, match=f"^setting must be {re.escape(words)}, got {re.escape(repr(value))}$"
        ):
            check(config_class(value), ())
