"""A run on disk under everything that goes wrong: killed processes, full disks, changed bits, two at once, signals."""

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlift import checkpoints, locks
from dreamlift.run import Run, RunError, check_prompt, read_metrics, slugify, stop_signals

HASH = "c0ffee" * 10


def refused(call, *expected, kind=RunError):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message


def same(a, b):
    """Equal in structure, types and bits."""
    if isinstance(a, torch.Tensor):
        bits = [x.resolve_conj().contiguous().reshape(-1).view(torch.uint8) if x.numel() else x for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return type(b) is float and a.hex() == b.hex()
    return type(a) is type(b) and a == b


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


def numbers(step, size=1000):
    return {"step": step, "weights": np.full(size, step, dtype=np.float32)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Prompts and folder names

SLUGS = {
    "../../../x": "x", "/abs": "abs", "a ceramic mug, blue": "a-ceramic-mug-blue", "--help": "help", "CON": "con-asset",
    "nul": "nul-asset", "com1.": "com1-asset", "mug...": "mug", "=cmd|' /C calc'!A0": "cmd-c-calc-a0", "...": "asset",
    "<script>alert(1)</script>": "script-alert-1-script", "${oc.env:HOME}": "oc-env-home", "3": "3", "null": "null",
    "a: b, {c": "a-b-c", "a=b": "a-b", "🫖": "asset", "🫖 teapot": "teapot", "青い茶碗": "青い茶碗",
    "\\\\host\\c$": "host-c",
    "cafe\u0301": "caf\u00e9", "caf\u00e9": "caf\u00e9", "C:\\x": "c-x", "\u0301\u0301": "asset", "İ": "i\u0307",
}  # fmt: skip


@pytest.mark.parametrize("prompt", SLUGS)
def test_slugs_by_hand(prompt):
    assert slugify(prompt) == SLUGS[prompt]


def test_slugs_are_safe_for_every_character(tmp_path):
    pick = random.Random(0)
    for _ in range(2000):
        slug = slugify("".join(chr(pick.choice([pick.randrange(128), pick.randrange(0x110000)])) for _ in range(90)))
        assert not set(slug) & set('/\\:*?"<>|.\0 ')
        assert slug == slug.strip(". -")
        assert slug.isprintable()
        assert 1 <= len(slug.encode()) <= 160
        assert unicodedata.normalize("NFC", slug) == slug
    (tmp_path / slugify("茶" * 900)).mkdir()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", 'the prompt is empty: describe the object, such as "a ceramic mug"'),
        (" \t\u3000 ", "the prompt is empty"),
        ("\u200b\u200d\ufeff", "the prompt is empty"),
        ("a\0b", "the prompt has a control character (U+0000) at character 2: remove it"),
        ("a \x1b[31mred\x1b[0m mug", "a control character (U+001B) at character 3"),
        ("a\tb", "a control character (U+0009)"),
        ("a\x9bb", "a control character (U+009B)"),
        ("a\ud800", "a control character (U+D800)"),
        ("a \u202egum", "a text-direction override (U+202E) at character 3: remove it"),
        ("a \u2066gum", "a text-direction override (U+2066)"),
        ("a\nb", "the prompt has more than one line: write it on one, or use a prompts file for several"),
        ("a\r\nb", "the prompt has more than one line"),
        ("a\u2028b", "the prompt has more than one line"),
        ("x" * 1001, "the prompt has 1001 characters (1001 bytes), accepted: at most 1000 characters (4096 bytes)"),
        ("x" * 10_000, "the prompt has 10000 characters"),
        # NFC can only make text longer for a few characters; this one grows from two bytes to six.
        ("\u0344" * 900, "the prompt has 1800 characters"),
    ],
)
def test_bad_prompts_are_refused(prompt, expected, tmp_path):
    refused(lambda: check_prompt(prompt), expected, kind=ValueError)
    refused(lambda: Run.create(tmp_path / "run", prompt), expected, kind=ValueError)
    assert names(tmp_path) == []


def test_good_prompts_stay_themselves():
    for prompt in [*SLUGS, "x" * 1000, "🫖" * 1000, "<b> & ]]>", "نص عربي", "👩‍🚀", "null", "[1,2]", "!"]:
        if any(unicodedata.category(c)[0] not in "MZ" for c in prompt):
            assert check_prompt(f"  {prompt} \n") == unicodedata.normalize("NFC", prompt)
    with pytest.raises(TypeError, match="the prompt must be text, got int"):
        check_prompt(3)


