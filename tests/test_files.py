"""Atomic writing: on every fault the old file stays, and nothing else is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dreamlift.system import files
from dreamlift.system.failures import explained
from dreamlift.system.files import atomic_write_bytes, atomic_write_text, replacing


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.bin") as caught:
        atomic_write_bytes(path, b"new" * 1000)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_an_error_of_a_library_keeps_its_own_words(tmp_path: Path):
    """It has no number of the system, and may name the temporary file."""

    def fail() -> None:
        with replacing(tmp_path / "a.mp4") as temporary:
            temporary.write_bytes(b"x")
            raise OSError(f"the encoder has ended: {temporary}: no such codec")

    with pytest.raises(OSError, match="no such codec") as caught:
        fail()
    name = str(tmp_path / "a.mp4")
    assert explained(caught.value) == f"{name!r} cannot be written: the encoder has ended: {name}: no such codec"
    assert list(tmp_path.iterdir()) == []


def test_what_users_are_told_of_errors():
    assert explained(ValueError("the fix")) == "the fix"
    assert explained(FileNotFoundError(errno.ENOENT, "No such file", "a.png")) == "'a.png' cannot be used: No such file"
    assert explained(OSError(None, None, "a.png")) == "'a.png' cannot be used: OSError"
    assert explained(KeyError("x"), "; more") == "unexpected KeyError: 'x'; more"
    assert "--memory.micro_batch 1" in explained(MemoryError())


def test_the_order_is_write_sync_rename_sync_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def replace_(source: Path, target: Path) -> None:
        calls.append("rename")
        assert Path(source).parent == Path(target).parent
        assert Path(source).read_bytes() == b"new"
        rename(source, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace_)
    atomic_write_bytes(tmp_path / "a", b"new")
    assert [call.replace("folder", "file") for call in calls] == ["file", "rename", "file"]
    if os.path.isdir("/proc/self/fd"):
        assert calls == ["file", "rename", "folder"]


def test_text_keeps_its_newlines_and_missing_folders_are_named(tmp_path: Path):
    atomic_write_text(tmp_path / "a", "x\r\ny\n\u2615")
    assert (tmp_path / "a").read_bytes() == "x\r\ny\n\u2615".encode()
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        atomic_write_text(tmp_path / "gone" / "a", "x")


def test_a_name_of_the_longest_length_can_be_written(tmp_path: Path):
    path = tmp_path / ("x" * 255)
    atomic_write_bytes(path, b"1")
    assert path.read_bytes() == b"1"
