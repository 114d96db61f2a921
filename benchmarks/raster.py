"""What a differentiable picture of a mesh of 20,000 faces costs on a CPU, next to its torch twin and to public renderers.

    pip install embreex vtk        # optional, for the comparison; not needed by the package (BSD licences)
    python benchmarks/raster.py [--threads 1] [--runs 15] [--device cpu]

Four tables of milliseconds (the smallest of the runs; on a CPU of CPU time, all threads) and ratios:

- finding the visible face of each pixel, with every backend that is there;
- a whole picture: interpolated colours, coverage, antialiased silhouettes, with the mesh's edges found anew as after a change
  of its shape; forward, and forward with backward to vertices and colours; by the compiled kernels, and by the torch twin,
  which runs where numba is not installed;
- how far the two are apart;
- the picture without antialiasing against public CPU renderers that draw the same mesh, colours and camera at 256 x 256. They
  have no gradients: forward is compared with forward. ``embreex`` is Intel's Embree, a ray a pixel; ``vtk`` draws with
  OpenGL, which must be Mesa's software (llvmpipe).

The rows are measured in turn, round after round, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

from dreamlift.system.startup import tune_process

tuned = tune_process()  # before torch

import argparse  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dreamlift.cameras import rays_of, turntable  # noqa: E402
from dreamlift.raster.soft import draw, edges_of, raster_points  # noqa: E402
from dreamlift.raster.visibility import available_backends, visible_faces  # noqa: E402
from dreamlift.scenes.tetmesh.tets import TetGrid, crossing_of, edge_vertices  # noqa: E402
from dreamlift.types import Cameras  # noqa: E402

SIZES = (64, 256, 512)
SIDE = 256  # pixels of the comparison with other renderers
CLOSE = 2.5 / 255  # colours that count as the same: VTK's are whole numbers of 255ths


@dataclass(frozen=True)
class Model:
    vertices: Tensor  # (V, 3)
    faces: Tensor  # (F, 3) int64
    colors: Tensor  # (V, 3)


def ball(device: str) -> Model:
    """A bumpy ball of some 20,000 faces, with smooth colours."""
    grid = TetGrid(37, 1.0)
    points = grid.positions()
    values = points.norm(dim=1) - 0.6 - 0.05 * (9 * points).sin().prod(dim=1)
    crossing = crossing_of(grid, values)
    vertices = edge_vertices(points[crossing.ends], values[crossing.ends])
    return Model(vertices.to(device), crossing.faces.to(device), (0.5 + 0.5 * (7 * vertices).sin()).to(device))


def camera(size: int, device: str) -> Cameras:
    return turntable(1, distance=2.6, fov_deg=40.0, size=size).to(device)


def use_kernels(wanted: bool) -> None:
    os.environ["DREAMLIFT_KERNELS"] = "1" if wanted else "0"


def visibility(model: Model, size: int, backend: str) -> Callable[[], None]:
    cameras = camera(size, model.vertices.device.type)

    def step() -> None:
        use_kernels(True)
        visible_faces(model.vertices, model.faces, cameras, backend)

    return step


def drawn(model: Model, cameras: Cameras, smooth: bool = True) -> Tensor:
    """``(1, H, W, 4)`` colours times coverage, and coverage; with antialiased silhouettes if ``smooth``."""
    seen = raster_points(model.vertices, model.faces, cameras)
    values = torch.cat([seen.interpolate(model.colors), torch.ones_like(seen.depth)], dim=1)
    if not smooth:
        return seen.picture(values)
    return draw(values, seen, model.vertices, model.faces, edges_of(model.faces), cameras)


def gradients(model: Model, size: int, kernels: bool) -> Callable[[], tuple[Tensor, ...]]:
    """One view, forward and backward: the picture, and the gradients of vertices and colours for a given one of the picture."""
    cameras = camera(size, model.vertices.device.type)
    leaves = (model.vertices.clone().requires_grad_(), model.colors.clone().requires_grad_())
    moving = Model(leaves[0], model.faces, leaves[1])
    given = torch.randn(1, size, size, 4, generator=torch.Generator().manual_seed(0)).to(model.vertices)

    def step() -> tuple[Tensor, ...]:
        use_kernels(kernels)
        picture = drawn(moving, cameras)
        return picture, *torch.autograd.grad(picture, leaves, given)

    return step


def forward(model: Model, size: int, kernels: bool, smooth: bool = True) -> Callable[[], Tensor]:
    cameras = camera(size, model.vertices.device.type)

    def step() -> Tensor:
        use_kernels(kernels)
        with torch.no_grad():
            return drawn(model, cameras, smooth)

    return step


def embree(model: Model, size: int, rebuild: bool) -> Callable[[], Tensor] | None:
    """A ray a pixel by Embree, with its tree built anew (as for a mesh that moves) or kept; the rays are made beforehand."""
    try:
        from embreex.mesh_construction import TriangleMesh  # pyright: ignore[reportMissingImports]
        from embreex.rtcore_scene import EmbreeScene  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    rays, faces = rays_of(camera(size, "cpu")), model.faces.numpy()
    origins, directions = (np.ascontiguousarray(x.reshape(-1, 3).numpy()) for x in (rays.origins, rays.directions))
    vertices, colors = model.vertices.numpy(), model.colors.numpy()

    def build() -> EmbreeScene:
        scene = EmbreeScene()
        TriangleMesh(scene, vertices, faces.astype(np.int32))
        return scene

    kept = None if rebuild else build()

    def step() -> Tensor:
        hits = (kept or build()).run(origins, directions, output=1)
        pixel = np.nonzero(hits["primID"] >= 0)[0]
        u, v = hits["u"][pixel, None], hits["v"][pixel, None]
        a, b, c = (colors[corner] for corner in faces[hits["primID"][pixel]].T)
        out = np.zeros((len(origins), 4), np.float32)
        out[pixel, :3], out[pixel, 3] = (1 - u - v) * a + u * b + v * c, 1
        return torch.from_numpy(out).view(1, size, size, 4)

    return step


def vtk(model: Model, size: int) -> Callable[[], Tensor] | str:
    """VTK off the screen, unlit colours of the vertices; the mesh goes to OpenGL anew, as one that moves. A line if not."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's llvmpipe, in the calling thread alone
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    try:
        import vtkmodules.all as vtk_all  # pyright: ignore[reportMissingImports]
        from vtkmodules.util import numpy_support  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "not installed (pip install vtk)"
    mesh, points, cells = vtk_all.vtkPolyData(), vtk_all.vtkPoints(), vtk_all.vtkCellArray()
    vertices, faces = model.vertices.numpy(), model.faces.numpy()
    points.SetData(numpy_support.numpy_to_vtk(vertices))
    cells.SetData(3, numpy_support.numpy_to_vtkIdTypeArray(faces.ravel()))
    colors = numpy_support.numpy_to_vtk((model.colors * 255).round().byte().numpy(), deep=True)
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    mesh.GetPointData().SetScalars(colors)
    mapper, actor = vtk_all.vtkPolyDataMapper(), vtk_all.vtkActor()
    mapper.SetInputData(mesh)
    actor.SetMapper(mapper)
    actor.GetProperty().LightingOff()
    renderer, window = vtk_all.vtkRenderer(), vtk_all.vtkRenderWindow()
    renderer.AddActor(actor)
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetAlphaBitPlanes(1)
    window.SetSize(size, size)
    window.AddRenderer(renderer)
    c2w = camera(size, "cpu").c2w[0].double()
    view = renderer.GetActiveCamera()
    view.SetPosition(*c2w[:3, 3].tolist())
    view.SetFocalPoint(*(c2w[:3, 3] + c2w[:3, 2]).tolist())
    view.SetViewUp(*(-c2w[:3, 1]).tolist())
    view.SetViewAngle(40.0)
    view.SetClippingRange(0.1, 10.0)
    pixels = vtk_all.vtkUnsignedCharArray()

    def step() -> Tensor:
        for changed in (points, colors, mesh):
            changed.Modified()
        window.Render()
        window.GetRGBACharPixelData(0, 0, size - 1, size - 1, 1, pixels)
        rows = numpy_support.vtk_to_numpy(pixels).reshape(size, size, 4)[::-1]
        return torch.from_numpy(rows / np.float32(255))[None]

    step()
    software = "llvmpipe" in window.ReportCapabilities()
    return step if software else "its OpenGL is not Mesa's software here"


