"""ONNX Runtime as the engine of frozen networks, against torch."""

import builtins
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from big_helpers import CPU, first_pipeline, xl_pipeline
from diffusers import DDPMScheduler

from dreamlift.lifting import load, resolve
from dreamlift.presets import PRESETS
from dreamlift.priors import engine, network, quick_text
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import EngineError, available, find_graph
from dreamlift.priors.kinds import Priors, find, load_prior
from dreamlift.priors.parts import usual_schedule
from dreamlift.priors.saving import Memory
from dreamlift.priors.text import encode_prompts
from dreamlift.types import Conditioning, LoraFile

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache folder without graphs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dreamlift" / "graphs"


def asked(prior, pictures=3, scale=5.0, grad=False):
    """The prior's eps_hat for random inputs, and the inputs x_t."""
    rng = torch.Generator().manual_seed(1)
    cond, none = prior.embed_text(["a red mug"] * pictures), prior.embed_text([""] * pictures)
    told = Conditioning(cond.states, none.states, pooled_prompt_embeds=cond.pooled, negative_pooled_prompt_embeds=none.pooled)
    net = prior.network
    x = torch.randn(pictures, net.channels, net.sample_size, net.sample_size, generator=rng).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        return prior.predict_noise(x, torch.linspace(0.1, 0.9, pictures), told, scale), x


def shaken(pipe):
    """The pipeline, with weights of its network that all differ."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=rng)
    return pipe


def close(a, b):
    """Equal up to float32's rounding in sums of a network's size."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", ["toybox", "toybox-latent"])
def test_the_embedded_priors_answer_as_with_torch_and_their_graphs_are_in_the_package(name, own_cache):
    plain, fast = load_prior(name), load_prior(name, engine="onnx")
    assert (plain.engine, fast.engine) == ("torch", "onnx")
    for pictures, scale in ((1, 1.0), (3, 7.5)):
        want, got = asked(plain, pictures, scale)[0], asked(fast, pictures, scale)[0]
        close(got, want)
        assert torch.equal(got, asked(fast, pictures, scale)[0])
    assert not own_cache.exists()


@pytest.mark.parametrize("pipeline", [first_pipeline, xl_pipeline])
def test_a_graph_is_right_for_any_weights_of_its_architecture(pipeline, own_cache, monkeypatch, tmp_path):
    # Those of new normalization layers are equal, which a tracer may take for one weight.
    folders = [tmp_path / name for name in ("new", "shaken")]
    for folder, pipe in zip(folders, (pipeline(), shaken(pipeline())), strict=True):
        pipe.save_pretrained(folder)
    load_prior(folders[0], engine="onnx")
    assert len(list(own_cache.iterdir())) == 1
    monkeypatch.setattr(network, "trace", lambda *_: pytest.fail("traced again"))
    monkeypatch.setattr(engine, "trace", lambda *_: pytest.fail("traced again"))
    for folder in folders:
        fast = load_prior(folder, engine="onnx")
        assert fast.engine == "onnx"
        close(asked(fast)[0], asked(load_prior(folder))[0])


def test_a_pipeline_in_memory_is_traced_as_it_is(own_cache):
    pipe = shaken(first_pipeline())
    plain = asked(load_prior(pipe, engine="onnx"))[0]
    pipe.unet.mid_block.register_forward_hook(lambda module, given, out: 3 * out)  # not in the config
    changed = asked(load_prior(pipe, engine="onnx"))[0]
    close(changed, asked(load_prior(pipe))[0])
    assert float((changed - plain).abs().max()) > 1e-3
    assert not own_cache.exists()


