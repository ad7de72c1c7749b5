"""Mistakes in writing checkpoints, and in going on from them."""

from __future__ import annotations

from mutation import Mutation

CHECKPOINTS = (
    Mutation(
        "a checkpoint is written under its own name",
        "prl/run/files.py",
        "        os.rename(temporary, path)\n        _sync_folder(path.parent)",
        "        _sync_folder(temporary)",
        ("prl/test_checkpoints.py",),
    ),
    Mutation(
        "files of a checkpoint are not synced",
        "prl/run/files.py",
        "        os.fsync(file)\n    finally:\n        os.close(file)",
        "        pass\n    finally:\n        os.close(file)",
        ("prl/test_checkpoints.py",),
    ),
    Mutation(
        "old checkpoints are removed before the new one is there",
        "prl/run/checkpoints.py",
        "        write_folder(path, to_files(checkpoint))\n        self._remove_old(best)",
        "        self._keep -= 1\n        self._remove_old(best)\n        self._keep += 1\n"
        "        write_folder(path, to_files(checkpoint))",
        ("prl/test_checkpoints.py",),
    ),
    Mutation(
        "the best checkpoint is not kept",
        "prl/run/checkpoints.py",
        "if path.name != str(best):",
        "if True:",
        ("prl/test_checkpoints.py",),
    ),
    Mutation(
        "hashes of a checkpoint are not compared",
        "prl/run/checkpoint_files.py",
        'if hashlib.sha256(content).hexdigest() != expected["sha256"]:',
        "if False:",
        ("prl/test_damaged_checkpoints.py",),
    ),
    Mutation(
        "symbolic links are followed",
        "prl/run/checkpoint_files.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        ("prl/test_damaged_checkpoints.py",),
    ),
    Mutation(
        "weights of a checkpoint may be NaN",
        "prl/run/checkpoint_check.py",
        "    if wrong.any():",
        "    if False:",
        ("prl/test_damaged_checkpoints.py",),
    ),
    Mutation(
        "shapes of a checkpoint are not checked",
        "prl/run/checkpoint_check.py",
        "if found.dtype != template.dtype or not (same_shape or grows):",
        "if False:",
        ("prl/test_damaged_checkpoints.py",),
    ),
    Mutation(
        "a damaged checkpoint is passed over in silence",
        "prl/run/resume.py",
        "        for path, reason in self._refused:\n            _warn(",
        "        for path, reason in self._refused:\n            str(",
        ("prl/test_damaged_checkpoints.py",),
    ),
    Mutation(
        "rows after the checkpoint stay",
        "prl/run/rewinding.py",
        "    os.truncate(path, end)\n    return names",
        "    return names",
        ("prl/test_resume.py",),
    ),
    Mutation(
        "evaluations begin anew when a run goes on",
        "prl/run/recorder.py",
        "                so_far=self._begun.evaluations,\n",
        "",
        ("prl/test_resume.py",),
    ),
    Mutation(
        "what an encoder draws begins anew when a run goes on",
        "prl/run/resume.py",
        '        torch.set_rng_state(state["torch_rng"])\n',
        "",
        ("prl/test_resume.py",),
    ),
    Mutation(
        "a signal writes the state of half an update",
        "prl/run/recorder.py",
        "        self._checkpoints.finish(self._point)",
        "        self._checkpoints.finish(self._point and SafePoint(\n"
        "            self._point.timesteps, self._point.updates,\n"
        "            self._point.state | {'trainer': self._trainer.state_dict()}, self._point.best))",
        ("prl/test_killed_run.py",),
    ),
    Mutation(
        "two runs write to one folder",
        "prl/run/lock.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        ("prl/test_lock.py",),
    ),
    Mutation(
        "the lock of a file that was removed is taken for one of the folder",
        "prl/run/lock.py",
        "if not self._is_at(file):",
        "if False:",
        ("prl/test_lock.py",),
    ),
    Mutation(
        "where there are no locks, a run begins in a folder that another may be using",
        "prl/run/run_folder.py",
        " or not self._lock.is_held",
        "",
        ("prl/test_run_folder.py",),
    ),
    Mutation(
        "half a checkpoint is taken for a result",
        "prl/run/run_folder.py",
        'any(not name.startswith(".") for name in os.listdir(checkpoints))',
        "any(os.listdir(checkpoints))",
        ("prl/test_run_folder.py",),
    ),
    Mutation(
        "a run has no checkpoint before its first update",
        "prl/run/recorder.py",
        "            self._checkpoints.at_the_beginning(self._point)\n",
        "",
        ("prl/test_killed_run.py",),
    ),
    Mutation(
        "a crash file has the actions of the last round alone",
        "prl/training/failures.py",
        "failed = failed.with_earlier(earlier)",
        "failed = failed",
        ("prl/test_failing_runs.py",),
    ),
    Mutation(
        "a crash file has all calls before its episode",
        "prl/training/failures.py",
        "(*had.at, *[len(earlier)] * new)",
        "()",
        ("prl/test_failing_runs.py",),
    ),
    Mutation(
        "the reset that fails after a step is blamed on the episode before",
        "workers/recovering_pool.py",
        "reported is not None and reported.steps == 0",
        "False",
        ("workers/test_recovering_pool.py",),
    ),
)