def renderers(model: Model) -> tuple[dict[str, Callable[[], Tensor]], list[str]]:
    """The rows of the last table, and lines on what is left out."""
    rows: dict[str, Callable[[], Tensor]] = {
        "dreamlift, compiled kernels": forward(model, SIDE, True, smooth=False),
        "dreamlift, torch twin": forward(model, SIDE, False, smooth=False),
    }
    missing = []
    for name, rebuild in (("embreex, tree built anew", True), ("embreex, tree kept", False)):
        found = embree(model, SIDE, rebuild)
        if found is None:
            missing.append(f"{name}: not installed (pip install embreex)")
        else:
            rows[name] = found
    other = vtk(model, SIDE)
    if isinstance(other, str):
        missing.append(f"vtk: {other}")
    else:
        rows["vtk, Mesa llvmpipe"] = other
    return rows, missing


def different(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Shares of the pixels that only one picture covers, and whose colours differ by more than :data:`CLOSE` where both do."""
    first, second = one[..., 3] > 0.5, other[..., 3] > 0.5
    both = first & second
    apart = (one - other)[..., :3].abs().amax(-1) > CLOSE
    return (first != second).float().mean().item(), (both & apart).float().mean().item()


def measured(rows: dict, runs: int, device: str) -> dict[object, float]:
    """The least milliseconds of each row's calls."""
    times: dict[object, list[float]] = {key: [] for key in rows}
    clock = time.process_time if device == "cpu" else time.perf_counter
    for run in range(runs + 1):  # the first one compiles
        for key, call in rows.items():
            began = clock()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if run:
                times[key].append(1000 * (clock() - began))
    return {key: min(each) for key, each in times.items()}


def table(title: str, names: list[str], times: dict, base: str) -> None:
    print("\n| " + " | ".join([title, *(f"{size} px" for size in SIZES)]) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    for name in names:
        cells = [f"{times[name, size]:.1f} ({times[name, size] / times[base, size]:.3f})" for size in SIZES]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = ball(args.device)
    backends = available_backends(args.device)
    kernels = args.device == "cpu" and "numba" in backends
    ways = {"compiled kernels": True, "torch twin": False} if kernels else {"torch": False}
    rows: dict = {(name, size): visibility(model, size, name) for name in backends for size in SIZES}
    for way, wanted in ways.items():
        rows |= {(f"{way}, forward", size): forward(model, size, wanted) for size in SIZES}
        rows |= {(f"{way}, forward and backward", size): gradients(model, size, wanted) for size in SIZES}
    others, missing = renderers(model) if kernels else ({}, [])
    times = measured({**rows, **others}, args.runs, args.device)
    print(f"{len(model.faces):,} faces, one view, {args.device}, {args.threads} thread(s), smallest of {args.runs} runs")
    table("visible faces, ms (ratio to torch)", list(backends), times, "torch")
    for part in ("forward", "forward and backward"):
        table(f"picture, {part}, ms (ratio)", [f"{way}, {part}" for way in ways], times, f"{[*ways][-1]}, {part}")
    if kernels:
        compare_twins(model, times)
        compare_renderers(others, times)
        print("\n".join(missing))


def compare_twins(model: Model, times: dict) -> None:
    mine, twin = (times[f"{way}, forward and backward", SIDE] for way in ("compiled kernels", "torch twin"))
    print(f"\nForward and backward at {SIDE} px, torch twin over compiled kernels: {twin / mine:.1f}. They differ, in norm, by")
    both = zip(gradients(model, SIDE, True)(), gradients(model, SIDE, False)(), strict=True)
    for name, (one, other) in zip(("picture", "gradient of vertices", "gradient of colours"), both, strict=True):
        print(f"- {name}: {((one - other).norm() / other.norm()).item():.1e}")


def compare_renderers(others: dict[str, Callable[[], Tensor]], times: dict) -> None:
    print(f"\n| picture without antialiasing, forward, {SIDE} px | ms | ratio | only one covers | other colour |")
    print("|---" * 5 + "|")
    mine = next(iter(others.values()))()
    for name, call in others.items():
        covered, colored = different(mine, call())
        ratio = times[name] / times["dreamlift, compiled kernels"]
        print(f"| {name} | {times[name]:.1f} | {ratio:.2f} | {100 * covered:.3f}% | {100 * colored:.3f}% |")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