def test_folders_of_equal_prompts_at_the_same_second_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20250101-000000")
    prompts = ["a mug", "A  mug!", "a/mug", "cafe\u0301", "caf\u00e9"]
    folders = []
    for prompt in prompts:
        with Run.create(None, prompt, root=tmp_path / "outputs") as run:
            folders.append(run.folder.name)
    assert folders == [
        "a-mug-20250101-000000", "a-mug-20250101-000000-2", "a-mug-20250101-000000-3",
        "caf\u00e9-20250101-000000", "caf\u00e9-20250101-000000-2",
    ]  # fmt: skip


# The folder


def test_a_new_run_holds_its_config_and_status(run):
    assert names(run.folder) == [".lock", "config.yaml", "events.jsonl", "run.json"]
    assert (run.folder / "config.yaml").read_text() == "steps: 3\n"
    run.set_status("finished", {"seed": 7, "loss": float("nan")})
    found = json.loads((run.folder / "run.json").read_text())
    assert (found["prompt"], found["status"], found["seed"], found["loss"]) == ("a mug", "finished", 7, "nan")
    assert found["config_hash"] == HASH
    assert "created" in found
    run.close()
    assert names(run.folder) == ["config.yaml", "events.jsonl", "run.json"]


def test_nothing_is_overwritten(run, tmp_path):
    before = (run.folder / "run.json").read_bytes()
    refused(
        lambda: Run.create(run.folder, "a cup"), "holds a run already: resume that one, or give --out another folder"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    refused(
        lambda: Run.create(tmp_path / "mine", "a cup"), "is not empty, and nothing is overwritten: give --out a new"
    )
    refused(lambda: Run.create(tmp_path / "mine" / "thesis.tex", "a cup"), "is a file: give --out a new or an empty")
    refused(lambda: Run.create(tmp_path / "mine" / "thesis.tex" / "x", "a cup"), "cannot create the run folder")
    assert (run.folder / "run.json").read_bytes() == before
    assert names(tmp_path / "mine") == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", "a cup").close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "holds no run (there is no run.json): give the folder that a run made"),
        ("{", "was changed and cannot be read"),
        ("[]", "was changed and cannot be read"),
        ('{"schema": 99}', "was written by a newer dreamlift (schema 99): upgrade dreamlift"),
        ('{"schema": 1, "prompt": "x", "config_hash": "other"}', "belongs to another config (hash 'other', now 'c0ff"),
    ],
)  # fmt: skip
def test_folders_that_are_no_run_of_this_config_are_refused(content, expected, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    refused(lambda: Run.open(tmp_path, config_hash=HASH), expected)


# Checkpoints


def test_states_come_back_bit_for_bit(run):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam([{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias]}])
    for _ in range(3):
        layer(torch.randn(4, 3)).sum().backward()
        optimizer.step()
    kinds = [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64,
    ]  # fmt: skip
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "model": layer.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
        "kinds": [(torch.randn(5) * 3).to(kind) for kind in kinds],
        "special": torch.tensor([float("nan"), -0.0, float("inf"), 5e-324], dtype=torch.float64),
        "views": (base.T, base[::2, 1:], base, base), "empty": torch.zeros(0, 3), "scalar": torch.tensor(3),
        "conj": torch.randn(3, dtype=torch.complex64).conj(), "numpy_rng": np.random.default_rng(3).bit_generator.state,
        "arrays": [np.array(2.5), np.zeros((2, 0), np.int8), np.arange(6).reshape(2, 3).T, np.array([True, False])],
        "numbers": [0.1, -0.0, float("nan"), float("-inf"), 5e-324, 2**53 + 1, -(10**5000), True, False, None, 7],
        "text": ["", "é\n\0\ud800", "tensor"], "nested": {"tensor": {"tensor": "x"}, 3: {-1: []}, "": ()},
    }  # fmt: skip
    run.save_checkpoint(3, state)
    step, loaded = run.load_latest()
    assert step == 3
    for name in state:
        expected = dict(state[name]) if isinstance(state[name], dict) else state[name]
        assert same(expected, loaded[name]), name
    loaded["special"][0] = 1.0  # writable, and its own memory
    loaded["arrays"][3][0] = False
    loaded["views"][2][0, 0] = 99.0
    assert loaded["views"][3][0, 0] == 0.0
    other = torch.optim.Adam([{"params": [layer.weight], "lr": 0.5}, {"params": [layer.bias]}])
    other.load_state_dict(loaded["optimizer"])
    assert same(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1, 2}, "state['a'][0]: set cannot be stored; accepted: dict, list, tuple"),
        (object(), "state['a'][0]: object cannot be stored"),
        (b"x", "state['a'][0]: bytes cannot be stored"),
        (np.float32(1), "state['a'][0]: float32 cannot be stored"),
        (np.array(["x"]), "state['a'][0]: ndarray cannot be stored"),
        (np.array([None]), "state['a'][0]: ndarray cannot be stored"),
        ({1.5: 2}, "state['a'][0]: the key 1.5 cannot be stored, accepted: str and int"),
        ({True: 2}, "state['a'][0]: the key True cannot be stored"),
        (torch.eye(2).to_sparse(), "state['a'][0]: a torch.sparse_coo tensor of torch.float32 cannot be stored"),
        (torch.zeros(1, dtype=torch.complex128), "state['a'][0]: a torch.strided tensor of torch.complex128"),
    ],
)
def test_what_cannot_be_stored_exactly_is_refused(value, expected, run):
    refused(lambda: run.save_checkpoint(1, {"a": [value]}), expected, kind=TypeError)
    assert run.load_latest() is None


