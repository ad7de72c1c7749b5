"""Copies of an env that exists already, with all that was changed in it after it had been made."""

from __future__ import annotations

import gymnasium as gym

from workers.env_builders import Builder, FromPickle, FromSpec, WithAttributes, pickle_attributes
from workers.env_compare import AnyEnv, Attribute, attributes, differences, layers, same_kind
from workers.env_specs import portable, spec_of
from workers.errors import USER_ERRORS, EnvError, one_line
from workers.pickling import dumps

_PROBE_STEPS = 3


def copies_of(env: AnyEnv) -> tuple[Builder, str]:
    """A builder of copies of an env, and the env's name.

    A copy equals the env in every attribute of each of its layers that can be compared (see
    `env_compare.differences`): built from the spec if that gives an equal env, else by cloudpickle if that
    does, else from the spec, with the attributes that differ.

    Raises:
        EnvError: none of them gives an equal env; the message names the attribute.
    """
    spec = spec_of(env)
    name = type(env.unwrapped).__name__ if spec is None else spec.id
    from_spec: Builder | None = None
    if spec is not None and not _has_wrapper_of_main(spec):
        from_spec = FromSpec(portable(spec), {}, None)
        changed = _differences(from_spec, env)
        if changed == []:
            return from_spec, name
        from_spec = None if changed is None else from_spec
    try:
        pickled = FromPickle(dumps(name, env))
    except EnvError:
        if from_spec is None:
            raise
        return _with_changes(name, from_spec, env), name
    changed = _differences(pickled, env)
    if changed == []:
        return pickled, name
    base = from_spec or (None if changed is None else pickled)
    if base is None:
        raise EnvError(f"{name} cannot be sent to a worker process: its pickle gives an env of another kind")
    return _with_changes(name, base, env), name


def _has_wrapper_of_main(spec: gym.envs.registration.EnvSpec) -> bool:
    """A spec names its wrappers by module and class; a child has another `__main__` (see `portable`)."""
    return any(wrapper.entry_point.startswith("__main__:") for wrapper in spec.additional_wrappers)


def _differences(build: Builder, env: AnyEnv) -> list[Attribute] | None:
    """What a new env differs in; None if it cannot be built or is of another kind."""
    try:
        copy = build()
    except Exception:  # whatever it is, there are other ways to copy the env
        return None
    try:
        return differences(copy, env) if same_kind(copy, env) else None
    finally:
        close_quietly(copy)


def _with_changes(name: str, build: Builder, env: AnyEnv) -> Builder:
    """New envs with those attributes of `env` that differ."""
    changed = _differences(build, env) or []
    errors = {attribute: error for attribute in changed if (error := _pickling_error(env, attribute))}
    if errors:
        # Not what the user has changed, but what comes and goes by itself: a window, a connection, bodies
        # of a physics engine.
        passing = _passing(build)
        changed = [attribute for attribute in changed if attribute not in passing]
        for attribute, error in errors.items():
            if attribute not in passing:
                raise _refusal(name, env, attribute, f": {error}")
    else:
        passing = set()
    stack = layers(env)
    set_here = tuple(
        attribute for attribute in changed if attribute.name in attributes(stack[attribute.layer])
    )
    deleted = tuple(attribute for attribute in changed if attribute not in set_here)
    copies = WithAttributes(build, set_here, pickle_attributes(env, list(set_here)), deleted)
    left = _differences(copies, env)
    if left is None:
        raise EnvError(f"{name} cannot be copied for the workers: pass a function that makes it")
    for attribute in left:
        if attribute not in passing:
            raise _refusal(name, env, attribute, "")
    return copies


def _pickling_error(env: AnyEnv, attribute: Attribute) -> str:
    """Why an attribute cannot be pickled; "" if it can, or if `env` has none of this name."""
    if attribute.name not in attributes(layers(env)[attribute.layer]):
        return ""
    try:
        pickle_attributes(env, [attribute])
    except Exception as error:  # anything may be raised by a user's __reduce__
        return one_line(error)
    return ""


def _passing(build: Builder) -> set[Attribute]:
    """Attributes that an env sets by itself: anew in each env, or in `reset`, `step` and `render`."""
    fresh, used = build(), build()
    try:
        by_itself = set(differences(fresh, used))
        try:
            _use(used)
        except USER_ERRORS:  # what it did until then is all that can be learnt
            pass
        return by_itself | set(differences(fresh, used))
    finally:
        close_quietly(fresh)
        close_quietly(used)


def _use(env: AnyEnv) -> None:
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(_PROBE_STEPS):
        if env.render_mode is not None:
            env.render()
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break


def _refusal(name: str, env: AnyEnv, attribute: Attribute, why: str) -> EnvError:
    layer = layers(env)[attribute.layer]
    return EnvError(
        f"{name} was changed after it had been made, and {type(layer).__name__}.{attribute.name} cannot be "
        f"sent to a worker process{why}; pass a function that makes the env and changes it"
    )


def close_quietly(*envs: AnyEnv) -> None:
    """Close envs that are no longer needed; an exception in `close` is of no consequence then."""
    for env in envs:
        try:
            env.close()
        except USER_ERRORS:  # the env is the user's code
            pass
