"""Atomic file writes: a crash, a full disk or a power cut leaves either the old file or the new one, never a part of it.

The new bytes go to a temporary name in the same folder (a rename is atomic only within one filesystem), reach the disk
(``fsync``) and take the final name (``os.replace``). Then the folder itself is synced, so that the rename survives.
The order follows "All File Systems Are Not Created Equal" (Pillai et al. 2014),
https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

ADDRESS = re.compile(r"(https?|ftp|file|s3|gs|hf):/+(?=[^/])", re.IGNORECASE)


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading ``~`` or ``~user`` replaced by the home folder.

    Raises:
        ValueError: there is no such user, or the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        name = Path(path).parts[0]
        raise ValueError(
            f"{str(path)!r}: there is no home folder {name}; write the whole path, or ./{name} for a file of that name"
        ) from None


def address_of(path: str | os.PathLike[str]) -> str:
    """The address that is given in a path's place, such as "https://a.org/b.png"; "" for a path.

    ``Path`` leaves one slash of two, which is put back.
    """
    text = os.fspath(path)
    found = ADDRESS.match(text)
    if found is None:
        return ""
    slashes = "///" if found[1].lower() == "file" else "//"
    return f"{found[1]}:{slashes}{text[found.end() :]}"


def not_fetched(address: str) -> str:
    """Why an address cannot be used, and the fix."""
    if address.lower().startswith("file:"):
        return f"give the path itself: {address[len('file://') :]}"
    return "addresses are not fetched; download it first (curl -LO and the address), then give the path of the file"


def user_file(path: str, what: str, fix: str = "") -> Path:
    """The path of an existing file that the user named; ``what`` it is and the ``fix`` are for the message.

    Raises:
        ValueError: there is no such file, or it is a folder, a pipe or a device.
    """
    file = expanded(path)
    if file.is_file():
        return file
    if found := address_of(path):
        raise ValueError(f"the {what} file {found!r} cannot be used: {not_fetched(found)}")
    trouble = f"there is no {what} file {path!r}"
    if file.exists():
        trouble = f"the {what} file {path!r} is {'a folder' if file.is_dir() else 'no regular file'}"
    raise ValueError(f"{trouble}: {fix}" if fix else trouble)


def open_to_read(path: str | os.PathLike[str], links: bool = True) -> tuple[int, os.stat_result]:
    """The descriptor of a file, opened without waiting for the writer of a pipe, and its status. Raises OSError.

    Args:
        links: whether a symbolic link is followed; False: it cannot be opened, where the system has O_NOFOLLOW.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags if links else flags | getattr(os, "O_NOFOLLOW", 0))
    return descriptor, os.fstat(descriptor)


def cache_folder(name: str) -> Path:
    """A folder for files that can be made again: ``$XDG_CACHE_HOME/dreamlift/<name>``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamlift" / name


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in ``folder``, or the folder itself where it does not exist yet."""
    return os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, whose file takes the place of ``path`` at the end; it is to be on the disk by then.

    Raises:
        FileNotFoundError: the folder does not exist (it is not created: a deleted run folder must not come back).
        OSError: the disk is full or the folder is read-only; the old file is intact and no temporary file is left.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: create it before writing {path.name}")
    # Not the target's name with a suffix, which could exceed the filesystem's limit of 255 bytes.
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # Name the target: the temporary name would mean nothing to the user.
        if error.errno is None:  # a library's, whose words are all that it says
            raise OSError(f"{str(path)!r} cannot be written: {str(error).replace(str(temporary), str(path))}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` completely or not at all. Raises as :func:`replacing`."""
    with replacing(path) as temporary:
        _write_and_sync(temporary, data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, newlines unchanged. Errors as in :func:`atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create a file with ``data``, complete and on the disk, unless there is one of that name; returns whether it was created.

    Of several processes, also on several hosts that share the folder, exactly one succeeds. A hard link is atomic on network
    file systems as well; where there are no links, the file is opened with O_EXCL, so that a reader may find it empty.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        _write_and_sync(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A server's answer may be lost after it has made the link, and the request is then sent again.
            return os.stat(temporary).st_nlink == 2
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            try:
                _write_and_sync(path, data)
            except FileExistsError:
                return False
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)
    return True


def _write_and_sync(path: Path, data: bytes) -> None:
    """Create a file with the user's default permissions (``tempfile`` would make it private), and flush it to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows cannot open a folder, and some network filesystems refuse to sync one."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
