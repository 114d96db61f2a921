"""A batch under kill -9: workers and coordinators are killed at random, and some prompts are poison.

    python benchmarks/batch_kills.py                      # 200 assets on 2 processes, 20 kills, 5 poison prompts
    python benchmarks/batch_kills.py --count 40 --kills 6 # smaller
    python benchmarks/batch_kills.py --ray local          # on a Ray cluster of this machine

The assets have few steps. A poison prompt makes its process crash, end, hang, take all memory, or raise, in the reading of the
prompt (a plugin does it). When all is over, the files are checked without the ledger's own code: is every good asset made once,
none twice, is every poison prompt given up with its reason, is every file of the ledger whole? The same command again continues
a benchmark that was stopped, or checks a finished one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import trimesh

TINY = ["--stages.1=null", "--steps=6", "--scene.field.resolutions=[9,17]", "--scene.field.switch_on=[0,0.5]",
        "--scene.samples_per_ray=24", "--cameras.resolution=[32]", "--mesh.resolution=32", "--mesh.texture_size=64",
        "--mesh.faces=500", "--checkpoint-every=2"]  # fmt: skip
COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown")
NOUNS = ("mug", "chair", "car", "duck", "house", "tree", "robot", "teapot", "lamp", "boat")
POISONS = ("crash", "memory", "hang", "end", "raise")
PLUGIN = '''
"""Prompts that do harm where a worker reads them."""
import os, signal, sys, time
from dreamlift.priors.kinds import Located

read = Located.read

def harmful(self, task, *others, **more):
    words = task.prompt.split()
    if "poison" in words:
        kind = words[words.index("poison") + 1]
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "memory":
            held = [bytearray(50_000_000) for _ in range(400) if not time.sleep(0.02)]
        if kind == "hang":
            time.sleep(1e6)
        if kind == "end":
            os._exit(7)
        raise RuntimeError("poison")
    return read(self, task, *others, **more)

Located.read = harmful
'''


def make_list(folder: Path, count: int, poison: int, rng: random.Random) -> Path:
    """The list, with the poison prompts at random places."""
    prompts = [f"a {COLORS[i % 10]} {NOUNS[i // 10 % 10]}" for i in range(count - poison)]
    rows = [[prompt, str(i // 100)] for i, prompt in enumerate(prompts)]
    for i in range(poison):
        rows.insert(rng.randrange(len(rows)), [f"a red mug poison {POISONS[i % len(POISONS)]}", str(1000 + i)])
    path = folder / "list.csv"
    path.write_text("prompt,seed\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Batch:
    """The command, started again each time its coordinator is killed."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.words, self.log, self.done, self.finished = words, log, 0, False
        self.events: collections.Counter[str] = collections.Counter()

    def start(self) -> None:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(self.words, stdout=subprocess.PIPE, stderr=log, text=True)
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                self.events[event["event"]] += 1
                self.done += event["event"] == "done"
                with open(self.log.with_suffix(".jsonl"), "a") as log:
                    log.write(line)

    def workers(self) -> list[int]:
        """The processes of the workers: the coordinator's children, or with --ray the actors of a cluster of this machine.

        On a machine with several batches on Ray, the others' actors would be killed as well.
        """
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                own = b"dreamlift.batch.workers.worker" in words and parent == self.process.pid
                if own or ("--ray" in self.words and words.startswith(b"ray::Maker")):
                    found.append(int(folder.name))
        return found


def kill_at_random(batch: Batch, kills: int, good: int, rng: random.Random) -> list[tuple[str, int]]:
    """Run the batch to its end, with ``kills`` spread over its assets. Returns the victims, and how many were done then."""
    when = sorted(rng.randrange(good) for _ in range(kills))
    victims: list[tuple[str, int]] = []
    batch.start()
    while batch.process.poll() is None or batch.process.returncode == -signal.SIGKILL:
        if batch.process.poll() is not None:
            batch.start()
        time.sleep(rng.uniform(0.05, 0.5))
        if not when or batch.done < when[0]:
            continue
        time.sleep(rng.uniform(0, 3))
        if rng.random() < 0.25:
            what, pid = "coordinator", batch.process.pid
        elif workers := batch.workers():
            what, pid = "worker", rng.choice(workers)
        else:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            when.pop(0)
            victims.append((what, batch.done))
            batch.process.poll() if what == "worker" else batch.process.wait()
    return victims