def test_the_newest_are_kept_by_number_and_not_by_time(run):
    for step in (1, 2, 999_999, 1_000_000):
        run.save_checkpoint(step, numbers(step))
    folder = run.folder / "checkpoints"
    assert names(folder) == ["step-000002", "step-1000000", "step-999999"]
    os.utime(folder / "step-000002", (4e9, 4e9))  # a clock that jumped
    assert run.load_latest()[0] == 1_000_000
    with pytest.raises(ValueError, match="keep counts the checkpoints that stay, at least 1, got 0"):
        Run.open(run.folder, config_hash=HASH, keep=0)


def test_going_back_sets_later_checkpoints_aside(run):
    for step in (10, 20, 30):
        run.save_checkpoint(step, numbers(step))
    folder = run.folder / "checkpoints"
    (folder / "step-000030" / "state.json").write_bytes(b"")
    (folder / "step-000020" / "state.json").unlink()
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert run.load_latest()[0] == 10
    run.save_checkpoint(20, numbers(21))
    assert [name.split("-")[0] for name in names(folder)] == ["aside", "step", "step"]
    assert names(folder)[1:] == ["step-000010", "step-000020-2"]
    assert run.load_latest()[1]["weights"][0] == 21
    run.save_checkpoint(30, numbers(30))
    assert run.load_latest()[0] == 30


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "arrays.safetensors", "MANIFEST.json"])
def test_any_changed_bit_or_cut_is_found(run, name):
    for step in (1, 2):
        run.save_checkpoint(step, {**numbers(step, 10), "tensor": torch.full((10,), float(step))})
    path = run.folder / "checkpoints" / "step-000002" / name
    good = path.read_bytes()
    pick = random.Random(0)
    damaged = [b"", good[:-1], good[: len(good) // 2], good + b"x", b"\0" * len(good), b"[" * len(good)]
    for place in range(len(good)) if len(good) < 500 else pick.sample(range(len(good)), 150):
        flipped = good[place] ^ (1 << pick.randrange(8))
        damaged.append(good[:place] + bytes([flipped]) + good[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.warns(RuntimeWarning, match=r"step-000002 is not used: .*; trying the one before it"):
            step, state = run.load_latest()
        assert (step, state["step"], state["tensor"][0]) == (1, 1, 1.0)
    path.unlink()
    with pytest.warns(RuntimeWarning, match=f"{name} is missing"):
        assert run.load_latest()[0] == 1
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert run.load_latest()[0] == 1
    path.rmdir()
    path.write_bytes(good)
    assert run.load_latest()[0] == 2


def test_only_damaged_checkpoints_is_an_error_and_never_a_silent_start(run):
    run.save_checkpoint(1, numbers(1))
    shutil.rmtree(run.folder / "checkpoints" / "step-000001")
    assert run.load_latest() is None
    run.save_checkpoint(1, numbers(1))
    (run.folder / "checkpoints" / "step-000001" / "MANIFEST.json").unlink()
    with pytest.warns(RuntimeWarning, match="MANIFEST.json is missing"):
        refused(
            run.load_latest, "no usable checkpoint in", "(step-000001: MANIFEST.json is missing); start the run again"
        )


def forge(run, **changes):
    path = run.folder / "checkpoints" / "step-000002" / "MANIFEST.json"
    manifest = json.loads(path.read_text()) | changes
    manifest.pop("checksum")
    path.write_text(json.dumps({**manifest, "checksum": checkpoints._checksum(manifest)}))


def test_newer_schemas_other_configs_and_foreign_paths(run):
    for step in (1, 2):
        run.save_checkpoint(step, numbers(step))
    forge(run, schema=2)
    refused(run.load_latest, "step-000002 was written by a newer dreamlift (schema 2, this one reads 1): upgrade")
    forge(run, schema=1, config_hash="f" * 64)
    refused(run.load_latest, "belongs to another config (hash 'ffffffffffff', now 'c0ffeec0ffee'): resume with")
    entry = {"bytes": 9, "sha256": checkpoints._sha256(b"steps: 3\n")}
    forge(run, config_hash=HASH, files={"../../config.yaml": entry})
    with pytest.warns(RuntimeWarning, match="which is not a plain file name"):
        assert run.load_latest()[0] == 1
    forge(run, step=7, files={})
    with pytest.warns(RuntimeWarning, match="MANIFEST.json was changed"):
        assert run.load_latest()[0] == 1


# Killed processes

KILLED = """
import os, random, signal, sys, time, warnings
import numpy as np
from dreamlift.run import Run, read_metrics

warnings.simplefilter("error")  # a damaged checkpoint would be a warning
assert "torch" not in sys.modules
folder, pick, last, inside = sys.argv[1], random.Random(0), 0, 0

def work():
    run = Run.open(folder)  # the lock of the child before is taken over
    step, state = run.resume()
    while True:
        assert step == 0 or (state["weights"] == step).all()
        run.log(step, {"loss": step / 3})
        step += 1
        state = {"weights": np.full(100_000, step)}
        run.save_checkpoint(step, state)

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
        step, state = run.load_latest() or (0, {})
        assert step >= last and (step == 0 or (state["weights"] == step).all()), (step, last)
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
        run.save_checkpoint(1, numbers(1))
        message = "cannot write the checkpoint ", "step-000002: ", " or choose another --out"
        refused(lambda: run.save_checkpoint(2, numbers(2, 2 << 20)), *message)
        assert names(run.folder / "checkpoints") == ["step-000001"]
        step, state = run.load_latest()
        assert same((step, state), (1, numbers(1)))
        run.save_checkpoint(2, numbers(2))  # and it goes on where there is room
        assert run.load_latest()[0] == 2


def test_a_full_disk_takes_no_line_of_the_log(tmp_path):
    with small_disk(tmp_path, 1 << 20) as disk, Run.create(disk / "run", "a mug") as run:
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)

        def fill():
            for index in range(200_000):
                run.log(index, {"loss": 0.5, "padding" * 20: 1.0})

        refused(fill, "cannot write", "metrics.jsonl: ", " or choose another --out")
        data = (run.folder / "metrics.jsonl").read_bytes()
        assert data.endswith(b"\n") or data == b""
        assert [line["step"] for line in read_metrics(run.folder)] == list(range(data.count(b"\n")))
        refused(lambda: run.set_status("failed", {"why": "x" * (2 << 20)}), "cannot write", "run.json: ")
        assert json.loads((run.folder / "run.json").read_text())["status"] == "running"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir"])
def test_any_failing_call_leaves_the_checkpoint_before_it(run, monkeypatch, code, call):
    run.save_checkpoint(1, numbers(1))
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
        refused(lambda: run.save_checkpoint(2, numbers(2)), f"step-000002: {os.strerror(code)}")
    assert names(run.folder / "checkpoints") == ["step-000001"]
    assert run.load_latest()[0] == 1


def test_read_only_folders_are_named(tmp_path):
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path, 4 << 20))
        run = stack.enter_context(Run.create(disk / "run", "a mug"))
        run.save_checkpoint(1, numbers(1))
        remounted = mount("-o", "remount,ro", str(disk))
        if not remounted:
            for path in (run.folder / "checkpoints", run.folder, disk):
                path.chmod(0o500)
                stack.callback(path.chmod, 0o700)
        if remounted or os.geteuid():  # root may write everywhere unless the mount itself forbids it
            refused(lambda: run.save_checkpoint(2, numbers(2)), "cannot write the checkpoint", "; choose an --out")
            refused(lambda: run.set_status("failed", {}), "cannot write", "run.json", "; choose an --out")
            refused(lambda: Run.create(disk / "other", "a mug"), "cannot create the run folder", "; choose an --out")
        assert run.load_latest()[0] == 1


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
        patched.setattr("dreamlift.run.atomic_write_text", full)
        refused(lambda: Run.create(tmp_path / "run", "a mug"), "No space left on device; free some space or choose")
        refused(lambda: Run.create(None, "a mug", root=tmp_path / "outputs"), "No space left on device")
    assert names(tmp_path / "run") == names(tmp_path / "outputs") == []
    Run.create(tmp_path / "run", "a mug").close()


def test_a_deleted_folder_is_noticed_and_does_not_come_back(run):
    run.save_checkpoint(1, numbers(1))
    shutil.rmtree(run.folder)
    gone = "its folder is gone; do not move or delete it during a run"
    refused(lambda: run.log(0, {"loss": 1.0}), "cannot write", "metrics.jsonl", gone)
    refused(lambda: run.save_checkpoint(2, numbers(2)), "cannot write the checkpoint", gone)
    refused(lambda: run.set_status("failed", {}), "run.json")
    run.close()
    assert not run.folder.exists()


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
    check_order(calls, run.save_checkpoint(1, numbers(1)))


TRACED = """
import sys, numpy as np
from dreamlift.run import Run
Run.create(sys.argv[1], "a mug").save_checkpoint(1, {"weights": np.zeros(9)})
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


# Metrics


def test_metrics_are_cut_back_to_the_checkpoint(run):
    for index in range(5):
        run.log(index, {"loss": 1 / (index + 1), "step": 99})
        if index == 2:
            run.save_checkpoint(3, numbers(3))
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 5, "lo')
    assert [line["step"] for line in read_metrics(run.folder)] == [0, 1, 2, 3, 4]
    before = (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    run.close()
    with Run.open(run.folder, config_hash=HASH) as again:
        step, state = again.resume()
        assert (step, state["step"]) == (3, 3)
        assert (run.folder / "metrics.jsonl").read_bytes() == b"".join(before[:3])
        again.log(3, {"loss": float("nan"), "grad": float("-inf"), "t": torch.tensor(0.5), "n": 3})
    assert read_metrics(run.folder)[-1] == {"step": 3, "loss": "nan", "grad": "-inf", "t": 0.5, "n": 3}
    events = [json.loads(line)["event"] for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert events == ["created", "checkpoint", "resumed"]


def test_half_lines_take_no_whole_line_with_them(run):
    run.log(0, {"loss": 1.0})
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 1, "\xff')
    run.log(1, {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(run.folder)] == [1.0, 2.0]
    assert run.resume() == (0, {})
    assert read_metrics(run.folder) == []
    assert read_metrics(run.folder / "nowhere") == []


def test_a_half_written_line_is_taken_back(run, monkeypatch):
    run.log(0, {"loss": 1.0})
    real, sizes = os.write, []

    def short(descriptor, data):
        sizes.append(len(data))
        if len(sizes) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:5])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        refused(lambda: run.log(1, {"loss": 2.0}), "metrics.jsonl: No space left on device; free some space")
    assert (run.folder / "metrics.jsonl").read_bytes() == b'{"step": 0, "loss": 1.0}\n'


# One process a folder

HOLDER = "import sys; from dreamlift.run import Run; run = Run.open(sys.argv[1]); print('held', flush=True); input()"


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path):
    Run.create(tmp_path / "run", "a mug").close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        expected = (
            f"run is in use by process {holder.pid} on {socket.gethostname()}, since ",
            "wait for it or choose another",
        )
        refused(lambda: Run.open(tmp_path / "run"), *expected)
        os.kill(holder.pid, signal.SIGKILL)
        # Not waited for yet: a zombie still has its number, but holds nothing any more.
        deadline = time.monotonic() + 10
        while locks._started(holder.pid) not in ("gone", "") and time.monotonic() < deadline:
            time.sleep(0.01)
        Run.open(tmp_path / "run").close()
    assert ".lock" not in names(tmp_path / "run")


def test_the_same_process_cannot_open_a_run_twice(run):
    refused(lambda: Run.open(run.folder, config_hash=HASH), f"in use by process {os.getpid()} on")
    run.close()
    Run.open(run.folder, config_hash=HASH).close()


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"boot": "another boot"}, True),
        ({"started": "12345"}, True),  # the number belongs to a younger process
        ({"pid": 2**22 + 5}, True),  # above the largest number that Linux gives
        ({"pid": -1}, True),
        ({"host": "another-host"}, False),
        ({}, False),
    ],
)
def test_whose_locks_are_taken_over(run, changes, taken):
    path = run.folder / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if taken:
        lock = locks.acquire(run.folder)
        run.close()
        assert path.exists(), "the old holder removed a lock that is not its own any more"
        locks.release(lock)
        assert not path.exists()
    else:
        hint = [f"(if that machine is gone, delete {path})"] if "host" in changes else []
        refused(lambda: locks.acquire(run.folder), "is in use by process", *hint)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": "x"}', b'{"pid": 1}'])
