"""Time and memory of a step with the big models' own architectures, at full size, on a GPU.

    python benchmarks/full_size.py [--models sd-2.1-base sdxl sd3-medium] [--losses sds vsd] [--sizes 64 512] [--json FILE]

The weights are random and go by way of a diffusers folder, as real ones would; what a step costs does not depend on them.
Each model is made once, and loaded once for each loss. The floor is what the frozen networks have to do in a step, and in VSD's
the LoRA's passes: the encoder forward and backward, the U-Net with guidance, and with VSD eps_phi once without a gradient and
once with one. Steps and floors take turns. A row that fails does not stop the others; the exit code is then 1.

With ``--seconds``, what no longer fits is left out and named: a part fits if the longest one of its kind so far, times
``GROWTH``, ends in time. ``--small`` makes tiny models of the same structure, and ``--device cpu`` then needs no GPU.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tune_process()  # before torch

import argparse  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

BEGUN = time.perf_counter()  # the time limit includes the imports

import torch  # noqa: E402
from random_models import MODELS, Builder  # noqa: E402

from dreamlift.config.schema import Config  # noqa: E402
from dreamlift.guidance.rfds import RFDS  # noqa: E402
from dreamlift.guidance.sds import SDS  # noqa: E402
from dreamlift.guidance.vsd import VSD  # noqa: E402
from dreamlift.lifting import Job, load, resolve  # noqa: E402
from dreamlift.memory import check_memory  # noqa: E402
from dreamlift.presets import PRESETS  # noqa: E402
from dreamlift.priors.choice import PriorChoice  # noqa: E402
from dreamlift.scenes.nerf.occupancy import Occupancy  # noqa: E402
from dreamlift.stages.lift import Lift  # noqa: E402
from dreamlift.stages.settings import Weights  # noqa: E402
from dreamlift.system.files import atomic_write_text  # noqa: E402

HIFA = PRESETS["hifa"]
# Later models are larger, but the first one's loading includes the compiling of kernels. Measuring ends early when time is up,
# and a quarter of its steps are enough for a row.
GROWTH = {"making": 2.0, "loading": 1.0, "measuring": 0.25}
UNMEASURED = 3  # first steps that are not counted
FEWEST = 3  # steps that a median needs, when time is up
COLUMNS = {  # key of a row -> (title, format)
    "model": ("model", "14s"), "loss": ("loss", "6s"), "size": ("size", "6d"), "load_s": ("load s", "8.1f"),
    "floor_ms": ("floor ms", "10.1f"), "step_ms": ("step ms", "9.1f"), "ratio": ("ratio", "7.2f"), "peak_gb": ("GB", "7.1f"),
    "estimated_gb": ("said GB", "9.1f"), "steps": ("steps", "7d"),
}  # fmt: skip


@dataclass
class Deadline:
    """A time limit in ``seconds`` after ``begun``, 0 for none, and how long each kind of part took."""

    seconds: float
    begun: float = field(default_factory=time.perf_counter)
    clock: Callable[[], float] = time.perf_counter
    longest: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.seconds - (self.clock() - self.begun) if self.seconds else float("inf")

    def fits(self, kind: str) -> bool:
        """Whether a part of this kind should end in time; the first one of its kind is tried."""
        return self.left > GROWTH[kind] * self.longest.get(kind, 0.0)

    @contextmanager
    def part(self, kind: str) -> Iterator[None]:
        begun = self.clock()
        yield
        self.longest[kind] = max(self.longest.get(kind, 0.0), self.clock() - begun)


@dataclass
class Results:
    """Rows of the table, printed and written to ``file`` as they come, so that a run that is killed leaves them."""

    about: dict[str, Any]
    file: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def heading(self) -> None:
        print("".join(f"{title:{'<' if form[-1] == 's' else '>'}{width_of(form)}}" for title, form in COLUMNS.values()),
              flush=True)  # fmt: skip

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        cells = (f"{'-':>{width_of(form)}}" if row[key] is None else f"{row[key]:{form}}" for key, (_, form) in COLUMNS.items())
        print("".join(cells), flush=True)
        self.write()

    def without(self, kept: list[dict[str, Any]], word: str, model: str, loss: str, sizes: list[int], why: str) -> None:
        """Record rows that are not there, in ``skipped`` or ``failed``."""
        for size in sizes:
            kept.append({"model": model, "loss": loss, "size": size, "why": why})
            print(f"{model:14s}{loss:6s}{size:6d}  {word}: {why}", flush=True)
        self.write()

    def write(self) -> None:
        if self.file is not None:
            whole = {**self.about, "rows": self.rows, "skipped": self.skipped, "failed": self.failed}
            atomic_write_text(self.file, json.dumps(whole, indent=2) + "\n")


def width_of(form: str) -> int:
    return int(form[:-1].split(".")[0])


def main() -> None:
    arguments = read_arguments()
    cuda = torch.device(arguments.device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        raise SystemExit("this needs a CUDA GPU; try it with --device cpu --small, or measure the embedded prior on a CPU with "
                         "benchmarks/step.py")  # fmt: skip
    deadline, name = Deadline(arguments.seconds, BEGUN), torch.cuda.get_device_name() if cuda else "CPU"
    about = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "small": arguments.small,
             "steps": arguments.steps, "chunk_rays": arguments.chunk_rays}  # fmt: skip
    results = Results(about, arguments.json)
    tiny = "; tiny models, so the figures say nothing of the real ones" if arguments.small else ""
    print(f"{name}, torch {torch.__version__}; medians of up to {arguments.steps} steps{tiny}")
    results.heading()
    for model in arguments.models:
        with kept_or_temporary(arguments.folder, model) as folder:
            measure_model(model, folder, arguments, deadline, results)
    if results.failed or not results.rows:
        sys.exit(1)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--losses", nargs="+", choices=("sds", "vsd"), default=["sds", "vsd"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[512], help="pixels a side of the renders")
    parser.add_argument("--chunk-rays", type=int, default=HIFA.stages[0].scene.chunk_rays, help="0: all")
    parser.add_argument("--steps", type=int, default=20, help="steps that are measured")
    parser.add_argument("--seconds", type=float, default=0.0, help="time limit of the whole run; 0: none")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and scene, to try the program")
    parser.add_argument("--folder", type=Path, help="where the random models are kept (2 to 7 GB each); default: nowhere")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes")
    return parser.parse_args()


@contextmanager
def kept_or_temporary(parent: Path | None, model: str) -> Iterator[Path]:
    """The folder of a model: in ``parent``, or one that is deleted after its use, so that one model at a time takes space."""
    if parent is not None:
        yield parent / model
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) / model


def measure_model(model: str, folder: Path, arguments: Any, deadline: Deadline, results: Results) -> None:
    """All rows of one model, which is made unless ``folder`` is there."""
    # The transformer of Stable Diffusion 3 takes no LoRA of VSD's.
    losses = [loss for loss in arguments.losses if loss == "sds" or model != "sd3-medium"]

    def leave_out(loss: str, sizes: list[int], kind: str) -> None:
        why = f"{kind} it no longer fits into the time limit of {deadline.seconds:g} s"
        results.without(results.skipped, "skipped", model, loss, sizes, why)

    if not folder.is_dir():
        if not deadline.fits("making"):
            for loss in losses:
                leave_out(loss, arguments.sizes, "making")
            return
        try:
            with deadline.part("making"):
                MODELS[model](Builder(arguments.device, arguments.small), folder)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)  # half a model would be taken for a whole one
            for loss in losses:
                results.without(results.failed, "failed", model, loss, arguments.sizes, one_line(error))
            return
    for loss in losses:
        if not deadline.fits("loading"):
            leave_out(loss, arguments.sizes, "loading")
            continue
        waiting = list(arguments.sizes)
        try:
            with deadline.part("loading"):
                job, loaded, peak = prepare(folder, loss, arguments)
            while waiting:
                row = None
                if deadline.fits("measuring"):
                    with deadline.part("measuring"):
                        row = measure(job, waiting[0], arguments, deadline, peak)
                if row is None:
                    leave_out(loss, waiting[:1], "measuring")
                else:
                    results.add({"model": model, "loss": loss, "load_s": loaded, **row})
                waiting.pop(0)
        except (Exception, SystemExit) as error:
            results.without(results.failed, "failed", model, loss, waiting, one_line(error))
        job = None
        gc.collect()  # the job's parts refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def prepare(folder: Path, loss: str, arguments: Any) -> tuple[Job, float, int]:
    """The job after its warm-up with small renders, the seconds that loading took, and the peak of memory until here."""
    if arguments.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    job = load(resolve(config_of(folder, loss, arguments)))
    finish_kernels()
    loaded, stage = time.perf_counter() - begun, job.work.stage
    small = replace(stage, cameras=replace(stage.cameras, resolution=(min(64, *arguments.sizes),)))
    for _ in range(stage.scene.occupancy.warmup + 3):  # until empty space is skipped
        step(job, small)
    return job, loaded, peak_bytes()


def measure(job: Job, size: int, arguments: Any, deadline: Deadline, peak: int) -> dict[str, Any] | None:
    """The figures of one size, None where time was up before ``FEWEST`` steps; ``peak``: bytes at most until now."""
    stage = job.work.stage
    stage = replace(stage, cameras=replace(stage.cameras, resolution=(size,)))
    (planned,) = job.config.stages
    config = replace(job.config, stages=(replace(planned, cameras=stage.cameras),))
    if arguments.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    floor = make_floor(job, size)
    times: dict[str, list[float]] = {"floor": [], "step": []}
    for i in range(arguments.steps + UNMEASURED):
        if deadline.left <= 0.0:
            break
        for kind, work in (("floor", floor), ("step", lambda: step(job, stage))):
            took = timed(work)
            if i >= UNMEASURED:
                times[kind].append(took)
    if len(times["step"]) < min(FEWEST, arguments.steps):
        return None
    if arguments.profile:
        profile(lambda: step(job, stage))
    middle = {kind: statistics.median(each) for kind, each in times.items()}
    ratio = statistics.median(s / f for s, f in zip(times["step"], times["floor"], strict=True))
    need, _ = check_memory(config, job.resolved.priors, job.resolved.device)
    most = max(peak, peak_bytes())
    # On a CPU the peak is that of the whole process, which says nothing of one row.
    return {"size": size, "floor_ms": middle["floor"], "step_ms": middle["step"], "ratio": ratio,
            "peak_gb": most / 1e9 if most else None, "estimated_gb": (need.device or need.host) / 1e9 if need else None,
            "steps": len(times["step"])}  # fmt: skip


def config_of(folder: Path, loss: str, arguments: Any) -> Config:
    """A step as ProlificDreamer's first stage and HiFA have it: one picture, of a hash grid with 512 samples a ray."""
    sds = RFDS(guidance_scale=50.0) if (folder / "transformer").is_dir() else SDS(guidance_scale=100.0)
    (stage,) = HIFA.stages
    (teacher,) = stage.teachers
    guidance = VSD(lora_target="v") if loss == "vsd" else sds
    scene = replace(stage.scene, chunk_rays=arguments.chunk_rays)
    if arguments.small:
        field = replace(scene.field, levels=4, log2_rows=10, start_levels=2)
        scene = replace(scene, samples_per_ray=16, field=field, occupancy=Occupancy(warmup=2))
    stage = replace(
        stage, cameras=replace(stage.cameras, resolution=(max(arguments.sizes),)), scene=scene, weights=Weights(sparsity=1.0),
        teachers=(replace(teacher, prior=PriorChoice(str(folder)), guidance=guidance),),
    )  # fmt: skip
    return replace(
        HIFA, prompt="a red mug", device=arguments.device, stages=(stage,), engine="torch",
        memory=replace(HIFA.memory, check=False),  # what it would refuse is measured too
    )  # fmt: skip


