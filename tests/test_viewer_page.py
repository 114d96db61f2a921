"""The page that shows an asset: one file without a network, and what a browser draws of it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlift.cameras import turntable
from dreamlift.export.glb import save_glb
from dreamlift.export.page import save_page
from dreamlift.meshing.isosurface import isosurface
from dreamlift.texturing.bake import bake
from dreamlift.texturing.draw import render_mesh
from dreamlift.types import Mesh

EXTRAS = {"prompt": 'a "blue" mug \u2615\nv 1 2 3\n</script>', "seed": 7}
TITLE = "a mug </title></h1><script>alert(1)</script>\" onload='x' & {glb} \u2615"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZE = 160


@pytest.fixture(scope="module")
def asset() -> Mesh:
    """Not symmetric in any way, so that a picture of the wrong side, or a texture upside down, is noticed."""
    axis = torch.linspace(-1, 1, 28)
    p = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    body = 0.5 - (p * torch.tensor([1.0, 0.8, 1.3])).norm(dim=-1)
    arm = 0.25 - (p - torch.tensor([0.5, 0.4, 0.3])).norm(dim=-1)
    vertices, faces = isosurface(torch.maximum(body, arm), 0.0, -1.0, 1.0)
    mesh = Mesh(vertices.numpy(), faces.numpy().astype(np.int32), roughness=0.6)
    return bake(mesh, lambda p, n: 0.5 + 0.5 * torch.sin(torch.tensor([4.0, 5.0, 3.0]) * p), 256)


class Page(HTMLParser):
    """Tags with their attributes, and the text within each kind of tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag if dict(attrs).get("id") is None else f"{tag}#{dict(attrs)['id']}"

    def handle_data(self, data: str) -> None:
        self.text[self.open] = self.text.get(self.open, "") + data


def page_of(mesh: Mesh, folder: Path, title: str = "x") -> tuple[Page, str]:
    save_glb(mesh, folder / "a.glb", EXTRAS)
    save_page(folder / "a.glb", folder / "view.html", title)
    text = (folder / "view.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    return page, text


def test_page_is_one_file_that_names_no_address(asset: Mesh, tmp_path: Path):
    page, text = page_of(asset, tmp_path, TITLE)
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("script") == 2  # the data, and the viewer
    assert not {"link", "iframe", "img", "object", "embed", "base", "form"} & set(kinds)
    for tag, attributes in page.tags:
        assert not {"src", "href", "action", "poster"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(
        r"(?i)https?:|//[a-z]|fetch\(|XMLHttpRequest|import\(|\beval\b", text.replace(page.text["script#glb"].strip(), "")
    )
    assert base64.b64decode(page.text["script#glb"]) == (tmp_path / "a.glb").read_bytes()
    assert page.text["title"].strip() == TITLE
    assert page.text["h1"].strip() == TITLE
    assert next(attributes["aria-label"] for tag, attributes in page.tags if tag == "canvas") == TITLE


def test_page_forbids_the_network(asset: Mesh, tmp_path: Path):
    page, _ = page_of(asset, tmp_path)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    for sources in rules.values():
        assert set(sources.split()) <= {"'none'", "'unsafe-inline'", "blob:"}


def test_the_script_cannot_end_its_own_tag(tmp_path: Path):
    script = Path("dreamlift/export/static/viewer.js")
    text = (Path(__file__).resolve().parents[1] / script).read_text(encoding="utf-8")
    assert "</" not in text
    assert "<!--" not in text
    assert len(text.splitlines()) <= 400


# What a browser draws


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: what the page draws is not checked")
    return found


def screenshot(folder: Path, part: str) -> np.ndarray:
    """The page as a browser shows it, ``(SIZE, SIZE, 3)`` in [0, 1]."""
    out = folder / "shot.png"
    command = [
        browser(), "--headless", "--no-sandbox", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--force-device-scale-factor=1", f"--user-data-dir={folder / 'profile'}", f"--window-size={SIZE},{SIZE}",
        "--virtual-time-budget=300", f"--screenshot={out}", f"{(folder / 'view.html').as_uri()}#{part}",
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=120, check=True, env={**os.environ, "HOME": str(folder)})
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def covered(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture - 1).max(axis=-1) > 0.02


def test_the_browser_draws_what_our_renderer_draws(asset: Mesh, tmp_path: Path):
    """Without light, the plain base colour: outlines, side, texture and sRGB are all in it."""
    page_of(asset, tmp_path)
    shown = screenshot(tmp_path, "azimuth=50&elevation=25&distance=2.5&spin=0&light=0&ui=0")
    cameras = turntable(36, 25.0, 2.5, 42.0, SIZE)[5:6]
    centered = replace(asset, vertices=asset.vertices - 0.5 * (asset.vertices.min(axis=0) + asset.vertices.max(axis=0)))
    ours = render_mesh(centered, cameras).rgb[0].numpy()
    both, either = covered(shown) & covered(ours), covered(shown) | covered(ours)
    assert either.mean() > 0.05
    assert both.sum() / either.sum() > 0.98
    assert np.abs(shown[both].mean(axis=0) - ours[both].mean(axis=0)).max() < 0.01
    assert np.abs(shown - ours)[both].mean() < 0.02  # texel for texel, but for how each smooths


def test_light_clay_wireframe_and_background_change_the_picture(asset: Mesh, tmp_path: Path):
    flat = np.full((256, 256, 3), (128, 128, 255), np.uint8)
    tilted = np.full((256, 256, 3), (218, 128, 218), np.uint8)
    start = "azimuth=50&elevation=25&distance=2.5&spin=0&ui=0"
    page_of(replace(asset, normal_map=flat), tmp_path)
    lit = screenshot(tmp_path, start)
    clay = screenshot(tmp_path, f"{start}&clay=1&background=dark")
    wire = screenshot(tmp_path, f"{start}&wire=1")
    inside = covered(lit)
    assert clay[0, 0].max() < 0.15
    assert np.ptp(clay[inside], axis=-1).max() < 0.1  # grey, whatever the texture says
    assert clay[inside].std() > 0.02  # and shaded
    assert 0.05 < (np.abs(wire - lit).max(axis=-1) > 0.1)[inside].mean() < 0.95
    page_of(replace(asset, normal_map=tilted), tmp_path)
    assert np.abs(screenshot(tmp_path, start) - lit)[inside].mean() > 0.02