def test_a_lock_that_says_nothing_is_taken_over(run, content):
    (run.folder / ".lock").write_bytes(content)
    locks.release(locks.acquire(run.folder))


RACE = """
import os, sys, time
from pathlib import Path
from dreamlift import locks
from dreamlift.checkpoints import RunError
folder, start, children = Path(sys.argv[1]), time.time() + 0.3, []
for _ in range(8):
    child = os.fork()
    if child == 0:
        time.sleep(max(0, start - time.time()))
        try:
            locks.acquire(folder)
        except RunError:
            os._exit(1)
        time.sleep(1.0)
        os._exit(0)
    children.append(child)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_only_one_of_many_takes_over_a_stale_lock(run):
    path = run.folder / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another boot"}))
    done = subprocess.run([sys.executable, "-c", RACE, str(run.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 1, 1, 1, 1, 1, 1, 1]"


def test_a_forked_child_does_not_release_its_parents_lock(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        run.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (run.folder / ".lock").exists()


# Signals


def test_the_first_signal_asks_and_the_second_interrupts():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as stop:
        assert (stop.requested, stop.name) == (False, "")
        signal.raise_signal(signal.SIGINT)
        assert (stop.requested, stop.name) == (True, "SIGINT")
        signal.raise_signal(signal.SIGTERM)  # what asks politely stays polite
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigterm_is_a_request():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.001)
    assert stop.name == "SIGTERM"


def test_handlers_come_back_after_an_error_and_threads_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stop_signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
    seen = []

    def work():
        with stop_signals() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_an_interrupt_inside_a_save_leaves_no_half(run, monkeypatch):
    run.save_checkpoint(1, numbers(1))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(2, numbers(2))
    assert names(run.folder / "checkpoints") == ["step-000001"]


def test_leftovers_of_a_killed_process_are_removed(run):
    run.save_checkpoint(1, numbers(1))
    (run.folder / ".tmp-abc").write_text("x")
    (run.folder / "checkpoints" / ".tmp-abc").mkdir()
    (run.folder / "checkpoints" / ".tmp-abc" / "state.json").write_text("x")
    (run.folder / "checkpoints" / "notes.txt").write_text("mine")
    run.close()
    Run.open(run.folder, config_hash=HASH).close()
    assert names(run.folder / "checkpoints") == ["notes.txt", "step-000001"]
    assert names(run.folder) == ["checkpoints", "config.yaml", "events.jsonl", "run.json"]


def test_the_saved_file_is_plain_safetensors(run):
    from safetensors.torch import load_file

    path = run.save_checkpoint(1, {"a": torch.arange(3)})
    assert torch.equal(next(iter(load_file(path / "tensors.safetensors").values())), torch.arange(3))
    assert isinstance(path, Path)
