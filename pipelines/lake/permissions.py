"""Who may read the files of a home: its owner and, where it is set, a group.

New files get their permissions from this process's umask, and so do those of its children. A group
is handed down by folders. What lay there before is brought in line once, when the home is opened.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from pathlib import Path

_LEVELS = 4
"""Depth to which folders are checked when a home is opened: down to those of the streams."""


def keep_private(group: str | None) -> None:
    """Let only the owner, and a group that may read, use new files of this process.

    Its children inherit this.

    Args:
        group: The name of the group; None for the owner alone.
    """
    os.umask(0o077 if group is None else 0o027)


def open_home(home: Path, group: str | None) -> None:
    """Set the modes of files and folders in a home: 0600 and 0700, with a group 0640 and 2750.

    Below the first levels, a folder with the right mode is not entered. Files of another user stay
    as they are. A home that does not exist is only made where there is a group.

    Args:
        home: The folder of the state.
        group: The name of the group that may read; None for the owner alone.
    """
    keep_private(group)
    gid = None if group is None else grp.getgrnam(group).gr_gid
    if gid is not None:
        home.mkdir(parents=True, exist_ok=True)
    if home.is_dir():
        _bring_in_line(home, gid, _LEVELS)


def check_readable(folder: Path, levels: int = _LEVELS) -> None:
    """Check that this process can read the folders of a lake.

    Args:
        folder: The folder, which need not exist.
        levels: Depth to which folders below it are checked.

    Raises:
        PermissionError: This folder or one below cannot be read.
    """
    # Other processes may delete folders meanwhile.
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries if levels else ():
            if entry.name != "lost+found" and entry.is_dir(follow_symlinks=False):
                check_readable(Path(entry), levels - 1)


def restrict(path: Path, group: str | None) -> None:
    """Let only its owner, and a group that may read, use a file or folder.

    Args:
        path: A file or folder that this process made, in a home or elsewhere.
        group: The name of the group; None for the owner alone.
    """
    gid = None if group is None else grp.getgrnam(group).gr_gid
    modes = (0o600, 0o700) if gid is None else (0o640, 0o2750)
    _restrict(path, gid, modes[path.is_dir()])


def _bring_in_line(folder: Path, gid: int | None, levels: int) -> None:
    """Restrict a folder after its files, so that an interrupted sweep starts again."""
    try:
        entries = list(os.scandir(folder))
        is_in_line = _is_in_line(folder.stat(), gid, 0o700 if gid is None else 0o2750)
    except (FileNotFoundError, PermissionError):
        return
    if is_in_line and not levels:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _bring_in_line(Path(entry), gid, max(0, levels - 1))
        elif entry.is_file(follow_symlinks=False):
            _restrict(Path(entry), gid, 0o600 if gid is None else 0o640)
    _restrict(folder, gid, 0o700 if gid is None else 0o2750)


def _is_in_line(found: os.stat_result, gid: int | None, mode: int) -> bool:
    return stat.S_IMODE(found.st_mode) == mode and gid in {None, found.st_gid}


def _restrict(path: Path, gid: int | None, mode: int) -> None:
    # Other processes rename and delete files meanwhile.
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        if found.st_uid == os.geteuid() and not _is_in_line(found, gid, mode):
            if gid is not None:
                os.chown(path, -1, gid)
            # After chown, which may take away the bit that hands the group down.
            path.chmod(mode)
