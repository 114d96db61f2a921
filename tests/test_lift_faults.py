"""Runs that are stopped or killed, each in a process of its own, end as if nothing had been."""

import json
import os
import subprocess
import sys

import pytest
from lift_helpers import checkpoint_of, save_stub, status_of
from run_helpers import names, same

from dreamlift.runs.run import read_metrics

HARNESS = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import diffusers.models.unets.unet_2d_condition, transformers.models.t5.modeling_t5  # once, not in every child
sys.path.insert(0, sys.argv[1])
from lift_helpers import generate_words, run_main
from dreamlift import cameras
import dreamlift.lifting, dreamlift.runs.results
dreamlift.lifting.VIEW_SIZE = 32
dreamlift.runs.results.turntable = lambda count, **kw: cameras.turntable(3, **kw | {"size": 32})
stub, pick, log = sys.argv[2], random.Random(0), open("log.txt", "w")

def fork(*words):
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(log.fileno(), 2)
            code = run_main(*words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child

def count(folder, name, text=b"\\n"):
    path = Path(folder, name)
    return path.read_bytes().count(text) if path.exists() else 0

def wait_for(done):
    limit = time.monotonic() + 60
    while not done():
        assert time.monotonic() < limit, "the run does not get on"
        time.sleep(0.002)

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def start(folder):
    return fork(*generate_words(stub, folder, "--config", "mine.yaml", "--steps", 20))

Path("mine.yaml").write_text("checkpoint_every: 2\\n")
found = {"whole": ended(start("whole"))}

child = start("stopped")
wait_for(lambda: count("stopped", "metrics.jsonl") >= 3)
os.kill(child, signal.SIGSTOP)  # so that it is still there when the others come
found["second"] = [ended(fork("resume", "stopped")), ended(fork("export", "stopped"))]
os.kill(child, signal.SIGTERM)
os.kill(child, signal.SIGCONT)
found["stopped"] = [ended(child), json.loads(Path("stopped/run.json").read_text())["status"]]
found["resumed"] = ended(fork("resume", "stopped"))

child, found["killed"] = start("killed"), []
wait_for(lambda: count("killed", "metrics.jsonl") >= 3)
for times in range(1, 4):
    time.sleep(pick.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    found["killed"].append(ended(child))
    child = fork("resume", "killed")
    if times < 3:  # the first two are killed among their steps, the last at any time
        wait_for(lambda: count("killed", "events.jsonl", b"resumed") == times)
time.sleep(pick.uniform(0, 0.5))
os.kill(child, signal.SIGKILL)
found["killed"].append(ended(child))
found["went on"] = ended(fork("resume", "killed"))
print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of POSIX")
def test_stopped_and_killed_runs_end_as_if_nothing_had_been(tmp_path_factory, tmp_path):
    stub = save_stub(tmp_path_factory.mktemp("prior") / "stub")
    command = [sys.executable, "-c", HARNESS, os.path.dirname(__file__), str(stub)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stderr + log
    found = json.loads(done.stdout)
    assert len(found["killed"]) == 4
    assert found["killed"].count(-9) >= 2  # a fast machine may have ended one before
    assert found == {**found, "whole": 0, "second": [1, 1], "stopped": [130, "stopped"], "resumed": 0, "went on": 0}
    assert log.count("is in use by process") == 2
    assert "stopped by SIGTERM; continue with: dreamlift resume stopped" in log
    assert "Traceback" not in log

    whole = tmp_path / "whole"
    for name in ("stopped", "killed"):
        folder = tmp_path / name
        assert names(folder) == names(whole)
        assert status_of(folder)["status"] == "finished"
        assert same(checkpoint_of(folder), checkpoint_of(whole))
        assert (folder / "asset.glb").read_bytes() == (whole / "asset.glb").read_bytes()
        assert read_metrics(folder) == read_metrics(whole)
        events = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]
        assert events.count("created") == 1
        assert events.count("resumed") in ([1] if name == "stopped" else [3, 4])
    assert names(tmp_path) == ["killed", "log.txt", "mine.yaml", "stopped", "whole"]
