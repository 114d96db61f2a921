"""ONNX matting models: their input, their output and where they are looked for, with tiny graphs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from dreamlift.images import matting, onnx_matting
from dreamlift.images.matting import cut_out
from dreamlift.images.onnx_matting import IMAGENET, MODELS, cached_name, check_model, open_model


def saved(path, nodes, size=(1, 3, 320, 320), constants=(), out=(1, 1, 320, 320)):
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(size))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out))], list(constants),
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, str(path))
    return path


def constant(name, values, kind=TensorProto.FLOAT):
    values = np.asarray(values)
    return helper.make_tensor(name, kind, values.shape, values.reshape(-1).tolist())


def redness(path, size=320, scale=1.0, offset=0.0, **given):
    """A model that answers ``scale * red + offset`` of its normalised input."""
    pick = constant("index", [0], TensorProto.INT64)
    nodes = [helper.make_node("Gather", ["x", "index"], ["r"], axis=1), helper.make_node("Mul", ["r", "scale"], ["m"]),
             helper.make_node("Add", ["m", "offset"], ["y"])]  # fmt: skip
    constants = [pick, constant("scale", [scale]), constant("offset", [offset])]
    return saved(path, nodes, (1, 3, size, size), constants, (1, 1, size, size), **given)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "rembg"))
    return tmp_path / "cache" / "dreamlift" / "matting"


def picture(side=96):
    """Blocks of random colours, the middle one red: no plain border."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 90, (12, 12, 3)).astype(np.uint8).repeat(side // 12, axis=0).repeat(side // 12, axis=1)
    made[side // 4 : side // 2, side // 4 : -side // 4] = (255, 20, 20)
    return np.dstack([made, np.full((side, side), 255, np.uint8)])


def middle(side=96):
    truth = np.zeros((side, side), bool)
    truth[side // 4 : side // 2, side // 4 : -side // 4] = True
    return truth


@pytest.mark.parametrize("name", ["u2netp", "isnet-general-use"])
def test_a_known_model_gets_its_own_normalisation_and_size(cache, name):
    known = MODELS[name]
    redness(cache / f"{name}.onnx", known.side)
    model = open_model(name)
    assert model.size == (known.side, known.side)
    side = known.side
    rgb = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    mean, deviation = {"u2netp": (0.485, 0.229), "isnet-general-use": (0.5, 1.0)}[name]
    red = (rgb[..., 0] / 255 - mean) / deviation
    if red.min() < -0.01 or red.max() > 1.01:
        red = 1 / (1 + np.exp(-red))
    np.testing.assert_allclose(model(rgb), (red - red.min()) / (red.max() - red.min()), atol=1e-5)


@pytest.mark.parametrize("way", ["path", "cache", "rembg", "release name"])
def test_a_model_cuts_out_what_it_says(cache, tmp_path, way):
    places = {
        "path": tmp_path / "my models" / "eigenes.onnx", "cache": cache / "u2netp.onnx",
        "rembg": tmp_path / "rembg" / "u2netp.onnx", "release name": cache / MODELS["birefnet-general-lite"].file,
    }  # fmt: skip
    redness(places[way], 96, 9.0)  # logits
    mask = {"path": str(places[way]), "release name": "birefnet-general-lite"}.get(way, "u2netp")
    cutout = cut_out(picture(), mask, whole=True)
    assert cutout.way == mask
    np.testing.assert_array_equal(cutout.alpha >= 0.5, middle())


def test_auto_takes_the_best_model_of_the_cache_and_says_so(cache):
    assert cached_name() is None
    assert cut_out(picture()).way == "grabcut"
    redness(cache / "u2netp.onnx", 96, 9.0)
    assert cached_name() == "u2netp"
    redness(cache / "isnet-general-use.onnx", 96, 9.0)
    assert cached_name() == "isnet-general-use"
    cutout = cut_out(picture(), whole=True)
    np.testing.assert_array_equal(cutout.alpha >= 0.5, middle())
    assert cutout.notes[0].startswith("its background is not plain: the object is cut out by isnet-general-use")


def test_a_plain_border_needs_no_model(cache):
    redness(cache / "u2netp.onnx", 96)
    plain = picture()
    plain[~middle()] = 250
    assert cut_out(plain).way == "border"


def test_probabilities_pass_no_sigmoid_and_are_stretched(cache):
    """From 0.2 to 0.6, as the models' own code stretches them; where all is below 0.3 there is no object."""
    rgb = np.zeros((96, 96, 3), np.uint8)
    rgb[:, 48:] = 255
    mean, deviation = IMAGENET[0][0], IMAGENET[1][0]
    for low, high, wanted in ((0.2, 0.6, (0.0, 1.0)), (0.0, 1.0, (0.0, 1.0)), (0.05, 0.25, (0.0, 0.0))):
        scale = (high - low) * deviation
        redness(cache / "silueta.onnx", 96, scale, low + scale * mean / deviation)
        found = open_model("silueta")(rgb)
        assert (found[:, :40].mean(), found[:, 56:].mean()) == pytest.approx(wanted, abs=1e-4)


def test_a_large_picture_is_cut_twice(cache, monkeypatch):
    """The second time at the object's own pixels."""
    monkeypatch.setattr(matting, "WORK", 64)
    redness(cache / "u2netp.onnx", 64, 9.0)
    cutout = cut_out(np.asarray(Image.fromarray(picture(384))), "u2netp")
    left, top, right, bottom = cutout.window
    assert right - left < 300
    wanted = middle(384)[top:bottom, left:right]
    found = np.asarray(Image.fromarray(cutout.alpha).resize((right - left, bottom - top), Image.Resampling.NEAREST)) >= 0.5
    assert (found & wanted).sum() / (found | wanted).sum() > 0.93


def test_a_model_that_is_not_there_says_where_to_get_it(cache):
    with pytest.raises(ValueError, match="is not on this machine") as caught:
        check_model("u2netp")
    told = str(caught.value)
    assert "the matting model u2netp (4.6 MB, Apache-2.0)" in told
    assert "save https://github.com/danielgatis/rembg/releases/download/v0.0.0/u2netp.onnx as " in told
    assert told.endswith(str(cache / "u2netp.onnx"))


def test_without_onnx_runtime_the_extra_is_named(cache, monkeypatch):
    redness(cache / "u2netp.onnx", 96)
    monkeypatch.setattr(onnx_matting, "find_spec", lambda name: None)
    assert cached_name() is None
    with pytest.raises(ValueError, match=r'needs ONNX Runtime, which is not installed: pip install "dreamlift\[image\]"'):
        check_model("u2netp")


def test_files_that_are_no_matting_models(cache, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    saved(tmp_path / "flat.onnx", [helper.make_node("Identity", ["x"], ["y"])], (1, 7), out=(1, 7))
    nan = [helper.make_node("Div", ["x", "zero"], ["y"])]
    saved(tmp_path / "nan.onnx", nan, (1, 3, 96, 96), [constant("zero", [0.0])], (1, 3, 96, 96))
    cases = {"text.onnx": "cannot be used", "flat.onnx": r"takes \[1, 7\], not pictures",
             "missing.onnx": "there is no matting model", "nan.onnx": "not with one opacity a pixel"}  # fmt: skip
    for name, told in cases.items():
        with pytest.raises(ValueError, match=told) as caught:
            cut_out(picture(), str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"the matting model file .* is a folder"):
        check_model(str(tmp_path))
