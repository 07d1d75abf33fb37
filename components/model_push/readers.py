"""Sets who can read a pushed version in a local folder, and says so if a server can't.

A model server usually runs under another account than the pipeline, which may have a strict umask.
A version is readable by those who can read the folder of versions, and by `push.group`.
"""

import contextlib
import grp
import os
import stat
from pathlib import Path
from typing import Final

from components.model_push.record import account
from trainer.errors import InputError

_OTHERS: Final = 0o005
_GROUP: Final = 0o050


def group_id(name: str) -> int:
    """Returns the number of a group that files can be given to.

    Raises:
        InputError: if there is no such group, or this process is no member of it.
    """
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise InputError(f"push.group: there is no group {name!r} on this machine") from None
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise InputError(
            f"push.group: this account is no member of {name!r}, so it can't give files to it;"
            " add it to the group, or leave push.group out"
        )
    return number


def share(path: Path, folder: Path, group: str = "") -> None:
    """Lets those read a file or a tree who can read the folder of versions, whatever the umask.

    Args:
        path: A file, or a folder with everything in it.
        folder: The folder of versions.
        group: The group that can read as well; by default that of the folder, if it can.
    """
    status = folder.stat()
    number = group_id(group) if group else status.st_gid
    bits = status.st_mode & (_GROUP | _OTHERS) | (_GROUP if group else 0)
    for part in [path, *path.rglob("*")]:
        found = part.stat()
        wanted = bits
        if found.st_gid != number:
            try:
                os.chown(part, -1, number)
            except OSError:
                if group:
                    raise
                # Some other group would get the rights of the folder's.
                wanted &= _OTHERS
        if not part.is_dir():
            wanted &= 0o044
        if found.st_mode & wanted != wanted:
            # After a rollback files may belong to the account that first pushed them.
            with contextlib.suppress(PermissionError):
                part.chmod(stat.S_IMODE(found.st_mode) | wanted)


def share_folder(folder: Path, group: str) -> None:
    """Lets a group enter and list the folder of versions, if it belongs to this account."""
    number, status = group_id(group), folder.stat()
    with contextlib.suppress(PermissionError):
        if status.st_gid != number:
            os.chown(folder, -1, number)
        if status.st_mode & _GROUP != _GROUP:
            folder.chmod(stat.S_IMODE(status.st_mode) | _GROUP)


def readers_note(version: Path, group: str = "") -> str:
    """Tells in one line if a version can be read by no account but this one.

    Args:
        version: The folder of the version.
        group: The group that should be able to read it; its way there is checked from the root.

    Returns:
        The line; empty if others, or the group, can read the version.
    """
    if group:
        number = group_id(group)
        for place in reversed([version, *version.absolute().parents]):
            status = place.stat()
            is_open = status.st_mode & 0o001
            if not is_open and not (status.st_gid == number and status.st_mode & 0o010):
                return f"members of {group} can't enter {place}, so they can't read {version}"
        return ""
    statuses = [version.parent.stat(), version.stat()]
    by_others = all(status.st_mode & _OTHERS == _OTHERS for status in statuses)
    by_group = all(status.st_mode & _GROUP == _GROUP for status in statuses)
    if by_others or (by_group and len({status.st_gid for status in statuses}) == 1):
        return ""
    return (
        f"only {account()} can read {version}; for a model server under another account set"
        f" push.group, or make {version.parent} readable"
    )
