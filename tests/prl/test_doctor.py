"""`prl doctor`: rows for people, JSON for programs, flags with reasons, and an exit code."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest

from prl.commands import doctor
from prl.commands.diagnosis import machine, speed
from prl.commands.diagnosis.advice import advise, command
from prl.commands.diagnosis.machine import Plan, available_memory, machine_findings, size
from prl.commands.diagnosis.networks import network_findings
from prl.commands.diagnosis.speed import Chosen, speed_findings
from prl.commands.diagnosis.workers import worker_findings
from prl.commands.main import dispatch
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory
from workers import exam, exam_needs
from workers.envs import env_factory
from workers.exam_checks import duration
from workers.findings import Finding, Severity, ok, warning
from workers.testing import ProbeEnv

CARTPOLE = build_factory(TrainConfig(env_id="CartPole-v1"))
ROWS = [
    *("environment", "checker", "plays", "time limit", "cost", "seed", "generators", "replay", "threads"),
    *("processes", "observations", "actions", "worker", "cores"),
]


@pytest.fixture
def in_this_process(monkeypatch):
    """Exams without processes of their own, and no worker: tests of those have tried them."""

    def watched(job, silence):
        messages = []
        job.run(messages.append)
        return messages

    monkeypatch.setattr(exam, "watched", watched)
    monkeypatch.setattr(exam_needs, "_computing_threads", lambda: 1)  # this process may have more
    monkeypatch.setattr(doctor, "worker_findings", lambda factory, config, env_bytes: [])


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    monkeypatch.setattr(machine, "busy_cores", list)


def run(name, *flags):
    env_id = name if "-v" in name else f"doctor_envs:doctor/{name}-v0"
    seconds = () if "--seconds" in flags else ("--seconds", "0")
    return dispatch(["doctor", "--env-id", env_id, *seconds, *flags], "prl")


def rows_of(out):
    """The first words of each row: its mark and its name."""
    return {line[7:20].strip(): line[:5].strip() for line in out.splitlines() if line[:5].strip() in MARKS}


MARKS = ("ok", "note", "WARN", "ERROR")


def test_a_good_env_is_told_so(tmp_path, capsys, leaves_nothing):
    """All of it, with real processes."""
    file = tmp_path / "found.json"
    flags = ("--seconds", "0.2", "--num-workers", "0", "--num-envs", "4")
    assert run("CartPole-v1", *flags, "--json", str(file)) == 0
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert list(rows)[: len(ROWS)] == ROWS
    assert set(rows.values()) == {"ok"}
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\nprl train --env-id CartPole-v1 --num-workers 0\n" in out
    assert out.endswith("\nAll is well.\n")
    content = json.loads(file.read_text())
    assert (content["exit_code"], content["command"]) == (0, "prl train --env-id CartPole-v1 --num-workers 0")
    assert [each["name"] for each in content["findings"]] == list(rows)
    found = content["findings"][-1]
    assert found["name"] == "speed"
    assert min(found["numbers"]["trained"], found["numbers"]["collected"]) > 0
    assert "applies by itself" in content["advice"][0]["reason"]


def test_what_depends_on_the_process_is_noticed(capsys, leaves_nothing):
    assert run("Process") == 1
    out = capsys.readouterr().out
    assert {name for name, mark in rows_of(out).items() if mark == "WARN"} == {"processes"}
    assert out.endswith("\n1 warning: it can be trained.\n")


@pytest.mark.parametrize(("name", "row"), [("NumpyGlobal", "generators"), ("Remembers", "replay")])
def test_warnings_have_their_exit_code(name, row, in_this_process, capsys):
    assert run(name) == 1
    assert rows_of(capsys.readouterr().out)[row] == "WARN"


def test_an_env_that_fails_shows_its_traceback(in_this_process, capsys):
    assert run("Faulty", "--env-kwargs", "fault=raise", "at_step=3") == 2
    lines = capsys.readouterr().out.splitlines()
    assert "         ValueError: boom" in lines
    assert lines[-1].endswith("1 error, 1 warning: it cannot be trained so.")


def test_one_that_cannot_be_built_has_one_row(in_this_process, capsys):
    assert run("CartPol-v1") == 2
    out = capsys.readouterr()
    assert rows_of(out.out) == {"environment": "ERROR"}
    assert "did you mean 'CartPole-v1'?" in " ".join(out.out.split())
    assert out.err == ""


def test_a_missing_time_limit_is_an_error_with_a_way_out(in_this_process, capsys):
    assert run("Endless") == 2
    out = capsys.readouterr().out
    assert rows_of(out)["time limit"] == "ERROR"
    assert "prl train --env-id doctor_envs:doctor/Endless-v0 --ends-by-itself\n" in out
    assert "each after 30 steps" in out
    assert out.endswith("\n1 error, 0 warnings: it cannot be trained so, but with the command above.\n")
    assert run("Endless", "--rollout", "steps") == 0
    assert rows_of(capsys.readouterr().out)["time limit"] == "note"
    assert run("Endless", "--max-episode-steps", "10") == 0
    assert (
        "\nprl train --env-id doctor_envs:doctor/Endless-v0 --max-episode-steps 10" in capsys.readouterr().out
    )


def test_json_alone_on_the_standard_output(in_this_process, capsys):
    assert run("Remembers", "--json", "-") == 1
    content = json.loads(capsys.readouterr().out)
    (found,) = [each for each in content["findings"] if each["severity"] == "warning"]
    assert found["name"] == "replay"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seconds", "-1"), "doctor: seconds must be 0 or a positive number, at most 3600, got -1.0"),
        (("--call-timeout", "0"), "doctor: call_timeout must be a positive number of seconds"),
        (("--num-envs", "many"), "doctor: --num-envs must be an integer or auto, got 'many'"),
    ],
)
def test_bad_input_ends_in_one_line(flags, message, capsys):
    assert run("CartPole-v1", *flags) == 2
    out = capsys.readouterr()
    assert out.err.startswith(message)
    assert (len(out.err.splitlines()), out.out) == (1, "")


# ---- parts


def texts(findings):
    return {each.name: each.text for each in findings if isinstance(each, Finding)}


def spaces_of(observation_space, action_space=None):
    return dataclasses.replace(
        CARTPOLE,
        observation_space=observation_space,
        action_space=CARTPOLE.action_space if action_space is None else action_space,
    )


def test_what_networks_make_of_spaces():
    config = TrainConfig(env_id="CartPole-v1", normalize_obs=True)
    image = gym.spaces.Box(0, 255, (84, 84, 3), np.uint8)
    found = texts(network_findings(spaces_of(image), config))
    assert found["observations"] == (
        "Box(84, 84, 3) of uint8: an image, by a NatureCNN with 512 features that actor and critic share"
    )
    parts = gym.spaces.Dict(at=gym.spaces.Discrete(5), action_mask=gym.spaces.MultiBinary(4))
    actions = gym.spaces.Tuple([gym.spaces.MultiDiscrete([2, 2])])
    found = texts(network_findings(spaces_of(parts, actions), config))
    assert found["observations"].startswith(
        "Dict of 2: ['at'] one-hot, 5 choices; actor and critic with 64-64"
    )
    assert found["actions"] == (
        "Tuple of 1: [0] categorical, 2 choices of 2 to 2 each; masks rule illegal ones out"
    )
    box = gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))
    found = texts(network_findings(spaces_of(box, box), config))
    assert "2 numbers, normalised by running statistics" in found["observations"]
    assert found["actions"] == "Box(2,) of float32: Gaussian, 2 numbers, 1 squashed into bounds"


def test_networks_that_cannot_be_made_are_an_error():
    (found,) = network_findings(CARTPOLE, TrainConfig(env_id="CartPole-v1", encoder="nowhere"))
    assert (found.severity, found.text) == (Severity.ERROR, "encoder must be module:Class, got 'nowhere'")


def test_what_a_run_would_say_of_spaces_is_noted():
    small = gym.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    factory = dataclasses.replace(spaces_of(small), ignored_observations=("observation['text'] (Text)",))
    found = texts(network_findings(factory, TrainConfig(env_id="CartPole-v1")))
    assert "at least 36 pixels" in found["spaces"]
    assert "observation['text']" in found["left out"]


def test_a_worker_that_cannot_start_is_an_error(leaves_nothing):
    broken = dataclasses.replace(
        env_factory(ProbeEnv), payload=CARTPOLE.payload, observation_space=gym.spaces.Box(0, 1, (2,))
    )
    (found,) = worker_findings(broken, TrainConfig(env_id="CartPole-v1"), None)
    assert found.severity is Severity.ERROR
    assert "its observation_space is" in found.text


PLAN = Plan(num_workers=2, num_envs=8, memory=10**8, shared_memory=10**6, descriptors=10)


@pytest.mark.parametrize(
    ("scarce", "row"),
    [
        ({"memory": 10**15}, "memory"),
        ({"shared_memory": 10**15}, "shared memory"),
        ({"descriptors": 10**7}, "descriptors"),
        ({}, None),
    ],
)
def test_what_is_scarce_is_a_warning(scarce, row, monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(machine, "available_memory", lambda: 10**10)
    findings = list(machine_findings(dataclasses.replace(PLAN, **scarce)))
    assert [each.name for each in findings] == ["cores", "memory", "shared memory", "descriptors"]
    assert [each.name for each in findings if each.severity is Severity.WARNING] == ([row] if row else [])


def test_memory_is_what_is_free_within_the_limit_of_the_group(tmp_path):
    assert available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 90 kB\nMemAvailable:  50 kB\n")
    assert available_memory(tmp_path) == 51_200
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 51_200
    (group / "memory.max").write_text("4000\n")
    assert available_memory(tmp_path) == 3000


def test_units():
    assert [size(count) for count in (700, 1.5e6, 2e9)] == ["0.7 kB", "1.5 MB", "2 GB"]
    assert [duration(s) for s in (2.5e-6, 0.9996e-3, 0.25, 3.0)] == ["2.5 us", "1 ms", "250 ms", "3 s"]


# ---- advice


def advice_on(config=None, findings=(), data=None, chosen=None, factory=CARTPOLE, preset=None):
    config = config or TrainConfig(env_id="CartPole-v1")
    found = list(advise(config, factory, findings, data or {}, preset, chosen))
    return [each.flags for each in found], found


def test_no_advice_is_given_for_nothing():
    assert advice_on() == ([], [])


def test_flags_follow_from_what_was_found():
    scarce = [warning("shared memory", "too little")]
    assert advice_on(findings=scarce)[0] == ["--transport pipe"]
    assert advice_on(TrainConfig(env_id="a", transport="pipe"), scarce)[0] == []
    assert advice_on(data={"largest": 10.5})[0] == ["--normalize-obs"]
    assert advice_on(data={"largest": 9.5})[0] == []
    assert advice_on(TrainConfig(env_id="a", normalize_obs=True), data={"largest": 10.5})[0] == []
    two = TrainConfig(env_id="a", num_workers=2, num_envs=9)  # five in one of them
    assert advice_on(two, data={"longest_call": 5.9})[0] == []
    assert advice_on(two, data={"longest_call": 6.1})[0] == ["--step-timeout 124"]
    endless = dataclasses.replace(CARTPOLE, has_time_limit=False)
    flags, (only,) = advice_on(factory=endless, data={"lengths": [3, 9]})
    assert flags == ["--rollout steps"]
    assert "random episodes ended after 9 steps at most" in only.reason
    assert "no episode ended" in advice_on(factory=endless)[1][0].reason


def test_an_env_that_ends_its_episodes_itself_is_believed():
    endless = dataclasses.replace(CARTPOLE, has_time_limit=False)
    for data, said in (
        ({"lengths": [5, 9, 40], "truncated": 1}, "the env itself truncated 1 of 3 episodes"),
        ({"lengths": [7, 7, 7], "truncated": 0}, "the env itself ended 3 episodes, each after 7 steps"),
    ):
        flags, (only,) = advice_on(factory=endless, data=data)
        assert flags == ["--ends-by-itself"]
        assert said in only.reason
    flags, (only,) = advice_on(factory=endless, data={"lengths": [7, 7], "truncated": 0})
    assert flags == ["--rollout steps"]
    assert "say --ends-by-itself, if episodes end whatever the policy does" in only.reason


def test_a_slow_constructor_is_said_with_the_timeout_to_use():
    built = [ok("environment", "built", build_seconds=4.9)]
    assert advice_on(findings=built)[0] == []
    config = TrainConfig(env_id="a", num_workers=2, num_envs=9)
    flags, (only,) = advice_on(config, [ok("environment", "built", build_seconds=6.0)])
    assert flags == [""]
    assert "building an env takes 6 s, so a worker with 5 envs starts in about 30 s" in only.reason
    assert only.reason.endswith("--start-timeout 120 is enough for each")
    assert advice_on(config, [ok("environment", "built", build_seconds=60.5)])[0] == ["--start-timeout 244"]


def test_starts_that_take_long_are_not_measured(monkeypatch, in_this_process, capsys):
    monkeypatch.setattr(doctor, "build_seconds", lambda findings: 31.0)
    assert run("Plain", "--seconds", "0.1", "--num-workers", "1", "--num-envs", "1") == 0
    assert "not measured, since each worker would start in about 31 s" in capsys.readouterr().out


def test_measured_numbers_are_flags_where_they_were_open():
    chosen = Chosen({"num_workers": 2, "num_envs": 32, "acting": "worker"}, ["why", "because"], 9.0, 5.0)
    config = TrainConfig(env_id="a", num_workers="auto")
    flags, (only,) = advice_on(config, chosen=chosen)
    assert (flags, only.reason) == (["--num-workers 2 --acting worker"], "why; because")
    fixed = dataclasses.replace(config, acting="worker")
    assert advice_on(fixed, chosen=chosen)[0] == ["--num-workers 2"]
    both = dataclasses.replace(config, num_envs="auto")
    assert advice_on(both, chosen=chosen)[0] == ["--num-workers 2 --num-envs 32 --acting worker"]


def test_the_command_can_be_pasted():
    config = TrainConfig(
        env_id="CartPole-v1",
        env_kwargs={"a": "no", "b": (1, 2)},
        wrappers=("gymnasium.wrappers:FrameStackObservation(stack_size=4)",),
        ends_by_itself=True,
        action_masks=False,
    )
    text = command(config, [])
    assert text.startswith("prl train --env-id CartPole-v1 --env-kwargs 'a='\"'\"'no'\"'\"'' 'b=!tuple")
    assert text.endswith("--ends-by-itself --no-action-masks")


# ---- speed


def test_a_measurement_that_fails_is_an_error(monkeypatch):
    def watched(job, silence):
        raise speed.ProbeEnded("its process died with exit code 7", "")
        yield

    monkeypatch.setattr(speed, "watched", watched)
    (found,) = speed_findings(TrainConfig(env_id="CartPole-v1"), 0.2)
    assert found.severity is Severity.ERROR
    assert found.text == "measuring failed: its process died with exit code 7"


def test_the_flags_of_a_measurement_reach_the_command(monkeypatch, in_this_process, capsys):
    chosen = Chosen({"num_workers": 1, "num_envs": 32, "acting": "worker"}, ["1 worker is fastest"], 9.0, 5.0)
    monkeypatch.setattr(doctor, "speed_findings", lambda config, seconds: [chosen])
    assert run("Plain", "--seconds", "0.1") == 0
    out = capsys.readouterr().out
    assert "prl train --env-id doctor_envs:doctor/Plain-v0 --num-workers 1 --acting worker\n" in out
    assert "  --num-workers 1 --acting worker: 1 worker is fastest.\n" in out