def test_other_weight_files_in_the_folder_are_left_alone(tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "prior"
    shutil.copytree(find(PriorChoice("toybox")).parts.folder, folder)
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({name: value * 0.5 for name, value in weights.items()}, folder / "unet" / "model_ema.safetensors")
    close(asked(load_prior(folder, engine="onnx"))[0], asked(load_prior(folder))[0])


def test_a_text_graph_that_is_not_taken_is_left_to_transformers(monkeypatch):
    def refuse(*_):
        raise EngineError("unsupported")

    monkeypatch.setattr(engine, "OnnxNetwork", refuse)
    assert quick_text.find_encoder(find(PriorChoice("toybox")).parts) is None


def test_teachers_of_one_prior_share_a_session(monkeypatch):
    made, real = [], network.OnnxNetwork
    monkeypatch.setattr(network, "OnnxNetwork", lambda *given: made.append(real(*given)) or made[-1])
    located = find(PriorChoice.of(first_pipeline()))
    pool = Priors()
    pool.take([located] * 3, CPU, Memory(), ["onnx"] * 3)
    pool.take([located], CPU, Memory(), ["onnx"])
    assert len(made) == 1


def test_a_gradient_goes_through_torch():
    pipe = shaken(first_pipeline())
    found = []
    for name in ("torch", "onnx"):
        out, x = asked(load_prior(pipe, engine=name), grad=True)
        found.append(torch.autograd.grad(out.square().sum(), x)[0])
    assert torch.equal(*found)
    assert float(found[0].abs().sum()) > 0


def test_merged_loras_are_in_the_sessions_weights(tmp_path):
    from safetensors.torch import save_file

    unet = find(PriorChoice("toybox")).parts.folder / "unet"
    name = next(name for name in engine.stored_weights(unet) if name.endswith("attn1.to_q.weight")).removesuffix(".weight")
    rng = torch.Generator().manual_seed(0)
    width = engine.stored_weights(unet)[f"{name}.weight"].shape
    path = tmp_path / "style.safetensors"
    save_file({f"unet.{name}.lora_A.weight": torch.randn(2, width[1], generator=rng),
               f"unet.{name}.lora_B.weight": torch.randn(width[0], 2, generator=rng)}, path)  # fmt: skip
    choice = PriorChoice("toybox", loras=(LoraFile(str(path), 1.0),))
    with_lora, torchs, without = load_prior(choice, engine="onnx"), load_prior(choice), load_prior("toybox")
    assert with_lora.engine == "onnx"
    close(asked(with_lora)[0], asked(torchs)[0])
    assert float((asked(with_lora)[0] - asked(without)[0]).abs().max()) > 1e-3


def test_neither_diffusers_nor_transformers_nor_torchs_compiler_is_imported_for_a_run():
    code = """
import sys
from dataclasses import replace
from dreamlift.lifting import load, resolve
from dreamlift.presets import PRESETS
job = load(resolve(replace(PRESETS["toybox"], prompt="a red mug", device="cpu")))
job.work.step()
print(job.engines, [name for name in ("diffusers", "transformers", "torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "('onnx',) []"


@pytest.mark.parametrize("name", ["toybox", "toybox-latent"])
def test_prompts_are_encoded_as_transformers_does(name):
    parts = find(PriorChoice(name)).parts
    prompts = ["a red mug, front view", "", "a blue chair wearing a hat, " + "back view " * 90]
    with pytest.warns(UserWarning, match="longer than 77 tokens"):
        want = encode_prompts(parts, prompts, CPU, torch.float32).states
    with pytest.warns(UserWarning, match="longer than 77 tokens"):
        got = encode_prompts(parts, prompts, CPU, torch.float32, engine="onnx").states
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match=f"the prior {name} does not know 'xylophone'"):
        encode_prompts(parts, ["a xylophone"], CPU, torch.float32, engine="onnx")


def test_a_model_without_a_text_graph_is_left_to_transformers():
    for parts in (find(PriorChoice.of(first_pipeline())).parts, find(PriorChoice.of(xl_pipeline())).parts):
        assert quick_text.find_encoder(parts) is None


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_usual_schedules_are_diffusers_bit_for_bit(kind, zero):
    scheduler = DDPMScheduler(beta_schedule=kind, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero)
    assert torch.equal(usual_schedule(dict(scheduler.config)), scheduler.alphas_cumprod)


def test_unusual_schedules_are_left_to_diffusers():
    assert usual_schedule(dict(DDPMScheduler(beta_schedule="sigmoid").config)) is None
    assert usual_schedule(dict(DDPMScheduler(trained_betas=[0.1, 0.2]).config)) is None
    assert usual_schedule({}) is None


def test_onnx_runtime_reports_to_nobody(tmp_path):
    code = """
import os
from dreamlift.priors.kinds import load_prior
load_prior("toybox", engine="onnx")
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    env["XDG_CACHE_HOME"] = str(tmp_path / "fresh")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "1"
    assert not (tmp_path / "fresh" / "Microsoft").exists()  # where its identifier and queued reports would be


def test_which_engine_a_run_takes(monkeypatch):
    cuda = torch.device("cuda")
    assert available("auto", CPU) == available("onnx", CPU) == "onnx"
    assert available("auto", cuda) == available("torch", CPU) == "torch"
    with pytest.raises(ValueError, match="unknown engine 'cuda'; accepted: auto, torch, onnx"):
        available("cuda", CPU)
    with pytest.raises(ValueError, match="--engine onnx runs networks on the CPU, but the run is on cuda"):
        available("onnx", cuda)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert available("auto", CPU) == "torch"
    with pytest.raises(ValueError, match="ONNX Runtime is not installed: pip install"):
        available("onnx", CPU)


def test_what_cannot_be_traced_is_left_to_torch_or_refused(monkeypatch):
    real = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.warns(UserWarning, match=r"torch runs the prior's network.*needs the package onnx"):
        assert load_prior(first_pipeline(), engine="auto").engine == "torch"
    with pytest.raises(ValueError, match=r"needs the package onnx.*--engine torch does without it"):
        load_prior(first_pipeline(), engine="onnx")


def test_auto_leaves_large_networks_to_torch(monkeypatch):
    monkeypatch.setattr(network, "AUTO_BYTES", 1000)
    assert load_prior("toybox", engine="auto").engine == "torch"
    assert load_prior(first_pipeline(), engine="auto").engine == "torch"
    assert load_prior("toybox", engine="onnx").engine == "onnx"


def test_sliced_attention_is_left_to_torch():
    assert load_prior(first_pipeline(), memory=Memory(attention_slices=True), engine="auto").engine == "torch"
    with pytest.raises(ValueError, match="does not slice attention: use --engine torch"):
        load_prior(first_pipeline(), memory=Memory(attention_slices=True), engine="onnx")


def test_a_module_that_was_trained_further_gets_a_new_session():
    prior = load_prior(first_pipeline(), engine="onnx")
    before = asked(prior)[0]
    with torch.no_grad():
        prior.network.unet.conv_in.weight *= 2
    prior.use_engine("onnx")
    after = asked(prior)[0]
    assert float((after - before).abs().max()) > 1e-3
    prior.use_engine("torch")
    close(after, asked(prior)[0])


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_a_trace_only(own_cache, monkeypatch, tmp_path):
    shaken(first_pipeline()).save_pretrained(tmp_path / "prior")
    folder = tmp_path / "prior"
    want = asked(load_prior(folder))[0]
    load_prior(folder, engine="onnx")
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"?" + whole[1:]):
        file.write_bytes(damaged)
        assert find_graph(file.stem) is None
    close(asked(load_prior(folder, engine="onnx"))[0], want)
    assert file.read_bytes() == whole

    def full(*_):
        raise OSError(28, "No space left on device")

    file.unlink()
    monkeypatch.setattr(engine, "atomic_write_bytes", full)
    close(asked(load_prior(folder, engine="onnx"))[0], want)
    assert list(own_cache.iterdir()) == []


