"""Memory: what is worked out, against what is counted or measured; and refusals."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from big_helpers import CPU
from lift_helpers import generate_words, refused, run_main, status_of
from memory_helpers import Fused, Live
from safetensors.torch import load_file

from dreamlift import memory
from dreamlift.memory import NotEnoughMemoryError, available_host, check_memory, estimate, expected
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import FIELD, TOYBOX
from dreamlift.priors.footprint import Footprint, coder_values, footprint, parameters, transformer_values, unet_values
from dreamlift.priors.saving import Memory, save_memory
from dreamlift.priors.sources import EMBEDDED, KNOWN

GB = 10**9


# --- what is worked out ------------------------------------------------------------------------------------------------


def test_parameters_are_counted_without_loading(xl_folder, tmp_path):
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        weights = [load_file(file) for file in (xl_folder / part).glob("*.safetensors")]
        assert parameters(xl_folder / part) == sum(value.numel() for values in weights for value in values.values()) > 0
    for name in ("model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"):
        (tmp_path / name).write_bytes((xl_folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert parameters(tmp_path) == parameters(xl_folder / "unet")  # copies of one network count once
    found = footprint(xl_folder)
    assert (found.network, found.autoencoder) == (parameters(xl_folder / "unet"), parameters(xl_folder / "vae"))
    assert found.text == max(parameters(xl_folder / part) for part in ("text_encoder", "text_encoder_2"))
    assert (found.resolution, found.upcast) == (16, True)


SD_UNET = {"sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8}
XL_UNET = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048, "use_linear_projection": True,
}  # fmt: skip


@pytest.mark.parametrize(("settings", "published"), [(SD_UNET, 860), (XL_UNET, 2567)], ids=["SD 1.5", "SDXL"])
def test_the_networks_values_are_at_least_those_of_the_real_one(settings, published, monkeypatch):
    # On the meta device: the real architecture, and all its tensors but for what is in them.
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, *_, **__: Fused.apply(q, k, v))
    with torch.device("meta"):
        net: Any = UNet2DConditionModel(**settings).eval().requires_grad_(False)
        weights = list(net.parameters())
        assert sum(weight.numel() for weight in weights) == pytest.approx(published * 1e6, rel=0.01)
        asked, kept, kept_low = unet_values(json.loads(json.dumps(dict(net.config))))
        text, t = torch.empty(1, 77, settings["cross_attention_dim"]), torch.empty(1)
        for wanted, options in ((asked, None), (kept, Memory()), (kept_low, Memory(gradient_checkpointing=True))):
            x = torch.empty(1, 4, settings["sample_size"], settings["sample_size"]).requires_grad_(options is not None)
            save_memory(net, options or Memory())
            gc.collect()
            with torch.set_grad_enabled(options is not None), Live(weights) as live:
                out = net(x, t, encoder_hidden_states=text).sample
                if options is not None:
                    out.sum().backward()
            assert live.peak / 4 <= wanted <= 2.5 * live.peak / 4, (live.peak / 4e6, wanted / 1e6)
            del out


@pytest.mark.parametrize("low", [False, True])
def test_the_autoencoders_values_are_at_least_those_of_the_real_one(low, monkeypatch):
    from diffusers import AutoencoderKL

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, *_, **__: Fused.apply(q, k, v))
    with torch.device("meta"):
        vae: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
            layers_per_block=2,
            block_out_channels=(128, 256, 512, 512),  # pyright: ignore[reportArgumentType]
        ).eval().requires_grad_(False)  # fmt: skip
        save_memory(vae, Memory(gradient_checkpointing=low))
        for decoder, shape, call in ((False, (1, 3, 512, 512), lambda x: vae.encode(x).latent_dist.mean),
                                    (True, (1, 4, 64, 64), lambda z: vae.decode(z).sample)):  # fmt: skip
            wanted = coder_values({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}, 512, decoder)[low]
            with Live(vae.parameters()) as live:
                call(torch.empty(shape).requires_grad_()).sum().backward()
            assert live.peak / 4 <= wanted <= 1.5 * live.peak / 4, (live.peak / 4e6, wanted / 1e6)


def test_the_largest_pictures_of_a_ladder_count():
    prior = footprint(EMBEDDED / "toybox")

    def need(*sizes):
        return estimate(replace(FIELD, cameras=replace(FIELD.cameras, resolution=sizes)), prior)

    assert need(64, 512) == need(512)
    assert need(512, 64).host == need(512).host > need(64).host
    assert "of 512x512" in str(need(64, 512))
    more = estimate(replace(FIELD, particles=4), prior)
    assert more.host > need(64).host


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system's own figure is taken")
def test_the_peak_of_who_started_a_run_is_not_its_own():
    told = "from dreamlift.runs.carry_out import peak_memory; print(peak_memory()['peak_memory_gb'])"
    fat = f"import subprocess, sys; x = b'1' * 3_000_000_000; subprocess.run([sys.executable, '-c', {told!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", fat], capture_output=True, text=True, timeout=300, check=True)
    assert 0.05 < float(done.stdout) < 1.5


WATCH = """
import os, subprocess, sys
_, code, used = os.wait4(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(code))
"""


def test_a_run_stays_below_what_was_said(stub, tmp_path):
    # The whole process, as the system counts it. BENCHMARKS.md has larger runs. A small process of its own starts and watches
    # it: a program begins with the peak of the process that started it, and that of these tests may be higher.
    command = [sys.executable, "-m", "dreamlift.cli", *generate_words(stub, tmp_path / "run", "--cameras.resolution=[16,96]")]
    done = subprocess.run([sys.executable, "-c", WATCH, *command], capture_output=True, text=True, timeout=300)
    words, code, peak = done.stderr, done.returncode, int(done.stdout)
    assert code == 0, words
    status = status_of(tmp_path / "run")
    measured = peak * 1024 / 1e9
    assert measured <= status["estimated_memory_gb"] <= 2 * measured
    assert status["peak_memory_gb"] == pytest.approx(measured, rel=0.02)
    first = words.splitlines()[0]
    assert first == f"memory: at most {status['estimated_memory_gb']:.1f} GB, for 2 pictures a step of 96x96"


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """Sets what is free, in GB."""

    def free(host, device=None):
        monkeypatch.setattr(memory, "available_host", lambda: None if host is None else int(host * GB))
        monkeypatch.setattr(memory, "available_device", lambda _: None if device is None else int(device * GB))

    return free


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded(cwd, stub, capsys, machine, monkeypatch):
    def load(*_):
        raise AssertionError("something was loaded")

    monkeypatch.setattr("dreamlift.lifting.load_prior", load)
    monkeypatch.setattr("dreamlift.lifting.prompt_reader", load)
    machine(10.0)
    words = generate_words(stub, "out", "--cameras.resolution=[32,1024]")
    line = refused(capsys, cwd, words, "more memory than is free", "for 2 pictures a step of 1024x1024", "10.0 GB here",
                   "--scene.chunk_rays 4096", "--cameras.resolution [32,512]", "--memory.check false")  # fmt: skip
    assert "--prior" not in line  # that alone would not help
    with pytest.raises(AssertionError, match="something was loaded"):
        run_main(*words, "--memory.check", "false")
    machine(None)  # nothing is known, nothing is refused
    with pytest.raises(AssertionError, match="something was loaded"):
        run_main(*words)


def test_each_change_that_is_offered_fits(stub, machine):
    from dreamlift.config.build import apply_overrides

    machine(8.5)
    config = replace(FIELD, cameras=replace(FIELD.cameras, resolution=(64, 512)))
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(config, stub, CPU)
    offers = str(caught.value).split("Try ")[1].split("; or --memory.check")[0].split(" or ")
    assert len(offers) >= 2
    for offer in offers:
        words = offer.rsplit(" (", 1)[0].split()
        changed = apply_overrides(config, {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)})
        need = check_memory(changed, stub, CPU)
        assert need is not None
        assert f"({need.amount})" in offer


def test_a_later_stages_options_are_told_by_their_whole_names(stub, machine):
    config = replace(TOYBOX, then=(replace(TOYBOX.then[0], cameras=replace(FIELD.cameras, resolution=(1024,))),))
    machine(4.0)
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(config.stages[1], stub, CPU, 1)
    assert str(caught.value).startswith("stage 2 may need more memory than is free: ")
    assert "Try --then.0.cameras.resolution [512] (" in str(caught.value)
    assert " --cameras" not in str(caught.value)
    machine(0.5)
    with pytest.raises(NotEnoughMemoryError, match=r"No single option is enough; --memory\.check false"):
        check_memory(config.stages[1], stub, CPU, 1)


def test_a_gpu_has_its_own_limit(stub, machine):
    config = replace(FIELD, cameras=replace(FIELD.cameras, resolution=(256,)))
    need = estimate(config, footprint(stub), "cuda")
    assert need.device > 0
    machine(64.0, need.device / GB + 0.01)
    assert check_memory(config, stub, torch.device("cuda")) == need
    for host, device in ((64.0, need.device / GB - 0.01), (need.host / GB - 0.01, 64.0)):
        machine(host, device)
        with pytest.raises(NotEnoughMemoryError, match="GB on cuda"):
            check_memory(config, stub, torch.device("cuda"))


def tell(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_what_is_free(tmp_path):
    assert available_host(tmp_path) is None
    tell(tmp_path, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    tell(tmp_path, "proc/self/status", "VmRSS:\t 100 kB\n")
    assert available_host(tmp_path) == (4000 + 100) * 1024  # what this process has is part of what it needs
    # Control groups, version 2: the limit stands on the way up; caches that nobody uses do not count as used.
    tell(tmp_path, "proc/self/cgroup", "0::/box/inner\n")
    tell(tmp_path, "sys/fs/cgroup/box/inner/memory.max", "max\n")
    tell(tmp_path, "sys/fs/cgroup/box/inner/memory.current", "1000000\n")
    assert available_host(tmp_path) == 4100 * 1024
    tell(tmp_path, "sys/fs/cgroup/box/memory.max", "3000000\n")
    tell(tmp_path, "sys/fs/cgroup/box/memory.current", "2500000\n")
    tell(tmp_path, "sys/fs/cgroup/box/memory.stat", "anon 5\ninactive_file 200000\n")
    assert available_host(tmp_path) == 700_000 + 100 * 1024
    # Version 1, whose "no limit" is a number.
    tell(tmp_path, "proc/self/cgroup", "5:cpu,memory:/job\n4:devices:/\n")
    tell(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    tell(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1")
    assert available_host(tmp_path) == 4100 * 1024
    tell(tmp_path, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1500000")
    tell(tmp_path, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1600000")
    assert available_host(tmp_path) == 100 * 1024


def test_a_broken_folder_is_left_to_the_loader(tmp_path):
    assert check_memory(FIELD, tmp_path, CPU) is None
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"sample_size": 8}')
    assert check_memory(FIELD, tmp_path, CPU) is None


# --- what is printed ---------------------------------------------------------------------------------------------------


def test_doctor_tells_the_need_of_every_preset(capsys):
    assert run_main("doctor") == 0
    out = capsys.readouterr().out
    for name, config in PRESETS.items():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        assert any(line.split()[:2] == [name, f"{expected(config, device).host / 1e9:.1f}"] for line in out.splitlines()), name


XL_IF = {"sample_size": 64, "block_out_channels": [704, 1408, 2112, 2816], "layers_per_block": 3}
M_IF = {"sample_size": 64, "block_out_channels": [192, 384, 576, 768], "layers_per_block": 3}
THIRD = {"sample_size": 128, "patch_size": 2, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64}
FLUX = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128}
# Millions of parameters (network, autoencoder, largest text encoder: CLIP's, or T5-XXL's), and the network's settings.
PUBLISHED = {
    "sd-1.5": (860, 84, 123, SD_UNET),
    "sd-2.1-base": (866, 84, 340, SD_UNET),
    "sdxl": (2567, 84, 695, XL_UNET),
    "deepfloyd-if": (4300, 0, 4762, XL_IF),
    "deepfloyd-if-m": (400, 0, 4762, M_IF),
    "sd3-medium": (2028, 84, 4762, THIRD),
    "flux-dev": (11_901, 84, 4762, FLUX),
    "flux-schnell": (11_891, 84, 4762, FLUX),
    "mvdream": (868, 84, 340, {**SD_UNET, "sample_size": 32}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_figures_of_known_priors_are_those_of_the_published_networks(name):
    network, vae, text, settings = PUBLISHED[name]
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "layers_per_block": 2, **settings}
    source = KNOWN[name]
    passed = transformer_values(blocks) if source.space == "flow" else unet_values(blocks)
    coder = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    encoded = coder_values(coder, source.resolution) if vae else (0, 0)
    upcast = name not in ("sd-1.5", "sd-2.1-base")  # whose settings do not ask for it
    found = Footprint(
        network * 10**6, vae * 10**6, text * 10**6, source.resolution, *passed, *encoded, *encoded, 1, upcast=upcast,
        text_full=24 * 4096 * 10240 if text == 4762 else 0,
    )  # fmt: skip
    config = replace(FIELD, cameras=replace(FIELD.cameras, views=4 if name == "mvdream" else 1))
    assert source.memory_gb == pytest.approx(estimate(config, found, "cuda").device / 1e9, rel=0.05)


def test_the_embedded_priors_figure():
    config = replace(FIELD, cameras=replace(FIELD.cameras, views=1))
    need = estimate(config, footprint(EMBEDDED / "toybox"), "cuda")
    assert KNOWN["toybox"].memory_gb == pytest.approx(need.device / 1e9, abs=0.1)
