"""``dreamlift render``: paths against hand-worked cameras, pictures against geometry, videos read back by others."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from box_helpers import COLORS, SIZE, obj, picture
from lift_helpers import refused, run_main, tree
from PIL import Image, ImageSequence

from dreamlift.cameras import turntable
from dreamlift.export.glb import save_glb
from dreamlift.export.splats import save_splats
from dreamlift.runs.run import Run
from dreamlift.showing.camera_path import DISTANCE, FOV_DEG, cameras_on
from dreamlift.showing.draw import CLAY, LOOKS, draw_mesh
from dreamlift.showing.movies import movie
from dreamlift.types import Mesh, Splats


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def box(cwd):
    """box.obj with a colour on each of its sides."""
    (cwd / "m.mtl").write_text("newmtl box\nKd 1 1 1\nmap_Kd m.png\n")
    (cwd / "m.png").write_bytes(picture())
    (cwd / "box.obj").write_text(obj())
    return cwd / "box.obj"


def card(**material):
    """A square of side 1 in the plane z = 0 that faces the front."""
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], np.float32)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32), **material)


def save_path(folder, keys):
    file = folder / "path.json"
    file.write_text(json.dumps(keys))
    return str(file)


# Paths


def test_an_orbit_is_a_turntable_without_the_first_frame_at_its_end():
    cameras = cameras_on("orbit", 8, 32, 20.0)
    assert torch.allclose(cameras.c2w, turntable(8, 20.0, DISTANCE, FOV_DEG, 32).c2w, atol=1e-6)
    assert math.degrees(float(cameras.azimuth[-1])) == pytest.approx(315.0)


def test_values_are_linear_between_keyframes_and_stay_where_none_is_given(tmp_path):
    keys = [{"azimuth_deg": 10}, {"azimuth_deg": 730, "elevation_deg": 50, "fov_deg": 30}, {"distance": 4.5}]
    cameras = cameras_on(save_path(tmp_path, keys), 5, 100, 30.0)
    degrees = torch.rad2deg(torch.stack([cameras.azimuth, cameras.elevation], dim=1))
    assert torch.allclose(degrees, torch.tensor([[10.0, 30], [370, 40], [730, 50], [730, 50], [730, 50]]), atol=1e-3)
    middle = DISTANCE + (4.5 - DISTANCE) / 2
    assert torch.allclose(cameras.distance, torch.tensor([DISTANCE, DISTANCE, DISTANCE, middle, 4.5]))
    focal = [50.0 / math.tan(math.radians(fov) / 2) for fov in (42.0, 36.0, 30.0, 30.0, 30.0)]
    assert cameras.K[:, 0, 0].tolist() == pytest.approx(focal, rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([], "a JSON list of 1 to 1000 keyframes"),
        ({"azimuth_deg": 3}, "a JSON list of 1 to 1000 keyframes"),
        ([3], "keyframe 0 is not a mapping"),
        ([{}, {"azimut": 3}], "keyframe 1 has the unknown name 'azimut'; accepted: azimuth_deg, elevation_deg, distance"),
        ([{"elevation_deg": 91}], "elevation_deg is '91'; accepted: -90 to 90"),
        ([{"fov_deg": "wide"}], "fov_deg is 'wide'; accepted: 1 to 170"),
        ([{"distance": float("nan")}], "distance is 'nan'; accepted: 0.9 to 1000"),
        ([{"azimuth_deg": True}], "azimuth_deg is 'True'"),
    ],
)  # fmt: skip
def test_bad_paths_are_refused_in_one_line(box, cwd, capsys, keys, told):
    file = save_path(cwd, keys)
    refused(capsys, cwd, ["render", box, "--path", file], told)


# Pictures


def test_each_side_of_a_box_has_its_color_and_its_size(box, cwd):
    """The base colours from the front and from the right, and the height in pixels by the pinhole's formula."""
    for azimuth, side, depth in ((0, 4, SIZE[2]), (90, 0, SIZE[0])):
        path = save_path(cwd, [{"azimuth_deg": azimuth, "elevation_deg": 0, "distance": 3.0, "fov_deg": 40}])
        words = ["render", box, "--path", path, "--frames", 1, "--format", "png", "--look", "base", "--size", 100]
        assert run_main(*words, "--out", f"{azimuth}.png", "--background", "#000000") == 0
        shown = np.asarray(Image.open(f"{azimuth}.png"))
        assert shown.shape == (100, 100, 3)
        assert tuple(shown[50, 50]) == tuple(COLORS[side])
        # The box is scaled into a sphere of radius 0.85.
        scale = 0.85 / (np.linalg.norm(SIZE) / 2)
        height = SIZE[1] * scale * (50 / math.tan(math.radians(20))) / (3.0 - depth * scale / 2)
        assert (shown[:, 50].max(axis=1) > 0).sum() == pytest.approx(height, abs=1.5)