def test_a_missing_weight_is_said():
    names, graph = find_graph(next(engine.GRAPHS.glob("*.graph")).stem)
    with pytest.raises(EngineError, match="the network has no weight"):
        engine.OnnxNetwork((names, graph), {}, {})


def test_a_run_states_its_engine_and_a_resumed_one_keeps_it(monkeypatch):
    config = replace(PRESETS["toybox-field"], prompt="a red mug", device="cpu")
    job = load(resolve(config))
    saved = job.saved()
    assert (saved.engine, saved.engines) == ("onnx", ("onnx",))
    slow = load(resolve(replace(config, engine="torch"))).saved()
    assert (slow.engine, slow.engines) == ("torch", ("torch",))
    again = load(resolve(config, slow), slow)
    assert again.engines == ("torch",)
    assert load(resolve(config, saved), saved).engines == ("onnx",)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="begun with ONNX Runtime on a CPU, which is not available here"):
        resolve(config, saved)
    # where torch ran all networks, as those that are too large for auto, nothing else is needed
    assert resolve(config, replace(saved, engines=("torch",))).engine == "torch"


def test_text_states_of_another_length_fit():
    prior = load_prior("toybox", engine="onnx")
    plain = load_prior("toybox")
    states = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(2, prior.network.channels, 32, 32)
    told = Conditioning(states, states)
    with torch.no_grad():
        close(
            prior.predict_noise(x, torch.full((2,), 0.5), told, 1.0), plain.predict_noise(x, torch.full((2,), 0.5), told, 1.0)
        )


def test_the_record_of_a_graph_is_plain():
    for file in engine.GRAPHS.glob("*.graph"):
        names, graph = engine.unpack(file.read_bytes())
        assert json.dumps(names)
        assert len(graph) < 1_000_000  # operations, no weights
