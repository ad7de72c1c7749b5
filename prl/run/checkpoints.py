"""The checkpoints of a run: which there are, writing another, and removing old ones."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from prl.run.checkpoint_files import Checkpoint, to_files
from prl.run.files import WriteError, remove_folder, write_folder


class Checkpoints:
    """Folders `<timesteps>/` in a folder that no other process writes to.

    Args:
        folder: of them; made with the first.
        keep: the newest ones that are kept, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def newest_first(self) -> list[Path]:
        """The folders of all checkpoints. Whether they are damaged shows when they are read."""
        if self.folder.is_symlink():  # removing old ones in it could hit something else
            return []
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(self.folder) if name.isascii() and name.isdigit()]
            return [self.folder / name for name in sorted(names, key=lambda name: (-int(name), name))]
        return []

    def save(self, checkpoint: Checkpoint, best: int | None = None) -> None:
        """Write a checkpoint, and then remove those that are no longer kept.

        Args:
            checkpoint: what to write.
            best: timesteps of a checkpoint that is kept in any case.

        Raises:
            WriteError: it cannot be written; older ones are as they were.
        """
        path = self.folder / str(checkpoint.timesteps)
        if self.folder.is_symlink():
            raise WriteError(f"cannot write {path}: {self.folder} is a symbolic link")
        self._clean(path)
        write_folder(path, to_files(checkpoint))
        self._remove_old(best)

    def _clean(self, path: Path) -> None:
        """Remove what a run that was killed has left, and what stands under the name of the new one."""
        with contextlib.suppress(OSError):
            if path.exists():
                remove_folder(path)
            for name in os.listdir(self.folder):
                if name.startswith(".") and name.endswith(".tmp"):
                    shutil.rmtree(self.folder / name, ignore_errors=True)

    def _remove_old(self, best: int | None) -> None:
        for path in self.newest_first()[self._keep :]:
            if path.name != str(best):
                with contextlib.suppress(OSError):  # the next one tries again
                    remove_folder(path)

    def set_aside(self, path: Path) -> None:
        """Rename a damaged one to `<timesteps>.damaged`, so that nothing mistakes it for a checkpoint.

        Raises:
            WriteError: that is not possible.
        """
        target = path.with_name(f"{path.name}.damaged")
        try:
            if target.exists() and not target.is_symlink():
                shutil.rmtree(target)
            os.rename(path, target)
        except OSError as error:
            raise WriteError(f"cannot rename {path}: {error.strerror or error}") from error