def test_looks_of_a_card_that_faces_the_camera():
    cameras = turntable(1, 0.0, 2.5, 42.0, 32)
    seen = {look: next(draw_mesh(card(), cameras, look, (0.0, 0.0, 1.0)))[16, 16] for look in LOOKS}
    assert torch.allclose(seen["base"], torch.full((3,), 0.5), atol=1e-6)  # a mesh without colours is grey
    assert torch.allclose(seen["normal"], torch.tensor([0.5, 0.5, 1.0]), atol=1e-5)
    key = 1 / math.sqrt(1 + 0.7**2 + 0.9**2)  # the cosine between the normal and the lamp
    assert torch.allclose(seen["clay"], torch.full((3,), CLAY * (0.35 + 0.65 * key)), atol=2e-2)
    wire = next(draw_mesh(card(), cameras, "wire"))
    assert float(wire[16, 15, 2] - wire[16, 15, 0]) > 0.1  # the diagonal
    assert torch.allclose(wire[16, 19], seen["clay"], atol=0.02)  # beside it
    assert torch.allclose(next(draw_mesh(card(), cameras, "clay", (0.0, 0.0, 1.0)))[0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_a_back_is_lit_as_well():
    behind = turntable(2, 0.0, 2.5, 42.0, 32)[1:]
    front = turntable(1, 0.0, 2.5, 42.0, 32)
    for look in ("color", "clay"):
        a, b = (next(draw_mesh(card(), cameras, look))[12, 20] for cameras in (front, behind))
        assert torch.allclose(a, b, atol=0.03)


def test_the_material_of_the_file_shows():
    """A mirror of metal reflects the studio, a rough one and a plastic one do not: the texture's channels are used."""
    uvs = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:, :2] = 0, 20, 255  # smooth metal on the left
    texture[:, 2:] = 0, 255, 0  # rough plastic on the right
    white = np.full((4, 4, 3), 255, np.uint8)
    mesh = card(uvs=uvs, base_color=white, metallic_roughness=texture, metallic=1.0, roughness=1.0)
    seen = next(draw_mesh(mesh, turntable(1, 0.0, 2.5, 42.0, 64), "color", (0.0, 0.0, 0.0)))
    left, right = seen[32, 26].mean(), seen[32, 38].mean()
    assert abs(float(left - right)) > 0.05
    plain = next(draw_mesh(card(uvs=uvs, base_color=white), turntable(1, 0.0, 2.5, 42.0, 64), "color", (0.0, 0.0, 0.0)))
    assert torch.allclose(plain[32, 38], seen[32, 38], atol=0.05)


def test_gaussians_are_rendered(cwd):
    count = 400
    rng = np.random.default_rng(0)
    means = rng.normal(size=(count, 3)).astype(np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    quats = np.tile(np.float32([1, 0, 0, 0]), (count, 1))
    sizes, strong = np.full((count, 3), math.log(0.1), np.float32), np.full(count, 4.0, np.float32)
    red = np.tile(np.float32([(0.9 - 0.5) / 0.28209479, (0.1 - 0.5) / 0.28209479, (0.1 - 0.5) / 0.28209479]), (count, 1, 1))
    save_splats(Splats(means * 10, quats, sizes + math.log(10), strong, red, np.zeros((count, 0, 3), np.float32)), "ball.ply")
    assert run_main("render", "ball.ply", "--frames", 1, "--format", "png", "--size", 64) == 0
    seen = np.asarray(Image.open("ball-orbit.png")) / 255
    assert seen[32, 32] == pytest.approx([0.9, 0.1, 0.1], abs=0.06)
    assert seen[1, 1] == pytest.approx([1, 1, 1], abs=0.01)


# Files


def test_all_formats_at_once_are_read_back_by_others(box, cwd, capsys):
    import av

    words = ["render", box, "--format", "mp4,webp,png", "--frames", 6, "--fps", 12, "--size", 64, "--out", "made/turn"]
    assert run_main(*words) == 0
    assert capsys.readouterr().out.splitlines() == ["made/turn.mp4", "made/turn.webp", "made/turn"]
    names = [f"frame-{n:04d}.png" for n in range(6)]
    assert sorted(path.name for path in (cwd / "made/turn").iterdir()) == names
    pngs = [np.asarray(Image.open(cwd / "made/turn" / name)).astype(float) for name in names]
    with av.open("made/turn.mp4") as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate), stream.pix_fmt) == (64, 64, 12.0, "yuv420p")
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in video.decode(stream)]
    assert len(frames) == 6
    webp = Image.open("made/turn.webp")
    moving = [np.asarray(frame.convert("RGB")).astype(float) for frame in ImageSequence.Iterator(webp)]
    assert len(moving) == 6
    assert webp.info["duration"] == round(1000 / 12)
    for png, frame, other in zip(pngs, frames, moving, strict=True):
        assert np.abs(frame - png).mean() < 6.0  # chroma has half the resolution in an MP4
        assert np.abs(other - png).mean() < 4.0
    assert np.abs(pngs[0] - pngs[1]).mean() > 6.0  # so that a wrong frame would be noticed
    assert [path.name for path in (cwd / "made").iterdir() if path.name.startswith(".")] == []


