"""A run under what goes wrong outside of it: killed processes, full disks, deleted folders, power cuts."""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from run_helpers import HASH, names, numbers, refused, same, saved

from dreamlift.runs.run import Run, RunError, read_metrics


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


# Killed processes

KILLED = """
import os, random, signal, sys, time, warnings
import numpy as np
import dreamlift.runs.checkpoints
assert "torch" not in sys.modules
from dreamlift.runs.run import Run, read_metrics
from dreamlift.stages.base import SavedState
from dreamlift.types import Handover

warnings.simplefilter("error")  # a damaged checkpoint would be a warning
folder, pick, last, inside = sys.argv[1], random.Random(0), 0, 0

def work():
    run = Run.open(folder)  # the lock of the child before is taken over
    saved = run.load_latest()
    run.resume(saved)
    step = saved.index if saved else 0
    while True:
        assert step == 0 or (saved.work["weights"] == step).all()
        run.log(step, {"loss": step / 3})
        step += 1
        saved = SavedState(0, step, Handover(), {"weights": np.full(100_000, step)})
        run.save_checkpoint(step, saved)

Run.create(folder, "a mug").close()
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    time.sleep(pick.uniform(0.02, 0.3))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child failed by itself"
    inside += any(name.startswith(".tmp-") for name in os.listdir(folder + "/checkpoints"))
    with Run.open(folder) as run:
        saved = run.load_latest()
        step = saved.index if saved else 0
        assert step >= last and (step == 0 or (saved.work["weights"] == step).all()), (step, last)
        assert [line["step"] for line in read_metrics(folder)][:step] == list(range(step))
        names = os.listdir(folder + "/checkpoints")
        assert all(name.startswith("step-") for name in names) and len(names) <= 4, names
    last = step
print(last, inside)
"""


