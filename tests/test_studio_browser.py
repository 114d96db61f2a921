"""The studio in a real browser, by keyboard alone: a prompt is typed, the picture changes, the GLB is downloaded."""

from __future__ import annotations

import base64

import pytest
from browser_helpers import Browser, browser
from lift_helpers import TINY
from studio_helpers import Process

from dreamlift.export.glb import load_glb

# The prior means nothing: with small steps the scene stays near the blob that it begins as, and can be meshed. The run has to
# last until a browser beside it has drawn and heard its keys.
SMALL = [*TINY, "--stages.0.adam.lr_scale=0.002"]
SETTINGS = ["--stages.0.steps=600" if word.startswith("--steps") else word for word in SMALL]
PICTURE = """[...document.getElementById('live').toDataURL()].reduce((sum, each) => (31 * sum + each.charCodeAt(0)) | 0, 0)"""
STATUS = "document.getElementById('status').textContent"
# Text that is cut off, controls that are smaller than a finger or outside the page.
TROUBLE = """[...document.querySelectorAll('button, input, select, textarea, a')]
  .filter((each) => each.checkVisibility() && !each.closest('.runs') && !each.matches('.skip'))
  .filter((each) => { const box = each.getBoundingClientRect();
    return box.height < 28 || box.left < -1 || box.right > innerWidth + 1; }).map((each) => each.outerHTML)"""
UNNAMED = """[...document.querySelectorAll('button, input, select, textarea, a, canvas, iframe')]
  .filter((each) => each.checkVisibility() && !(each.labels?.length || each.textContent.trim() || each.title
    || each.getAttribute('aria-label'))).map((each) => each.outerHTML)"""


@pytest.fixture(scope="module")
def studio(stub, tmp_path_factory):
    browser()
    made = Process(tmp_path_factory.mktemp("browser") / "outputs", *SETTINGS, f"--prior.name={stub}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("chromium") / "home")
    yield made
    made.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_prompt_becomes_a_glb_by_keyboard_alone(studio, chromium, width, tmp_path):
    page = chromium.page(f"http://127.0.0.1:{studio.port}/", width, 860)
    page.until("!document.getElementById('start').disabled", 120)
    assert page.value("document.documentElement.scrollWidth") <= width
    page.tab_to("#prompt")
    page.type("a red mug")
    page.tab_to("#seed")
    page.type("7")
    page.tab_to("#start")
    page.press("Enter")
    page.until("document.getElementById('live').dataset.step >= 0", 120)
    first = page.value(PICTURE)
    page.tab_to("#live")
    page.press("ArrowRight", 3)
    page.until("document.getElementById('spin').getAttribute('aria-pressed') === 'false'")
    page.until(f"{PICTURE} !== {first}")
    page.until(f"['Finished', 'It failed'].includes({STATUS})", 300)
    assert page.value(STATUS) == "Finished"
    page.until("document.querySelector('#files a.first') !== null")
    page.until("document.getElementById('asset').dataset.shown")
    assert page.value(TROUBLE) == []
    assert page.value(UNNAMED) == []
    page.tab_to("#files a.first")
    assert page.value("document.activeElement.download") == "asset.glb"
    # What a press of Enter on the link would save.
    script = """fetch(document.activeElement.href).then((answer) => answer.arrayBuffer())
      .then((data) => btoa(Array.from(new Uint8Array(data), (byte) => String.fromCharCode(byte)).join('')))"""
    (tmp_path / "asset.glb").write_bytes(base64.b64decode(page.value(script)))
    assert len(load_glb(tmp_path / "asset.glb").faces) > 100
    assert page.value("document.querySelectorAll('#curves figure').length") >= 3
    assert page.value("document.getElementById('asset').src").endswith("/view#background=white")
    page.tab_to("#runs button")
    page.press("Enter")
    page.until("document.querySelector('#runs button').getAttribute('aria-current') === 'true'")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.troubles == []
    page.close()


def test_what_is_refused_is_said_beside_the_button(studio, chromium):
    page = chromium.page(f"http://127.0.0.1:{studio.port}/", 800, 860)
    page.until("!document.getElementById('start').disabled", 120)
    page.tab_to("#start")
    page.press("Enter")
    page.until("document.getElementById('problem').textContent.startsWith('the prompt is empty')")
    assert page.value("document.getElementById('problem').getAttribute('role')") == "alert"
    # The browser itself reports each answer 400; nothing else may be there.
    assert all("400 (Bad Request)" in text for text in page.troubles)
    page.close()