def test_nothing_is_overwritten_unless_asked(box, cwd, capsys):
    words = ["render", box, "--frames", 2, "--size", 16, "--format", "webp,png"]
    assert run_main(*words) == 0
    assert capsys.readouterr().out.splitlines() == ["box-orbit.webp", "box-orbit"]
    refused(capsys, cwd, words, "box-orbit.webp exists", "--overwrite")
    (cwd / "box-orbit.webp").write_bytes(b"old")
    (cwd / "box-orbit" / "frame-0007.png").write_bytes(b"old")
    assert run_main(*words, "--overwrite") == 0
    assert len(list((cwd / "box-orbit").iterdir())) == 2
    assert Image.open("box-orbit.webp").n_frames == 2
    (cwd / "box-orbit" / "mine.txt").write_text("kept")
    capsys.readouterr()
    refused(capsys, cwd, [*words, "--overwrite"], "box-orbit holds more than frames, and is not replaced")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "avi"], "the format 'avi' is unknown; accepted: mp4, webp, png"),
        (["--out", "a.mov"], "the suffix .mov of --out is unknown; accepted: mp4, webp, png"),
        (["--out", "a.mp4", "--format", "webp"], "--out a.mp4 is a file of mp4, but --format asks for webp"),
        (["--size", "33", "--format", "mp4"], "MP4 needs an even number of pixels, such as 34"),
        (["--look", "xray"], "accepted: color, base, clay, normal, wire"),
        (["--background", "mauve"], "accepted: white, grey, black, or a color such as #f0e0d0"),
        (["--frames", "0"], "accepted: 1 to 10000"),
        (["--size", "9000"], "accepted: 16 to 4096 pixels"),
        (["--elevation", "100"], "accepted: -90 to 90 degrees"),
        (["--path", "nowhere.json"], "there is no camera path file 'nowhere.json'"),
    ],
)
def test_what_cannot_be_rendered_is_refused_before_anything_is_read(box, cwd, capsys, words, told):
    refused(capsys, cwd, ["render", box, *words], told)


def test_assets_that_are_none_are_refused(box, cwd, capsys):
    (cwd / "a.fbx").write_text("x")
    refused(capsys, cwd, ["render", "a.fbx"], "give a run's folder, or a file: .glb")
    refused(capsys, cwd, ["render", "b.glb"], "there is no file or folder 'b.glb'")
    refused(capsys, cwd, ["render", "."], ". is not a run folder")
    Run.create(cwd / "run", "a mug").close()
    refused(capsys, cwd, ["render", "run"], "run has no asset.glb yet (the run is running)", "dreamlift resume run")


def test_a_missing_package_is_named(box, cwd, capsys, monkeypatch):
    monkeypatch.setattr("dreamlift.showing.movies.importlib.util.find_spec", lambda name: None)
    refused(capsys, cwd, ["render", box, "--format", "mp4"], 'pip install "dreamlift[video]"')


def test_a_failure_of_ffmpeg_is_said(box, cwd, capsys, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    program = cwd / "ffmpeg"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", lambda: str(program))
    words = ["render", box, "--format", "mp4", "--frames", "2", "--size", "256", "--out", "flight.mp4"]
    refused(capsys, cwd, words, "'flight.mp4' cannot be written: ffmpeg has ended before the last frame", code=1)


def test_a_run_is_rendered_into_its_folder(cwd, capsys):
    with Run.create(cwd / "run", "a card") as run:
        save_glb(card(), run.folder / "asset.glb")
    assert run_main("render", "run", "--frames", 2, "--size", 16, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1] == {"event": "done", "files": ["run/orbit.webp"]}
    assert [event["step"] for event in events if event["event"] == "rendering"] == [0, 1]


@pytest.mark.parametrize("kind", ["mp4", "webp", "png"])
def test_a_failure_leaves_the_old_file_and_nothing_else(cwd, kind):
    target = cwd / "turn.x"
    target.write_bytes(b"old")
    frame = np.zeros((16, 16, 3), np.uint8)

    def fail():
        with movie(target, kind, 1, 16, 10.0) as taker:
            taker.add(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert tree(cwd) == {target.relative_to(cwd): b"old"}


def test_frames_are_opaque_and_loop(box, cwd):
    assert run_main("render", box, "--frames", 3, "--size", 16, "--out", "a.webp") == 0
    opened = Image.open(io.BytesIO((cwd / "a.webp").read_bytes()))
    assert opened.info["loop"] == 0
    assert opened.size == (16, 16)