def step(job: Job, stage: Lift) -> None:
    """One step with the settings of ``stage``, which may differ from those that the work began with."""
    job.work.stage = stage
    note = job.work.step().note
    if note:
        raise SystemExit(f"a step went wrong, its time says nothing: {note}")


def make_floor(job: Job, size: int) -> Callable[[], object]:
    """The networks' own passes of a step."""
    stage, (prior,), (learned,) = job.work.stage, job.work.ready.priors, job.work.learned
    guidance, views, device = stage.teachers[0].guidance, stage.cameras.views, prior.device
    cameras = stage.cameras(0.0, torch.Generator().manual_seed(0)).to(device)
    cond = job.work.ready.embeds[0].at(cameras)
    pictures = torch.rand(views, size, size, 3, device=device, requires_grad=True)
    t, rng = torch.full((views,), 0.5), torch.Generator().manual_seed(0)

    def passes() -> None:
        latents = prior.encode(pictures)
        with torch.no_grad():
            prior.predict_noise(latents, t, cond, 7.5)
            if learned is not None:
                learned.predict_noise(latents, t, cond)
        if isinstance(guidance, VSD):
            guidance.lora_loss(prior, latents.detach(), cond, rng, learned).backward()
        latents.sum().backward()
        pictures.grad = None

    return passes


def finish_kernels() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def timed(work: Callable[[], object]) -> float:
    """Milliseconds, the GPU's work included."""
    finish_kernels()
    begun = time.perf_counter()
    work()
    finish_kernels()
    return 1e3 * (time.perf_counter() - begun)


def profile(work: Callable[[], object]) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    with recording(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        timed(work)
    for order in ("self_cuda_time_total", "self_cpu_time_total"):
        print(found.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