def check(runs: Path, listed: Path) -> dict[str, int]:
    """Counts of what the files say, read without the ledger's code."""
    entries = [json.loads(line) for line in (runs / ".batch" / "entries.jsonl").read_text().splitlines()]
    index = {path.name for path in (runs / ".batch" / "ended").iterdir()}
    found: collections.Counter[str] = collections.Counter()
    found["in the list"] = len(listed.read_text().splitlines()) - 1
    found["in the ledger"] = len(entries)
    for entry in entries:
        folder, poison = runs / entry["folder"], "poison" in entry["prompt"]
        own = {path.name: path for path in (folder / ".asset").iterdir()}
        found["damaged files of the ledger"] += sum(not _is_json(path) for path in own.values())
        claims = sorted(int(name[6:]) for name in own if name.startswith("claim-"))
        found["gaps between attempts"] += claims != list(range(1, len(claims) + 1))
        found["attempts"] += len(claims)
        found["index differs"] += (f"{entry['id']}.done" in index) != ("done" in own)
        if poison:
            found["poison given up with a reason"] += "failed" in own and bool(json.loads(own["failed"].read_text())["reason"])
            found["poison with an asset"] += (folder / "asset.glb").exists()
            continue
        found["made"] += "done" in own and len(trimesh.load(folder / "asset.glb", force="mesh").faces) > 0
        found["lost"] += "done" not in own
        status = json.loads((folder / "run.json").read_text())["status"] if (folder / "run.json").exists() else "?"
        found["not finished"] += status != "finished"
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines() if _is_json(line)]
        found["begun twice"] += sum(event["event"] == "created" for event in events) > 1  # 0: killed before it was written
        found["went on from a checkpoint"] += any(event["event"] == "resumed" and event["step"] for event in events)
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found["steps missing or twice"] += steps != list(range(6))
    return dict(found)


def _is_json(source: Path | str) -> bool:
    try:
        json.loads(source.read_text() if isinstance(source, Path) else source)
    except ValueError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--poison", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", default="60s", help="of an attempt; the prompt that hangs costs three of it")
    parser.add_argument("--ray", help="local, auto or an address")
    parser.add_argument("--out", type=Path, default=Path("outputs/batch_kills"))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    listed = make_list(arguments.out, arguments.count, arguments.poison, rng)
    plugin = arguments.out / "poison_prompts.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    runs = arguments.out / "runs"
    words = [sys.executable, "-m", "dreamlift.cli", "batch", str(listed), "--out", str(runs), "--jobs", str(arguments.jobs),
             "--json", "--timeout", arguments.timeout, "--max-memory", "4GB", "--plugin", str(plugin), *TINY]  # fmt: skip
    words += ["--ray", arguments.ray] if arguments.ray else []
    batch, begun = Batch(words, arguments.out / "log.txt"), time.monotonic()
    victims = kill_at_random(batch, arguments.kills, arguments.count - arguments.poison, rng)
    seconds = time.monotonic() - begun
    kinds = collections.Counter(what for what, _ in victims)
    print(f"{arguments.count} assets, {arguments.jobs} processes, {seconds:.0f} s, load {os.getloadavg()[1]:.1f} on "
          f"{os.cpu_count()} cores; last exit code {batch.process.returncode}")  # fmt: skip
    print(f"kill -9: {kinds['worker']} workers, {kinds['coordinator']} coordinators, when this many were done: "
          + " ".join(str(done) for _, done in victims))  # fmt: skip
    for name, value in check(runs, listed).items():
        print(f"{name:32s} {value:6d}")
    for path in sorted(runs.glob("*/.asset/failed")):
        print(f"given up: {path.parts[-3][:36]:36s} {json.loads(path.read_text())['reason'][:110]}")


if __name__ == "__main__":
    main()
