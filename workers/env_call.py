"""One call to a method of envs, or one attribute that is set: something that changes envs between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from workers import data_pickle
from workers.arrays import Ids
from workers.errors import EnvCallError, RemoteTraceback
from workers.infos import InfoGroup

DONE, RAISED = b"\0", b"\1"
"""What the answer of a worker begins with: the pickled results, or the pickled message and traceback."""


@dataclass(frozen=True)
class EnvCall:
    """A call; wrappers are searched, too.

    Attributes:
        verb: "method" calls a method; "call" does as Gymnasium's vector envs, for which an attribute that
            cannot be called is its own result; "set" sets an attribute, which has to be there; "attribute"
            returns one; "look_up" only looks whether it is there.
        name: of the method or attribute.
        args, kwargs: of the method; of "set", `args` is the value.
        per_env: of "set": `args` has a value for each of the N envs.
    """

    verb: Literal["method", "call", "set", "attribute", "look_up"]
    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    per_env: bool = False

    def __str__(self) -> str:
        words = {"set": "setting", "attribute": "reading", "look_up": "looking up"}
        return f"{words[self.verb]} {self.name}" if self.verb in words else f"{self.name}()"

    def of_env(self, env: Any, index: int) -> Any:
        """Carry it out in one env; its result. Raises whatever the env raises.

        Args:
            env: with its wrappers.
            index: of the env in its pool.
        """
        if self.verb != "set":
            found = env.get_wrapper_attr(self.name)
            if self.verb == "look_up":
                return None
            if self.verb == "attribute" or (self.verb == "call" and not callable(found)):
                return found
            return found(*self.args, **self.kwargs)
        if not env.has_wrapper_attr(self.name):
            raise AttributeError(f"neither the env nor a wrapper has an attribute {self.name!r}")
        env.set_wrapper_attr(self.name, self.args[index if self.per_env else 0])
        return None


def results_of(answer: bytes) -> list[Any]:
    """The results in the answer of a worker.

    Raises:
        EnvCallError: an env raised, or a result cannot be sent.
        NotData: a result is an object of a class that is not data.
        pickle.UnpicklingError: these are other bytes.
    """
    content = data_pickle.load(memoryview(answer)[1:])
    if answer[:1] == RAISED:
        message, text = content
        raise EnvCallError(message, traceback=text) from (RemoteTraceback(text) if text else None)
    found: list[Any] = content
    return found


class ChangesEnvs(Protocol):
    """Calls to the envs of a pool. Envs that are called have no command open.

    All raise `WorkerError` if a worker dies, hangs or reports a failed env.
    """

    def carry_out(self, env_ids: Ids, calls: Sequence[EnvCall], results: bool = False) -> list[Any]:
        """Make the calls that these envs have not had yet.

        Args:
            env_ids: i64[G], ascending.
            calls: all that these envs are to have had, from the first on; those before are known already.
            results: whether to return something.

        Returns:
            With `results`, what the last call has returned, G of them; None where it was made before.

        Raises:
            ValueError: the envs have had more calls.
            EnvCallError: an env raised, or a result cannot be sent.
            NotData: a result is an object of a class that is not data.
        """

    def behind(self, env_ids: Ids, count: int) -> bool:
        """Whether one of these envs has not had the first `count` calls yet."""

    def check(self, calls: Sequence[EnvCall]) -> None:
        """Check that all calls which envs have had are the first ones of a list.

        Raises:
            ValueError: they are others.
        """

    def made(self, env: int) -> Sequence[EnvCall]:
        """The calls that an env has had, from the first on."""

    def get(self, env_ids: Ids, name: str) -> list[Any]:
        """An attribute of each of these envs, or of one of its wrappers.

        Raises:
            EnvCallError: an env has no such attribute, or it cannot be sent.
            NotData: it is an object of a class that is not data.
        """

    def require(self, env_ids: Ids, name: str) -> None:
        """Look whether each of these envs, or one of its wrappers, has an attribute or method.

        Raises:
            EnvCallError: an env has not.
        """

    def infos(self, env_ids: Ids) -> list[InfoGroup]:
        """The last info of each of these envs; see `workers.wrappers.LastInfo`.

        Raises:
            EnvCallError: an info cannot be sent.
            NotData: an info holds an object of a class that is not data.
        """
