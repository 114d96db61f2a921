"""Priors from the model hub, by a hub of this machine: what is fetched, resumed, and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from dreamlift.priors.loading.hub import divided, wanted
from dreamlift.priors.loading.sources import KNOWN, PriorNotFoundError, locate

SHA = "a" * 40
ASK = "import sys; from dreamlift.priors.loading.sources import locate; print(locate(sys.argv[1]))"


class Hub(ThreadingHTTPServer):
    """A model hub with one repository. The transfer of the file ``broken`` stops in the middle; ``log`` has all transfers."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.broken, self.log, self.asked = files, "", [], []
        Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if path.startswith("/api/models/owner/model/tree/"):
            rows = [{"type": "file", "path": n, "size": len(d), "oid": oid(d)} for n, d in self.server.files.items()]
            return self.send(json.dumps(rows).encode(), {"Content-Type": "application/json"}, body)
        if path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": name} for name in self.server.files]
            info = {
                "id": "owner/model",
                "sha": SHA,
                "siblings": siblings,
                "private": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
            }
            return self.send(json.dumps(info).encode(), {"Content-Type": "application/json"}, body)
        name = path.split(f"/resolve/{SHA}/")[-1].split("/resolve/main/")[-1]
        if name not in self.server.files:
            return self.send(b"", {}, body, 404)
        data = self.server.files[name]
        more = {"ETag": f'"{oid(data)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        if body:
            self.server.log.append((name, start))
        if body and name == self.server.broken and self.server.log.count((name, start)) + start > 1:
            return self.send(b"", {}, body, 403)  # the client asks again at once
        if body and name == self.server.broken:
            self.send_response(200)
            for key, value in {**more, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return self.connection.close()
        if start:
            more["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.send(data[start:], more, body, 206 if start else 200)

    def send(self, data: bytes, headers: dict[str, str], body: bool, code: int = 200) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def oid(data: bytes) -> str:
    import hashlib

    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["d", "S"],
         "tokenizer": ["t", "T"], "text_encoder": ["transformers", "CLIPTextModel"], "vae": ["diffusers", "AutoencoderKL"],
         "safety_checker": ["s", "S"]}  # fmt: skip
SHARDS = {"weight_map": {"a": "model.fp16-00001-of-00002.safetensors", "b": "model.fp16-00002-of-00002.safetensors"}}
FILES = {
    "model_index.json": json.dumps(INDEX).encode(),
    "scheduler/scheduler_config.json": b"{}", "tokenizer/tokenizer.json": b"{}", "text_encoder/config.json": b"{}",
    "unet/config.json": b"{}", "vae/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": b"1" * 9000, "unet/diffusion_pytorch_model.fp16.safetensors": b"2" * 500_000,
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"3" * 9000, "unet/diffusion_pytorch_model.bin": b"4" * 9000,
    "vae/diffusion_pytorch_model.safetensors": b"5" * 9000,
    "text_encoder/model.safetensors": b"6" * 9000,
    "text_encoder/model.safetensors.index.fp16.json": json.dumps(SHARDS).encode(),
    "text_encoder/model.fp16-00001-of-00002.safetensors": b"7" * 9000,
    "text_encoder/model.fp16-00002-of-00002.safetensors": b"8" * 9000,
    "safety_checker/model.safetensors": b"9" * 9000, "v1-5-pruned.safetensors": b"0" * 9000, "README.md": b"hello",
}  # fmt: skip
FETCHED = {
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "text_encoder/config.json",
    "unet/config.json", "vae/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors.index.fp16.json",
    "text_encoder/model.fp16-00001-of-00002.safetensors", "text_encoder/model.fp16-00002-of-00002.safetensors",
}  # fmt: skip


def test_one_precision_of_each_network_is_wanted():
    assert set(wanted(FILES, weights=True)) == FETCHED
    assert set(wanted(FILES, weights=False)) == {name for name in FETCHED if not name.endswith(".safetensors")}


@pytest.fixture
def hub():
    found = Hub(dict(FILES))
    yield found
    found.shutdown()
    found.server_close()


def ask(hub, cache, name="owner/model"):
    """(exit code, last line) of a process that looks for the prior: the hub's client reads its address when it is imported."""
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0",
           "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_CACHE": str(cache / "hub"),
           "NO_PROXY": "127.0.0.1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ASK, name], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def test_an_interrupted_download_is_not_accepted_and_is_resumed(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    name = hub.broken = "unet/diffusion_pytorch_model.fp16.safetensors"
    code, line = ask(hub, tmp_path)
    assert code == 1
    assert "PriorNotFoundError: the prior 'owner/model' is not available: owner/model is not in the local cache" in line
    with pytest.raises(PriorNotFoundError, match="owner/model was fetched only in part"):
        locate("owner/model")
    folder = tmp_path / "hub" / "models--owner--model" / "snapshots" / SHA
    before = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    hub.broken, hub.log = "", []
    code, line = ask(hub, tmp_path)
    assert code == 0, line
    assert {each for each, _ in hub.log} == FETCHED - before  # what is there is not transferred again
    assert name not in before
    assert line == str(folder)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == FETCHED
    assert all((folder / each).read_bytes() == FILES[each] for each in FETCHED)
    assert locate("owner/model") == folder
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # as an older hub client may have left it
    with pytest.raises(PriorNotFoundError, match="owner/model was fetched only in part: weights of vae are missing"):
        locate("owner/model")


VIEW_INDEX = {"_class_name": "Zero1to3StableDiffusionPipeline", "unet": ["d", "U"], "scheduler": ["d", "S"], "vae": ["d", "V"],
              "image_encoder": ["t", "C"], "cc_projection": ["p", "CCProjection"], "safety_checker": [None, None]}  # fmt: skip
VIEW_FILES = {
    "model_index.json": json.dumps(VIEW_INDEX).encode(), "scheduler/scheduler_config.json": b"{}",
    **{f"{part}/config.json": b"{}" for part in ("unet", "vae", "image_encoder", "cc_projection")},
    "unet/diffusion_pytorch_model.fp16.safetensors": b"1" * 900,
    "unet/diffusion_pytorch_model.fp16_ema.safetensors": b"2" * 900,
    "unet/diffusion_pytorch_model.bin": b"3" * 900, "vae/diffusion_pytorch_model.safetensors": b"4" * 900,
    "image_encoder/model.safetensors": b"5" * 900, "cc_projection/diffusion_pytorch_model.safetensors": b"6" * 900,
    "feature_extractor/preprocessor_config.json": b"{}",
}  # fmt: skip
VIEW_FETCHED = {name for name in VIEW_FILES if "feature" not in name and not name.endswith((".bin", "model.fp16.safetensors"))}


def test_of_a_view_conditioned_model_the_averaged_weights_and_the_image_encoder_are_wanted():
    assert set(wanted(VIEW_FILES, weights=True)) == VIEW_FETCHED
    # other models' image encoders are not asked for
    others = {name: data for name, data in VIEW_FILES.items() if not name.startswith("cc_projection")}
    assert not any(name.startswith("image_encoder") for name in wanted(others, weights=True))


def test_a_revision_is_fetched_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = Hub(dict(VIEW_FILES))
    try:
        code, line = ask(hub, tmp_path, "owner/model@refs/pr/1")
    finally:
        hub.shutdown()
        hub.server_close()
    assert code == 0, line
    folder = tmp_path / "hub" / "models--owner--model" / "snapshots" / SHA
    assert line == str(folder)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == VIEW_FETCHED
    assert any("/revision/refs%2Fpr%2F1" in path or "/revision/refs/pr/1" in path for path in hub.asked)
    assert locate("owner/model@refs/pr/1") == folder
    with pytest.raises(PriorNotFoundError, match="owner/model is not in the local cache"):
        locate("owner/model")  # another revision
    (folder / "image_encoder" / "model.safetensors").unlink()
    with pytest.raises(PriorNotFoundError, match="weights of image_encoder are missing"):
        locate("owner/model@refs/pr/1")


def test_known_models_whose_weights_lie_in_a_pull_request_carry_its_revision():
    addresses = [address for source in KNOWN.values() for address in source.addresses]
    kxic = [divided(address) for address in addresses if address.startswith("kxic/")]
    assert len(kxic) == 4
    assert all(revision == "refs/pr/1" for _, revision in kxic)
    assert all(divided(address)[1] is None for address in addresses if not address.startswith("kxic/"))