def test_a_run_killed_at_any_instant_goes_on(tmp_path):
    # No temporary folder of the system is needed either: all is written next to where it belongs.
    environment = {**os.environ, "TMPDIR": "/nonexistent"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    last, inside = map(int, done.stdout.split())
    assert last > 20
    assert inside >= 3, "too few of the kills fell into a save to mean something"


# Full, read-only and deleted folders


def mount(*arguments):
    """Whether this user may mount, and did."""
    found = shutil.which("mount")
    return bool(found) and subprocess.run([found, *arguments], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def small_disk(tmp_path, size):
    """A folder where a file of ``size`` bytes does not fit: a small tmpfs where allowed, else a limit for files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield folder
    finally:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        else:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path):
    with small_disk(tmp_path, 4 << 20) as disk, Run.create(disk / "run", "a mug") as run:
        run.save_checkpoint(1, saved(1))
        message = "cannot write the checkpoint ", "step-000002: ", f"dreamlift resume {disk / 'run'}` goes on (nothing is lost)"
        refused(lambda: run.save_checkpoint(2, saved(2, numbers(2, 2 << 20))), *message)
        assert names(run.folder / "checkpoints") == ["step-000001"]
        found = run.load_latest()
        assert same((found.index, found.work), (1, numbers(1)))
        run.save_checkpoint(2, saved(2))  # and it goes on where there is room
        assert run.load_latest().index == 2


def test_a_full_disk_takes_no_line_of_the_log(tmp_path):
    with small_disk(tmp_path, 1 << 20) as disk, Run.create(disk / "run", "a mug") as run:
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)

        def fill():
            for index in range(200_000):
                run.log(index, {"loss": 0.5, "padding" * 20: 1.0})

        refused(fill, "cannot write", "metrics.jsonl: ", f"dreamlift resume {disk / 'run'}` goes on (nothing is lost)")
        data = (run.folder / "metrics.jsonl").read_bytes()
        assert data.endswith(b"\n") or data == b""
        assert [line["step"] for line in read_metrics(run.folder)] == list(range(data.count(b"\n")))
        refused(lambda: run.set_status("failed", {"why": "x" * (2 << 20)}), "cannot write", "run.json: ")
        assert json.loads((run.folder / "run.json").read_text())["status"] == "running"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir"])
def test_any_failing_call_leaves_the_checkpoint_before_it(run, monkeypatch, code, call):
    run.save_checkpoint(1, saved(1))
    real, count = getattr(os, call), 0

    def failing(*args, **more):
        nonlocal count
        count += 1
        # Syncs of a folder are best effort; fail where it matters, at the second call if there is one.
        if call == "fsync" and (count < 2 or os.path.isdir(f"/proc/self/fd/{args[0]}")):
            return real(*args, **more)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        refused(lambda: run.save_checkpoint(2, saved(2)), f"step-000002: {os.strerror(code)}")
    assert names(run.folder / "checkpoints") == ["step-000001"]
    assert run.load_latest().index == 1


def test_read_only_folders_are_named(tmp_path):
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path, 4 << 20))
        run = stack.enter_context(Run.create(disk / "run", "a mug"))
        run.save_checkpoint(1, saved(1))
        remounted = mount("-o", "remount,ro", str(disk))
        if not remounted:
            for path in (run.folder / "checkpoints", run.folder, disk):
                path.chmod(0o500)
                stack.callback(path.chmod, 0o700)
        if remounted or os.geteuid():  # root may write everywhere unless the mount itself forbids it
            again = f"copy {run.folder} to a filesystem" if remounted else f"get access to {run.folder}"
            refused(lambda: run.save_checkpoint(2, saved(2)), "cannot write the checkpoint", again)
            refused(lambda: run.set_status("failed", {}), "cannot write", "run.json", again)
            refused(lambda: Run.create(disk / "other", "a mug"), "cannot create the run folder", "; choose an --out")
        assert run.load_latest().index == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    refused(lambda: Run.create(tmp_path / "run", "a mug"), "cannot create the run folder", "run: Read-only file system")
    refused(lambda: Run.create(None, "a mug", root=tmp_path), "; choose an --out on a filesystem that can be written")


def test_a_failed_start_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("dreamlift.runs.run.atomic_write_text", full)
        refused(lambda: Run.create(tmp_path / "run", "a mug"), "No space left on device; free some space or choose")
        refused(lambda: Run.create(None, "a mug", root=tmp_path / "outputs"), "No space left on device")
    assert names(tmp_path / "run") == names(tmp_path / "outputs") == []
    Run.create(tmp_path / "run", "a mug").close()


def test_a_deleted_folder_is_noticed_and_does_not_come_back(run):
    run.save_checkpoint(1, saved(1))
    shutil.rmtree(run.folder)
    gone = "the run's folder was deleted; do not delete it during a run, and start the run again"
    refused(lambda: run.log(0, {"loss": 1.0}), "cannot write", "metrics.jsonl", gone)
    refused(lambda: run.save_checkpoint(2, saved(2)), "cannot write the checkpoint", gone)
    refused(lambda: run.set_status("failed", {}), "run.json")
    run.close()
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR]
)
@pytest.mark.parametrize("verb", ["resume", "export"])
def test_the_advice_on_a_run_that_has_begun_names_no_option_of_generate(run, monkeypatch, code, verb):
    run.close()

    def failing(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("dreamlift.runs.lock.atomic_write_text", failing)
    with pytest.raises(RunError, match=f"cannot lock the run folder .*: {os.strerror(code)}; ") as caught:
        Run.open(run.folder, config_hash=HASH, verb=verb)
    assert "--out" not in str(caught.value)
    if code in (errno.ENOSPC, errno.EDQUOT):
        assert str(caught.value).endswith(f"; free some space, then `dreamlift {verb} {run.folder}` goes on (nothing is lost)")
    with pytest.raises(RunError, match=r"another --out|an --out"):
        Run.create(run.folder.parent / "other", "a mug")


# The order that survives a power cut


def check_order(calls, final):
    """``calls``: ("sync", inode) and ("rename", inode of what got its final name), in the order they were made."""
    renamed = calls.index(("rename", os.stat(final).st_ino))
    for path in final.iterdir():
        assert ("sync", path.stat().st_ino) in calls[:renamed], f"{path.name} was not synced before the rename"
    assert len(names(final)) == 3
    assert ("sync", os.stat(final).st_ino) in calls[:renamed], "the entries of the new folder were not synced"
    assert ("sync", os.stat(final.parent).st_ino) in calls[renamed:], "the rename was not synced"


def test_files_are_synced_before_the_rename_and_the_folder_after_it(run, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("sync", os.fstat(fd).st_ino)), fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append(("rename", os.stat(a).st_ino)), rename(a, b))[1])
    check_order(calls, run.save_checkpoint(1, saved(1)))


TRACED = """
import sys, numpy as np
from dreamlift.runs.run import Run
from dreamlift.stages.base import SavedState
from dreamlift.types import Handover
Run.create(sys.argv[1], "a mug").save_checkpoint(1, SavedState(0, 1, Handover(), {"weights": np.zeros(9)}))
"""


@pytest.mark.skipif(
    subprocess.run("strace -o /dev/null true", shell=True, capture_output=True, check=False).returncode != 0,
    reason="the same order is checked above without strace",
)
def test_the_same_order_as_the_system_sees_it(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    traced = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(log)]
    subprocess.run([*traced, sys.executable, "-c", TRACED, str(folder)], check=True, timeout=60)
    final, calls, origin = folder / "checkpoints" / "step-000001", [], {}
    lines = [line for line in log.read_text().splitlines() if "= 0" in line]
    for line in lines:  # a name that was renamed later stands for what it became
        if "rename" in line:
            parts = line.split('"')
            origin[parts[1]] = parts[3]

    def inode(path):
        for old, new in list(origin.items()) * 2:
            if path == old or path.startswith(old + "/"):
                path = new + path[len(old) :]
        return os.stat(path).st_ino if os.path.exists(path) else -1

    for line in lines:
        if "fsync(" in line:
            calls.append(("sync", inode(line.split("<")[1].split(">")[0])))
        else:
            calls.append(("rename", inode(line.split('"')[1])))
    check_order(calls, final)
    touched = [part for line in lines for part in line.split('"')[1::2]]
    assert all(path.startswith(str(folder)) for path in touched), "a rename left the run's own folder"
