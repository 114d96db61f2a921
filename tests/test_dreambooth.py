"""DreamBooth: its loss against stock schedulers, its files read back by diffusers, its verb from photos to a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from big_helpers import CPU, close, first_pipeline, xl_pipeline
from folder_helpers import save_if
from lift_helpers import generate_words, refused, run_main, tree
from safetensors.torch import load_file, save_file
from tuning_helpers import KIND, PROMPT, interrupted, moved, output_of, save_photos, settings_of, tuner_of, words

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import find, load_prior
from dreamlift.priors.lora.additions import LORA_FILE, T5_LORA_FILE, parse_lora, with_whole_paths
from dreamlift.priors.network import camera_features
from dreamlift.reading.photos import Photo
from dreamlift.system.streams import random_stream
from dreamlift.toybox.training.prior import loss_weight, stratified_times
from dreamlift.tuning.card import card, check_same, read_record, write_record
from dreamlift.tuning.dreambooth import Subject, planned
from dreamlift.tuning.examples import Examples, Place, drawn, joined, photo_examples, placed
from dreamlift.tuning.files import STATE, begin_with, go_on, save_addition, save_whole
from dreamlift.tuning.settings import Tuning, filled
from dreamlift.tuning.tuner import Tuner, TuningDivergedError, tune
from dreamlift.types import LoraFile

pytestmark = pytest.mark.filterwarnings("ignore:.* does not know '")


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory):
    return save_if(tmp_path_factory.mktemp("if") / "model")


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path)


# ---- the loss


def stock_loss(folder, tuner, step, target_of, weight_of=lambda t: 1.0, variance=False):
    """The loss of a step with diffusers' U-Net, scheduler and functional.mse_loss; the draws are the tuner's."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    settings, rng, horizon = tuner.settings, random_stream("tuning", tuner.settings.seed, step), 1000
    sets = [(tuner.own, "own", PROMPT), (tuner.kin, "kin", KIND)]
    rows = [drawn(each, name, settings.seed, step, 2)[0] for each, name, _ in sets]
    kind = scheduler.config.prediction_type
    times = [stratified_times(rng, 2, 2.0, horizon) if kind == "sample" else torch.randint(0, horizon, (2,), generator=rng)
             for _ in sets]  # fmt: skip
    x0 = torch.cat([each.latents[row] for (each, _, _), row in zip(sets, rows, strict=True)])
    eps, t = torch.randn(x0.shape, generator=rng), torch.cat(times)
    states = load_prior(folder).embed_text([PROMPT, PROMPT, KIND, KIND]).states
    camera = None if tuner.own.camera is None else torch.cat([tuner.own.camera[rows[0]], tuner.kin.camera[rows[1]]])
    with torch.no_grad():
        out = unet(scheduler.add_noise(x0, eps, t), t, states, timestep_cond=camera).sample
    out = out.chunk(2, dim=1)[0] if variance else out
    wrong = (out - target_of(scheduler, x0, eps, t)).square().mean((1, 2, 3)) * weight_of(t)
    return wrong[:2].mean() + settings.class_weight * wrong[2:].mean()


@pytest.mark.parametrize("text", [False, True])
def test_the_loss_of_noise_is_diffusers_own(first, text):
    tuner = tuner_of(first[0], settings_of(text_encoder=text, class_weight=0.7))
    for step in (0, 4):
        wanted = stock_loss(first[0], tuner, step, lambda scheduler, x0, eps, t: eps)
        torch.testing.assert_close(tuner.loss(step).detach(), wanted, rtol=1e-4, atol=1e-5)


def test_the_loss_of_deepfloyd_leaves_the_variance_out(deepfloyd):
    tuner = tuner_of(deepfloyd, settings_of("pixel", rank=2))
    wanted = stock_loss(deepfloyd, tuner, 1, lambda scheduler, x0, eps, t: eps, variance=True)
    torch.testing.assert_close(tuner.loss(1).detach(), wanted, rtol=1e-4, atol=1e-5)


def test_the_loss_of_the_toybox_has_its_trainers_weights_and_is_told_cameras(stub):
    tuner = tuner_of(stub, settings_of("words", rank=2), cameras=True)
    alphas = tuner.network.base.alphas_cumprod
    wanted = stock_loss(stub, tuner, 2, lambda scheduler, x0, eps, t: x0, lambda t: loss_weight(alphas[t]), variance=True)
    torch.testing.assert_close(tuner.loss(2).detach(), wanted, rtol=1e-4, atol=1e-5)
    told = replace(tuner.own, camera=torch.zeros_like(tuner.own.camera))
    tuner.own = told
    assert abs(float(tuner.loss(2).detach() - wanted)) > 1e-6


