"""Where a run is to be kept goes in; RunError comes out where it cannot be. Nothing is made."""

import errno
import os
from pathlib import Path

from lsp.run.folder import check_free, held, is_held, not_writable
from lsp.settings.config import Config

NAME_BYTES, PATH_BYTES = 255, 3_500
"""The longest name that file systems take, and the longest path that leaves a run's own files room
within the kernel's 4,096."""
KERNEL_FOLDERS = ("/proc", "/sys")
"""Where root may write by its rights, and nothing can be made."""


def check_place(config: Config) -> None:
    """Raises RunError where ``create_run`` could not make a run's folder; makes nothing."""
    folder = Path(config.run_dir or config.runs_root)
    try:
        if config.run_dir:
            check_free(folder)
            if is_held(folder):
                raise held(folder)
        _check_writable(folder)
    except OSError as error:
        raise not_writable(folder, error) from error


def check_resumed_place(folder: Path) -> None:
    """Raises RunError where a run's folder is held by another process, or cannot be written to."""
    if is_held(folder):
        raise held(folder)
    try:
        _check_writable(folder)
    except OSError as error:
        raise not_writable(folder, error) from error


def _check_writable(folder: Path) -> None:
    """Raises the OSError of a folder that could not be made there, or written to."""
    names = [len(os.fsencode(name)) for name in folder.absolute().parts]
    if max(names) > NAME_BYTES or sum(names) + len(names) > PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    of_kernel = any(there.resolve().is_relative_to(root) for root in KERNEL_FOLDERS)
    if of_kernel or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
