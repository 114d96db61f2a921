"""Atomic writing: on every fault the old file stays, and nothing else is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dreamlift.system import files
from dreamlift.system.files import atomic_write_bytes, atomic_write_text


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