def test_the_loss_of_velocities_is_diffusers_own(tmp_path, first):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(first[0], folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    tuner = tuner_of(folder, settings_of())
    wanted = stock_loss(folder, tuner, 0, lambda scheduler, x0, eps, t: scheduler.get_velocity(x0, eps, t))
    torch.testing.assert_close(tuner.loss(0).detach(), wanted, rtol=1e-4, atol=1e-5)


def test_all_pictures_are_drawn_once_before_one_is_drawn_again():
    examples = Examples(torch.zeros(5, 1, 1, 1), (("a", "b"),) * 5)
    rows = [row for step in range(5) for row in drawn(examples, "own", 0, step, 2)[0]]
    assert sorted(rows[:5]) == sorted(rows[5:]) == [0, 1, 2, 3, 4]
    said = {prompt for step in range(20) for prompt in drawn(examples, "own", 0, step, 2)[1]}
    assert said == {"a", "b"}


# ---- the files


def by_hand(network, file, prefix):
    """A copy of a stock network with W + B A in place of W, by plain products of the file's matrices."""
    import copy

    found, tensors = copy.deepcopy(network), load_file(file)
    weights = dict(found.named_parameters())
    names = {key.removesuffix(".lora_A.weight") for key in tensors if key.startswith(prefix) and "lora_A" in key}
    assert names
    with torch.no_grad():
        for name in names:
            weight = weights[name.removeprefix(prefix) + ".weight"]
            down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
            assert down.shape[2:] == weight.shape[2:]
            weight += torch.einsum("or,r...->o...", up.flatten(1), down)
    return found


@pytest.mark.parametrize("targets", ["attention", "all"])
@torch.no_grad()
def test_the_file_holds_the_tuned_network(first, tmp_path, targets):
    folder, pipe = first
    tuner = moved(tuner_of(folder, settings_of(targets=targets, rank=2, text_encoder=True)))
    assert save_addition(tuner, "zwx", tmp_path) == [LORA_FILE]
    out, x, at = output_of(tuner, [PROMPT, KIND])
    encoder = by_hand(pipe.text_encoder, tmp_path / LORA_FILE, "text_encoder.text_model.")
    ids = pipe.tokenizer([PROMPT, KIND], padding="max_length", max_length=77, return_tensors="pt").input_ids
    unet = by_hand(pipe.unet, tmp_path / LORA_FILE, "unet.")
    close(out, unet(x, at, encoder(ids).last_hidden_state).sample)
    assert float((out - pipe.unet(x, at, pipe.text_encoder(ids).last_hidden_state).sample).abs().max()) > 0.01
    # and by this package's own way
    prior = load_prior(PriorChoice(str(folder), loras=(LoraFile(str(tmp_path / LORA_FILE)),)))
    close(out, prior.network.unet(x, at, prior.embed_text([PROMPT, KIND]).states).sample)


@pytest.mark.parametrize("targets", ["attention", "all"])
@torch.no_grad()
def test_diffusers_loads_the_file(first, tmp_path, targets):
    pytest.importorskip("peft")
    folder, _ = first
    pipe = first_pipeline()
    tuner = moved(tuner_of(folder, settings_of(targets=targets, rank=3, text_encoder=True)))
    save_addition(tuner, "zwx", tmp_path)
    out, x, at = output_of(tuner, [PROMPT, KIND])
    pipe.load_lora_weights(tmp_path)
    ids = pipe.tokenizer([PROMPT, KIND], padding="max_length", max_length=77, return_tensors="pt").input_ids
    states = pipe.text_encoder(ids).last_hidden_state
    close(tuner.text([PROMPT, KIND]).states, states)
    close(out, pipe.unet(x, at, states).sample)


@torch.no_grad()
def test_diffusers_loads_the_file_of_xl(xl_folder, tmp_path):
    pytest.importorskip("peft")
    pipe = xl_pipeline()
    tuner = moved(tuner_of(xl_folder, settings_of(targets="all", rank=2, text_encoder=True, learn_word=True)))
    save_addition(tuner, "zwx", tmp_path)
    pipe.load_lora_weights(tmp_path)
    vectors = load_file(tmp_path / "zwx.safetensors")
    pipe.load_textual_inversion(vectors["clip_l"], token="zwx", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(vectors["clip_g"], token="zwx", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    for prompt in (PROMPT, KIND):
        states, _, pooled, _ = pipe.encode_prompt(prompt, prompt_2=prompt, device=CPU, do_classifier_free_guidance=False)
        text = tuner.text([prompt, prompt])
        close(text.states[:1], states)
        close(text.pooled[:1], pooled)
        out, x, at = output_of(tuner, [prompt, prompt])
        sizes = torch.tensor([[16, 16, 0, 0, 16, 16]] * 2)
        added = {"text_embeds": pooled.expand(2, -1), "time_ids": sizes}
        close(out, pipe.unet(x, at, states.expand(2, -1, -1), added_cond_kwargs=added).sample)


@torch.no_grad()
def test_a_learnt_word_is_read_by_diffusers(first, tmp_path):
    folder, _ = first
    pipe = first_pipeline()
    tuner = moved(tuner_of(folder, settings_of(learn_word=True)))
    assert save_addition(tuner, "zwx", tmp_path)[1] == "learned_embeds.safetensors"
    pipe.load_textual_inversion(str(tmp_path), weight_name="learned_embeds.safetensors")
    wanted = pipe.encode_prompt("a red zwx mug", CPU, 1, False)[0]
    choice = with_whole_paths(PriorChoice(str(folder), loras=(LoraFile(str(tmp_path)),)))
    close(load_prior(choice).embed_text(["a red zwx mug"]).states, wanted)
    close(tuner.text([PROMPT]).states, pipe.encode_prompt(PROMPT, CPU, 1, False)[0])
    close(tuner.text([KIND]).states, load_prior(folder).embed_text([KIND]).states)


@torch.no_grad()
def test_xl_has_a_vector_and_a_lora_for_both_encoders(xl_folder, tmp_path):
    tuner = moved(tuner_of(xl_folder, settings_of(learn_word=True, text_encoder=True, rank=2)))
    assert save_addition(tuner, "zwx", tmp_path) == [LORA_FILE, "zwx.safetensors"]
    keys = {key.split(".")[0] for key in load_file(tmp_path / LORA_FILE)}
    assert keys == {"unet", "text_encoder", "text_encoder_2"}
    prior = load_prior(PriorChoice(str(xl_folder), loras=(LoraFile(str(tmp_path)),)))
    text, mine = prior.embed_text([PROMPT, KIND]), tuner.text([PROMPT, KIND])
    close(mine.states, text.states)
    close(mine.pooled, text.pooled)
    prior.network.picture_size = 16
    out, x, at = output_of(tuner, [PROMPT, KIND])
    close(out, prior.network.ask(x, at, None, *text))


@torch.no_grad()
def test_t5_is_tuned_too(deepfloyd, tmp_path):
    tuner = moved(tuner_of(deepfloyd, settings_of("pixel", rank=2, text_encoder=True, learn_word=True)))
    assert save_addition(tuner, "zwx", tmp_path) == [LORA_FILE, T5_LORA_FILE, "learned_embeds.safetensors"]
    choice = PriorChoice(str(deepfloyd), loras=(LoraFile(str(tmp_path), 1.0),))
    assert [Path(lora.path).name for lora in with_whole_paths(choice).loras] == [LORA_FILE, T5_LORA_FILE]
    prior = load_prior(choice)
    close(tuner.text([PROMPT, KIND]).states, prior.embed_text([PROMPT, KIND]).states)
    other = tuner_of(deepfloyd, settings_of("pixel", rank=2, text_encoder=True, learn_word=True, seed=4))
    go_on(other, tmp_path, "zwx")
    close(other.text([PROMPT, KIND]).states, tuner.text([PROMPT, KIND]).states)


@torch.no_grad()
def test_a_file_with_t5s_layers_beside_the_networks_is_read(deepfloyd, tmp_path):
    """As dreamlift wrote it before T5's LoRA had a file of its own."""
    tuner = moved(tuner_of(deepfloyd, settings_of("pixel", rank=2, text_encoder=True)))
    save_addition(tuner, "zwx", tmp_path)
    both = load_file(tmp_path / LORA_FILE) | load_file(tmp_path / T5_LORA_FILE)
    (tmp_path / T5_LORA_FILE).unlink()
    save_file(both, tmp_path / LORA_FILE)
    prior = load_prior(PriorChoice(str(deepfloyd), loras=(LoraFile(str(tmp_path)),)))
    close(tuner.text([PROMPT, KIND]).states, prior.embed_text([PROMPT, KIND]).states)
    other = tuner_of(deepfloyd, settings_of("pixel", rank=2, text_encoder=True, seed=4))
    begin_with(other, tmp_path / LORA_FILE)
    close(output_of(other, [PROMPT, KIND])[0], output_of(tuner, [PROMPT, KIND])[0])


def attention_layers(unet):
    """What diffusers' example adapts in every attention layer of DeepFloyd IF: the keys and values of the text as well."""
    from diffusers.models.attention_processor import Attention

    kinds = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
    return {f"{name}.{kind}" for name, module in unet.named_modules() if isinstance(module, Attention) for kind in kinds}


@torch.no_grad()
def test_diffusers_loads_the_file_of_deepfloyd(deepfloyd, tmp_path):
    pytest.importorskip("peft")
    from diffusers import IFPipeline

    tuner = moved(tuner_of(deepfloyd, settings_of("pixel", rank=2, text_encoder=True)))
    save_addition(tuner, "zwx", tmp_path)
    parts = dict.fromkeys(("safety_checker", "watermarker", "feature_extractor"))
    pipe = IFPipeline.from_pretrained(deepfloyd, requires_safety_checker=False, **parts)
    layers = {key.removeprefix("unet.").rpartition(".lora_")[0] for key in load_file(tmp_path / LORA_FILE)}
    assert layers == attention_layers(pipe.unet)
    assert any("add_k_proj" in layer for layer in layers)
    out, x, at = output_of(tuner, [PROMPT, KIND])
    pipe.load_lora_weights(tmp_path)
    close(out, pipe.unet(x, at, tuner.text([PROMPT, KIND]).states).sample[:, :3])
    # as the model card says
    pipe.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config, variance_type="fixed_small")
    drawn = pipe(prompt=KIND, num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
    assert bool(drawn.isfinite().all())


@pytest.mark.parametrize("text", [False, True])
@torch.no_grad()
def test_all_weights_are_a_prior(stub, tmp_path, text):
    settings = settings_of("words", known_word=False, all_weights=True, text_encoder=text)
    tuner = moved(tuner_of(stub, settings, cameras=True), 0.1)
    save_whole(tuner, find(PriorChoice(str(stub))).parts, "zwx", "mug", tmp_path / "own")
    prior = load_prior(tmp_path / "own")
    camera = torch.randn(2, 8)
    out, x, at = output_of(tuner, [PROMPT, KIND], camera)
    states = prior.embed_text([PROMPT, KIND]).states
    close(out, prior.network.unet(x, at, states, timestep_cond=camera).sample[:, :12])
    assert torch.equal(states[:1], prior.embed_text(["A ZWX mug"]).states)
    assert "zwx" in prior.parts.tokenizer("tokenizer").get_vocab()


@torch.no_grad()
def test_all_weights_of_a_large_prior_are_a_stock_pipeline(first, deepfloyd, tmp_path):
    from diffusers import StableDiffusionPipeline

    tuner = moved(tuner_of(first[0], settings_of(all_weights=True, learn_word=True)), 0.1)
    save_whole(tuner, find(PriorChoice(str(first[0]))).parts, "zwx", "mug", tmp_path / "sd")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    out, x, at = output_of(tuner, [PROMPT, KIND])
    states = torch.cat([pipe.encode_prompt(prompt, CPU, 1, False)[0] for prompt in (PROMPT, KIND)])
    close(out, pipe.unet(x, at, states).sample)
    assert str(first[0]) not in (tmp_path / "sd" / "unet" / "config.json").read_text()
    tuner = tuner_of(deepfloyd, settings_of("pixel", all_weights=True))
    save_whole(tuner, find(PriorChoice(str(deepfloyd))).parts, "zwx", "mug", tmp_path / "if")
    config = json.loads((tmp_path / "if" / "scheduler" / "scheduler_config.json").read_text())
    assert config["variance_type"] == "fixed_small"
    load_prior(tmp_path / "if")


@torch.no_grad()
def test_a_lora_is_continued_by_another_tuning(first, tmp_path):
    tuner = moved(tuner_of(first[0], settings_of(rank=2, text_encoder=True)))
    save_addition(tuner, "zwx", tmp_path)
    other = tuner_of(first[0], settings_of(rank=2, text_encoder=True, seed=4))
    begin_with(other, tmp_path / LORA_FILE)
    close(output_of(other, [PROMPT, KIND])[0], output_of(tuner, [PROMPT, KIND])[0])
    with pytest.raises(ValueError, match="of other layers or of another rank"):
        begin_with(tuner_of(first[0], settings_of(rank=3, text_encoder=True)), tmp_path / LORA_FILE)


# ---- steps


def test_steps_lower_the_loss_and_change_only_what_is_trained(stub):
    tuner = tuner_of(stub, settings_of("words", known_word=False, rank=4, lr=1e-2, steps=12, batch=3), cameras=True)
    before = {name: value.clone() for name, value in tuner.network.base.unet.state_dict().items()}
    start = sum(float(tuner.loss(step).detach()) for step in range(3))
    assert len(list(tune(tuner))) == 12
    assert sum(float(tuner.loss(step).detach()) for step in range(3)) < 0.95 * start
    assert all(torch.equal(value, before[name]) for name, value in tuner.network.base.unet.state_dict().items())
    assert set(tuner.text.vectors()) == {"text_encoder"}


@pytest.mark.parametrize("more", [{"rank": 2}, {"all_weights": True}])
def test_a_restored_tuning_is_bit_identical(first, more):
    settings = settings_of(text_encoder=True, learn_word=True, steps=4, **more)
    whole, half = tuner_of(first[0], settings), tuner_of(first[0], replace(settings, steps=2))
    list(tune(whole))
    list(tune(half))
    again = tuner_of(first[0], settings)
    again.load_state_dict(half.state_dict())
    assert again.index == 2
    list(tune(again))
    wanted, found = whole.state_dict(), again.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_a_loss_that_is_no_number_ends_the_tuning(first):
    tuner = tuner_of(first[0], settings_of())
    tuner.own.latents[:] = float("nan")
    with pytest.raises(TuningDivergedError, match="diverged at step 0: give a smaller --lr"):
        tuner.step()


def test_checkpointed_activations_have_the_same_gradients(first):
    found = []
    for saved in (False, True):
        tuner = tuner_of(first[0], settings_of(rank=2, targets="all", gradient_checkpointing=saved))
        tuner.loss(0).backward()
        found.append({name: parameter.grad for name, parameter in tuner.parameters.items() if parameter.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-7)


def test_known_cameras_are_told_and_view_words_said():
    from dreamlift.tuning.class_pictures import ClassPicture, cameras_of

    class Size:
        resolution, device = 16, CPU

    cameras = cameras_of([ClassPicture("", "", 90.0, 10.0), ClassPicture("", "", 0.0, 10.0)], Size)
    rgb, alpha = torch.rand(2, 16, 16, 3), torch.rand(2, 16, 16, 1)
    from dreamlift.prompts import Backdrop

    backdrops = (Backdrop("", (0.7, 0.7, 0.7)), Backdrop("dark background", (0.1, 0.1, 0.1)))
    found = photo_examples(
        lambda x: x.permute(0, 3, 1, 2), rgb, alpha, (PROMPT,), backdrops, cameras, [True, False],
        lambda each: camera_features(each.azimuth, each.elevation), view_words=True,
    )  # fmt: skip
    assert found.prompts == (
        (PROMPT, f"{PROMPT}, left view"), (PROMPT,),
        (f"{PROMPT}, dark background", f"{PROMPT}, dark background, left view"), (f"{PROMPT}, dark background",),
    )  # fmt: skip
    assert torch.equal(found.camera[0], found.camera[2])
    assert not found.camera[1::2].any()
    torch.testing.assert_close(found.camera[0, :3], torch.tensor([1.0, 1.0, 0.0]), atol=1e-6, rtol=0)  # 1, sin and cos of 90
    torch.testing.assert_close(found.latents[3], (rgb[1] * alpha[1] + 0.1 * (1 - alpha[1])).permute(2, 0, 1))
    both = joined(found, replace(found, camera=None))
    assert len(both) == 8
    assert not both.camera[4:].any()


def test_a_smaller_picture_has_its_border_around_it():
    pictures = torch.full((2, 20, 20, 3), 0.25)
    pictures[:, 4:16, 6:14] = 0.75  # 12 pixels high and 8 wide
    found = placed(pictures, Place(0.5, -0.1))
    bright = found[..., 0] > 0.5
    assert found.shape == pictures.shape
    rows, columns = bright[0].any(dim=1).nonzero()[:, 0], bright[0].any(dim=0).nonzero()[:, 0]
    assert (int(rows[0]), int(rows[-1])) == (3 + 2, 3 + 7)  # (20 - 10) / 2 - 2 rows above the picture, half of each length
    assert (int(columns[0]), int(columns[-1])) == (5 + 3, 5 + 6)
    torch.testing.assert_close(found[:, :3], torch.full((2, 3, 20, 3), 0.25))
    torch.testing.assert_close(found[:, 14:], torch.full((2, 6, 20, 3), 0.25))
    assert placed(pictures, Place()) is pictures
    assert (placed(pictures, Place(0.5, -9.0))[0, :, :, 0] > 0.5).any(dim=1).nonzero()[0] == 2  # it stays within


def test_a_photo_at_several_places_has_the_same_words_and_camera():
    rgb, alpha = torch.rand(2, 16, 16, 3), torch.rand(2, 16, 16, 1)
    from dreamlift.prompts import Backdrop

    backdrops = (Backdrop("", (0.7, 0.7, 0.7)), Backdrop("dark background", (0.1, 0.1, 0.1)))
    found = photo_examples(lambda x: x.permute(0, 3, 1, 2), rgb, alpha, (PROMPT,), backdrops, at=(Place(), Place(0.5)))
    assert found.prompts == ((PROMPT,),) * 4 + ((f"{PROMPT}, dark background",),) * 4
    over = (rgb * alpha + 0.1 * (1 - alpha)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.latents[4:6], over)
    middle = found.latents[6:, :, 4:12, 4:12]
    torch.testing.assert_close(middle.mean(dim=(2, 3)), over.mean(dim=(2, 3)), atol=0.02, rtol=0)


# ---- the verb


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Class pictures in two sampling steps."""
    from dreamlift.tuning.class_pictures import GUIDANCE

    monkeypatch.setitem(GUIDANCE, True, (3.0, 2))


def test_photos_become_a_folder_that_a_run_takes(cwd, stub, photos, capsys):
    assert run_main(*words(photos, "mine", stub, "--rank", "2", "--samples", "2")) == 0
    said = capsys.readouterr()
    assert f'use it: dreamlift generate "{PROMPT}" --lora mine --prior {stub}' in said.out
    folder = cwd / "mine"
    assert {path.name for path in folder.iterdir()} == {
        LORA_FILE, "learned_embeds.safetensors", "README.md", "training.json", "class", "checkpoint", "samples.png",
    }  # fmt: skip
    assert list(load_file(folder / "learned_embeds.safetensors")) == ["zwx"]
    card = (folder / "README.md").read_text()
    assert f'dreamlift generate "{PROMPT}" --lora mine' in card
    record = json.loads((folder / "training.json").read_text())
    assert [photo["azimuth_deg"] for photo in record["photos"]] == [0.0, 45.0, 90.0]
    pictures = json.loads((folder / "class" / "pictures.json").read_text())
    assert len(pictures) == 4
    assert all(each["azimuth_deg"] is not None for each in pictures)
    choice = with_whole_paths(PriorChoice(str(stub), loras=(parse_lora("mine@0.5"),)))
    assert choice.loras == (LoraFile(str(folder / LORA_FILE), 0.5),)
    assert choice.embeddings == (str(folder / "learned_embeds.safetensors"),)
    assert with_whole_paths(choice) == choice
    assert run_main(*generate_words(stub, "run", "--lora", "mine@0.5", "--steps=2", prompt=PROMPT)) == 0
    assert "does not know" not in capsys.readouterr().err  # no complaint about an unknown word


def test_an_interrupted_verb_goes_on_bit_identically(cwd, stub, photos, monkeypatch, capsys):

    more = ("--rank", "2", "--steps", "4", "--checkpoint-every", "1", "--batch", "1", "--class-count", "2")
    assert run_main(*words(photos, "whole", stub, *more)) == 0
    with interrupted(monkeypatch, 2):
        assert run_main(*words(photos, "half", stub, *more)) == 130
    assert "the same command" in capsys.readouterr().err
    assert not (cwd / "half" / LORA_FILE).exists()
    monkeypatch.setattr("dreamlift.tuning.class_pictures.sample", None)  # they are there already
    assert run_main(*words(photos, "half", stub, *more)) == 0
    assert "continued after step 2" in capsys.readouterr().err
    wanted, found = tree(cwd / "whole"), tree(cwd / "half")
    assert wanted.keys() == found.keys()
    for name, data in wanted.items():
        if name.suffix in (".safetensors", ".png"):
            assert found[name] == data, name
    assert run_main(*words(photos, "half", stub, *more)) == 0  # nothing is left to do
    assert "has its 4 steps already" in capsys.readouterr().err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_step_and_says_how_to_go_on(cwd, stub, photos, monkeypatch, capsys, sent):
    more = ("--rank", "2", "--steps", "3", "--batch", "1", "--class-weight", "0")
    plain = Tuner.step

    def step(self):
        if self.index == 1:
            os.kill(os.getpid(), sent)
        return plain(self)

    monkeypatch.setattr(Tuner, "step", step)
    assert run_main(*(word for word in words(photos, "mine", stub, *more) if word not in ("--out", "mine"))) == 130
    said = capsys.readouterr().err.splitlines()
    (folder,) = (cwd / "outputs").iterdir()
    place = f"outputs/{folder.name}"
    assert any(line.endswith(f"on 3 photos of 'a zwx mug', into {place}") for line in said[:2])  # before the first slow step
    assert said[-1] == (
        f"note: stopped by {sent.name} after step 2, whose state is saved: go on with the same command and --out {place}"
    )
    assert load_file(folder / STATE)["index"] == 2
    assert not (folder / LORA_FILE).exists()


def test_a_signal_while_pictures_are_prepared_is_told(cwd, stub, photos, monkeypatch, capsys):
    monkeypatch.setattr("dreamlift.apps.dreambooth.prepared", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert run_main(*words(photos, "mine", stub)) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "note: stopped by SIGTERM; what is finished is saved: go on with the same command and --out mine"
    assert signal.getsignal(signal.SIGTERM) is before
    assert not any("dreamlift: stopped" in line for line in said)


def test_class_pictures_may_be_given(cwd, stub, photos, monkeypatch):
    (cwd / "mugs").mkdir()
    save_photos(cwd / "mugs", 2)
    monkeypatch.setattr("dreamlift.tuning.class_pictures.sample", None)
    assert run_main(*words(photos, "mine", stub, "--class-pictures", "mugs", "--no-cameras")) == 0
    assert not (cwd / "mine" / "class").exists()
    assert json.loads((cwd / "mine" / "training.json").read_text())["cameras"] is False


def test_cameras_that_are_not_given_are_estimated_once(cwd, stub, photos, monkeypatch, capsys):
    from dreamlift.images.camera import Viewpoint

    asked = []

    def found(reference, prompt, azimuth, view, engine):
        asked.append(prompt)
        return Viewpoint(30.0, 12.0, "mug")

    monkeypatch.setattr("dreamlift.tuning.photos.find_viewpoint", found)
    some = [word for word in words(photos, "mine", stub, "--class-weight", "0") if word not in ("--azimuth", "0,45,90")]
    assert run_main(*some) == 0
    assert asked == ["a mug"] * 3
    assert "p0.png: its side cannot be told" in capsys.readouterr().err
    kept = json.loads((cwd / "mine" / "training.json").read_text())["photos"]
    assert [(each["azimuth_deg"], each["elevation_deg"]) for each in kept] == [(None, 10.0)] * 3
    assert run_main(*some, "--steps", "3") == 0
    assert len(asked) == 3


def test_what_cannot_be_tuned_is_refused_in_one_line(cwd, stub, photos, capsys, xl_folder):
    good = words(photos, "mine", stub)

    def instead(name, value):
        changed = list(good)
        changed[changed.index(name) + 1] = value
        return changed

    refused(capsys, cwd, instead("--class", " "), "class is ' '", "such as duck")
    refused(capsys, cwd, [*good, "--word", "red"], "'red' is a word that the prior knows", "zwx")
    refused(capsys, cwd, [*good, "--word", "two words"], "accepted: one new word of letters and digits")
    refused(capsys, cwd, [*good, "--word", "mug"], "the word 'mug' is part of the class")
    refused(capsys, cwd, instead("--prior", "toybox-view"), "toybox-view cannot be tuned: use toybox")
    refused(capsys, cwd, instead("--azimuth", "0,45"), "--azimuth has 2 values for 3 photos")
    refused(capsys, cwd, instead("--azimuth", "0,b,4"), "--azimuth is '0,b,4'; accepted: degrees")
    refused(capsys, cwd, instead("--steps", "0"), "steps is 0; accepted: 1 to")
    refused(capsys, cwd, [*good, "--lr", "-1"], "lr is -1; accepted: above 0")
    refused(capsys, cwd, [*good, "--all-weights", "--rank", "4"], "rank and targets are those of a LoRA")
    refused(capsys, cwd, ["dreambooth", "gone.png", *good[2:]], "'gone.png' cannot be used")
    refused(capsys, cwd, [*good, "--samples", "-1"], "samples is -1")
    refused(capsys, cwd, [*good, "--checkpoint-every", "0"], "--checkpoint-every is 0")
    (cwd / "full").mkdir()
    (cwd / "full" / "notes.txt").write_text("mine")
    refused(capsys, cwd, instead("--out", "full"), "full is not empty, and nothing is overwritten")
    refused(capsys, cwd, generate_words(stub, "run", "--lora", "full"), "holds no LoRA", "dreamlift dreambooth")
    refused(capsys, cwd, generate_words(stub, "run", "--lora", str(stub)), "is a whole prior, not a LoRA: give it to --prior")


def test_a_class_that_a_prior_of_toys_does_not_know_is_refused(cwd, photos, capsys):
    some = words(photos, "mine", "toybox")
    some[some.index("mug")] = "gadget"
    refused(capsys, cwd, some, "knows no noun of 'a gadget'")


def test_a_folder_of_other_settings_is_not_continued(cwd, stub, photos, capsys):
    good = words(photos, "mine", stub, "--class-weight", "0", "--rank", "2")
    assert run_main(*good) == 0
    capsys.readouterr()
    refused(capsys, cwd, [*good, "--seed", "1"], "mine was tuned with seed 0, now 1: the same settings continue it")
    refused(capsys, cwd, [*good, "--rank", "3"], "mine was tuned with rank 2, now 3")
    refused(capsys, cwd, [*good, "--word", "qwx"], 'mine was tuned with word "zwx", now "qwx"')
    less = [word for word in good if word != photos[2]]
    less[less.index("0,45,90")] = "0,45"
    refused(capsys, cwd, less, "mine was tuned with other photos")


def test_the_record_names_the_prior_and_not_its_place(cwd, stub, photos, tmp_path):
    located = find(PriorChoice(str(stub)))
    given = Subject(photos=tuple(map(Photo, photos)), class_name="mug", anyway=True, prior=PriorChoice(str(stub)))
    record = planned(given, Tuning(steps=2), lambda _: None).record()
    assert record["prior"] == stub.name
    assert record["prior_revision"] == located.revision
    assert str(stub.parent) not in json.dumps(record)
    moved_to = shutil.copytree(stub, tmp_path / "elsewhere" / stub.name)  # the same prior, elsewhere
    (tmp_path / "old").mkdir()
    write_record(tmp_path / "old", {**record, "prior": str(stub)})  # as it was written before
    again = planned(replace(given, prior=PriorChoice(str(moved_to))), Tuning(steps=9), lambda _: None).record()
    check_same(tmp_path / "old", read_record(tmp_path / "old"), again)
    assert planned(replace(given, prior=PriorChoice("toybox")), Tuning(), lambda _: None).record()["prior"] == "toybox"


def test_the_python_twin_of_the_verb(tmp_path, stub, photos):
    import dreamlift

    tuned = dreamlift.dreambooth(
        photos, class_name="mug", word="zwx", out=tmp_path / "mine", prior=str(stub), cameras=False, steps=2, rank=2,
        class_weight=0.0, samples=0,
    )  # fmt: skip
    assert tuned.prompt == PROMPT
    assert tuned.steps == 2
    assert tuned.files == (LORA_FILE, "learned_embeds.safetensors")
    assert tuned.prior.loras == (LoraFile(str(tmp_path / "mine")),)
    load_prior(tuned.prior)


def test_the_rates_of_large_priors_are_those_of_diffusers_examples():
    """examples/dreambooth/README.md; the rate of IF's LoRA is multiplied by the pictures of a step (--scale_lr)."""
    rates = {}
    for family in ("latent", "pixel"):
        for name, more in (("lora", {}), ("whole", {"all_weights": True})):
            for text in (False, True):
                found = filled(Tuning(text_encoder=text, **more), family, known_word=True)
                rates[family, name, text] = found.lr, found.text_lr
    assert rates == {
        ("latent", "lora", False): (1e-4, 1e-4), ("latent", "lora", True): (1e-4, 1e-4),
        ("latent", "whole", False): (5e-6, 5e-6), ("latent", "whole", True): (2e-6, 2e-6),
        ("pixel", "lora", False): (4 * 5e-6, 4 * 5e-6), ("pixel", "lora", True): (4 * 5e-6, 4 * 5e-6),
        ("pixel", "whole", False): (1e-7, 1e-7), ("pixel", "whole", True): (1e-7, 1e-7),
    }  # fmt: skip
    assert filled(Tuning(text_encoder=True, all_weights=True, lr=3e-6), "latent", known_word=True).lr == 3e-6


def test_the_card_says_what_diffusers_needs_and_does_not_read():
    settings = {"all_weights": False, "rank": 4, "targets": "attention", "text_encoder": True, "learn_word": False,
                "class_weight": 1.0}  # fmt: skip
    record = {"settings": settings, "prior": "deepfloyd-if", "prompt": PROMPT, "word": "zwx", "class": "mug", "photos": [{}],
              "finished_steps": 3, "files": [LORA_FILE, T5_LORA_FILE]}  # fmt: skip
    told = card(record, "mine", learned_variance=True)
    assert 'variance_type="fixed_small"' in told
    assert f"except `{T5_LORA_FILE}`" in told
    plain = card({**record, "files": [LORA_FILE]}, "mine")
    assert "variance" not in plain
    assert "except" not in plain


def test_settings_state_what_is_accepted():
    for given, said in (
        ({"batch": 0}, "batch is 0"), ({"rank": 0}, "rank is 0"), ({"class_weight": -1.0}, "class_weight is -1"),
        ({"targets": "some"}, "accepted: attention, all"), ({"seed": -1}, "seed is -1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Tuning(**given)


def test_full_memory_and_a_full_disk_end_in_one_line(cwd, stub, photos, capsys, monkeypatch):
    from dreamlift.tuning.tuner import Tuner

    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Tuner, "step", full)
    few = words(photos, "mine", stub, "--class-weight", "0")
    assert run_main(*few) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("dreamlift: error: the memory is exhausted")
    assert "--batch 1, --gradient-checkpointing" in err

    def disk(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("dreamlift.apps.dreambooth.prepared", disk)
    assert run_main(*few) == 1
    assert "mine cannot be written (No space left on device): free space" in capsys.readouterr().err.splitlines()[-1]


def test_a_tuning_that_may_not_fit_is_noted(stub, photos, monkeypatch):
    from dreamlift.apps import dreambooth as app
    from dreamlift.reading.photos import Photo
    from dreamlift.tuning.dreambooth import Subject, planned

    notes = []
    subject = Subject(photos=(Photo(photos[0]),), class_name="mug", prior=PriorChoice(str(stub)))
    needs = [app.check_memory(planned(subject, Tuning(batch=batch), notes.append), CPU, notes.append) for batch in (1, 8)]
    assert 0 < needs[0] < needs[1]
    assert notes == []
    monkeypatch.setattr("dreamlift.memory.available_host", lambda: 1_000_000)
    app.check_memory(planned(subject, Tuning(), notes.append), CPU, notes.append)
    assert "options that need less: --batch 1" in notes[0]
