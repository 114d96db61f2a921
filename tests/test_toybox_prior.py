"""The embedded prior: a stock diffusers folder, and a training that can be stopped and repeated."""

from __future__ import annotations

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from dreamlift.priors.kinds import load_prior
from dreamlift.priors.loading.sources import EMBEDDED, KNOWN, locate
from dreamlift.priors.network import camera_features
from dreamlift.toybox.training.dataset import BACKDROPS, COLORED, OWN, STYLES, Pictures, load_shards, make_shard, vocabulary
from dreamlift.toybox.training.network import PACKING, begin_with, kinds_known, load_folder, make_networks, save_folder
from dreamlift.toybox.training.prior import (
    Batch,
    Training,
    draw_batch,
    loss_weight,
    sample_grid,
    taught_pictures,
    train,
    x0_loss,
)
from dreamlift.toybox.training.reader import UNTOLD
from dreamlift.toybox.training.steps.learning import save_curve, set_gradients
from dreamlift.toybox.world.render import Background, sample_background, sample_pictures
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, SYNONYMS, describe
from dreamlift.types import Conditioning

FOLDER = EMBEDDED / "toybox"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder as DeepFloyd IF's: plain pixels, here with v-prediction and random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = make_networks(["a", "green", "car", "back", "view"], 16, (8, 16))
        config = {**networks.unet.config, "in_channels": 3, "out_channels": 6, "sample_size": 16}
        unet = type(networks.unet).from_config(config)
    scheduler = type(networks.scheduler).from_config(networks.scheduler.config, prediction_type="v_prediction")
    folder = tmp_path_factory.mktemp("plain") / "prior"
    save_folder(replace(networks, unet=unet, scheduler=scheduler), folder, half=False)
    return folder


def test_folder_is_small_and_has_no_pickles():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    for folder in EMBEDDED.iterdir():
        assert sum(path.stat().st_size for path in files if folder in path.parents) <= 30e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert locate("toybox") == FOLDER
    assert KNOWN["toybox"].resolution == 64


def test_stock_pipeline_opens_the_folder_and_samples():
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    assert type(pipeline).__name__ == "IFPipeline"
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(0)
    pictures = pipeline(
        ["a red mug, front view", "a blue chair, front view"], num_inference_steps=8, guidance_scale=3.0,
        generator=generator, output_type="pt",
    ).images  # fmt: skip
    pictures = torch.nn.functional.pixel_shuffle(pictures, PACKING)
    assert pictures.shape == (2, 3, 64, 64)
    centre = pictures[:, :, 24:40, 24:40].mean((2, 3))
    assert float(centre[0, 0] - centre[0, 2]) > 0.2  # the red one is red
    assert float(centre[1, 2] - centre[1, 0]) > 0.2  # the blue one is blue


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_our_prior_agrees_with_the_stock_classes(kind, plain):
    from diffusers import UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    folder = FOLDER if kind == "packed" else plain
    prior = load_prior(folder, torch.device("cpu"))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder / "tokenizer")(
        ["a green car, back view"], padding="max_length", max_length=77, return_tensors="pt"
    )
    text = encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])[0]
    torch.testing.assert_close(prior.embed_text(["a green car, back view"]).states, text)
    channels, size = unet.config.in_channels, unet.config.sample_size
    x, step = torch.randn(1, channels, size, size), 600
    with torch.no_grad():
        out = unet(x, step, text).sample[:, :channels]
        t = torch.tensor([step / 999])
        alpha, sigma = prior.schedule(t)
        eps = prior.predict_noise(x, t, Conditioning(text, text), 1.0)
    # The toybox predicts x0; v-prediction by its definition: x0 = alpha x_t - sigma v
    x0 = out if kind == "packed" else alpha * x - sigma * out
    torch.testing.assert_close((x - sigma * eps) / alpha, x0, atol=1e-4, rtol=1e-3)


def test_schedule_ends_in_pure_noise():
    prior = load_prior(FOLDER, torch.device("cpu"))
    alpha, sigma = prior.schedule(torch.tensor([0.0, 1.0]))
    assert float(alpha[1]) == pytest.approx(0.0, abs=1e-4)
    assert float(sigma[1]) == pytest.approx(1.0, abs=1e-4)
    assert float(alpha[0]) > 0.999


def pictures(count: int = 12) -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(
        rgb=rng.integers(0, 255, (count, 16, 16, 3), dtype=np.uint8),
        opacity=np.full((count, 16, 16), 255, dtype=np.uint8),
        background=np.zeros((count, 2, 3), dtype=np.float32),
        category=np.arange(count, dtype=np.int16) % len(CATEGORIES),
        color=np.arange(count, dtype=np.int16) % len(COLORS),
        attribute=np.arange(count, dtype=np.int16) % len(ATTRIBUTES),
        hat=np.arange(count, dtype=np.int16) % 3 - 1,
        box=np.arange(count) % 5 == 0,
        azimuth=np.linspace(-3, 3, count, dtype=np.float32),
        elevation=np.zeros(count, dtype=np.float32),
        style=np.arange(count, dtype=np.int16) % len(STYLES),
        mirrored=np.arange(count) % 2 == 0,
    )


def test_captions_are_within_the_vocabulary_and_state_what_is_shown():
    known, data = set(vocabulary()), pictures(48)
    seen = set()
    for i in range(48):
        for draw in range(6):
            caption = data.caption(i, np.random.default_rng([i, draw]))
            assert set(caption.replace(",", " , ").split()) <= known
            if caption:
                told = data.description(i)
                nouns = (told.category.replace("_", " "), *SYNONYMS.get(told.category, ()))
                assert any(noun in caption for noun in nouns)
            seen.add(caption == "")
    assert seen == {True, False}


def test_a_mirrored_picture_gets_the_mirrored_words():
    data = pictures(12)
    i = next(k for k in range(12) if 0.6 < data.azimuth[k] < 2.2)
    for draw in range(200):
        plain = data.caption(i, np.random.default_rng(draw))
        flipped = data.caption(i, np.random.default_rng(draw), flip=True)
        if "view" in plain:
            assert "left" in plain
            assert flipped == plain.replace("left", "right")
            return
    pytest.fail("no caption with view words in 200 draws")


def test_a_plain_background_takes_the_place_of_a_pictures_own(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlift.toybox.training.dataset.SHARD", 4)
    make_shard(tmp_path, 5, 32)
    data = load_shards(tmp_path, 32)
    drawn = data.draw(np.random.default_rng(0), 90, plain=2 / 3)
    assert all(15 < (drawn.backdrops == each).sum() < 45 for each in (OWN, 0, 1))
    # The renderer itself, over the plain backgrounds: the pictures differ by the rounding to 8 bits alone.
    again = [[_over(color, 5, view, 32) for view in range(4)] for color in BACKDROPS.values()]
    for row, flip, backdrop, rgb in zip(*drawn[:4], strict=True):
        want = data.rgb[row] if backdrop == OWN else again[backdrop][row]
        gap = np.abs(rgb.astype(int) - (want[:, ::-1] if flip else want).astype(int))
        assert gap.max() <= (0 if backdrop == OWN else 2)
    said = {OWN: COLORED, **dict(enumerate(BACKDROPS))}
    for backdrop, words in said.items():
        captions = [data.caption(0, np.random.default_rng(i), backdrop=backdrop) for i in range(30)]
        assert {"background" in caption for caption in captions if caption} == {bool(words)}
        assert all(words in caption for caption in captions if caption)


def _over(color: tuple[float, float, float], seed: int, view: int, size: int) -> np.ndarray:
    """Picture ``view`` of ``sample_pictures(seed)`` over one ``color``, by the renderer."""
    with pytest.MonkeyPatch.context() as patch:
        # The draw still happens, so that what is drawn after it stays the same.
        def plain(rng, own):
            sample_background(rng, own)
            return Background(color, color)

        patch.setattr("dreamlift.toybox.world.render.sample_background", plain)
        return sample_pictures(seed, size)[view].rgb


def test_shards_repeat_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlift.toybox.training.dataset.SHARD", 4)
    first = make_shard(tmp_path / "a", 3, 32).read_bytes()
    again = make_shard(tmp_path / "b", 3, 32).read_bytes()
    with np.load(io.BytesIO(first)) as one, np.load(io.BytesIO(again)) as other:
        for key in one.files:
            assert np.array_equal(one[key], other[key])
    assert len(load_shards(tmp_path / "a", 32)) == 4
    with pytest.raises(FileNotFoundError, match="no pictures in"):
        load_shards(tmp_path / "none", 32)


def test_x0_loss_of_a_network_that_says_nothing_is_the_mean_square_of_the_picture():
    networks = make_networks(vocabulary(), 16, (8, 16))
    for parameter in networks.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    batch = Batch(x, [""] * 4, torch.zeros(4, 8), torch.tensor([0, 10, 500, 999]), torch.randn(4, 12, 8, 8),
                  torch.full((4, 2), UNTOLD), torch.zeros(4, dtype=torch.bool))  # fmt: skip
    got = x0_loss(networks, batch)
    # Its signal-to-noise ratio to the power of 0.3, by the cosine schedule's formula; at t = 999 of 1000 it is 0 by design.
    ratio = [math.tan(0.5 * math.pi * (t / 1000 + 0.008) / 1.008) ** -2 for t in (0, 10, 500, 999)]
    weights = torch.tensor([(min(r, 100.0) if r > 1e-3 else 2e-4) ** 0.3 for r in ratio])
    want = float((weights * x.square().mean((1, 2, 3))).mean())
    assert float(got.detach()) == pytest.approx(want, rel=5e-3)


def test_a_batch_is_captioned_and_told_some_cameras():
    data, settings = pictures(48), Training(batch=32, size=16)
    x, captions, cameras, t, eps, _, taught = draw_batch(data, settings, 3, (12, 8, 8))
    assert not taught.any()
    assert eps.shape == (32, 12, 8, 8)
    assert 650 < float(t.float().mean()) < 850  # a density proportional to t^2 has its mean at three quarters
    assert x.shape == (32, 3, 16, 16)
    told = cameras.abs().sum(-1) > 0
    assert 0.4 < float(told.float().mean()) < 0.9
    assert not any(told[i] for i in range(32) if captions[i] == "")  # the unconditional case knows no view
    rgb = x[told][0].permute(1, 2, 0)
    gaps = [
        min(float((rgb - side).abs().mean()) for side in (picture, picture.flip(1)))
        for picture in torch.from_numpy(data.rgb).float() / 127.5 - 1
    ]
    assert min(gaps) < 1e-6
    # sin and cos of the azimuth, by the formula
    i = int(np.argmin(gaps))
    assert abs(abs(float(cameras[told][0, 1])) - abs(np.sin(data.azimuth[i]))) < 1e-5
    assert abs(float(cameras[told][0, 2]) - np.cos(data.azimuth[i])) < 1e-5


def test_a_part_of_a_batch_is_for_a_teacher_to_answer():
    data, settings = pictures(48), Training(batch=16, size=16)
    plain, shared = (draw_batch(data, settings, 3, (12, 8, 8), taught=taught) for taught in (False, True))
    assert int(shared.taught.sum()) == 6
    assert int(shared.t[shared.taught].min()) >= 950
    assert torch.equal(shared.t[~shared.taught], plain.t[~shared.taught])
    assert torch.equal(shared.rgb, plain.rgb)
    assert int(shared.share(1, 2).taught.sum()) in (2, 4)


def test_no_time_lies_beyond_the_last_one(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size if size and size != ((),) else (), 1.0 - 2**-24))
    batch = draw_batch(pictures(48), Training(batch=16, size=16), 3, (12, 8, 8), taught=True)
    assert int(batch.t.max()) == 999


def test_where_a_teacher_answers_its_mean_is_what_is_right(monkeypatch):
    torch.manual_seed(0)
    networks, teacher = (replace(make_networks(vocabulary(("mug",)), size, (8, 16)), reader=None) for size in (16, 8))
    for parameter in networks.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    batch = draw_batch(pictures(48), Training(batch=8, size=16), 0, networks.shape, taught=True)
    answers = []

    def answer(*given):
        answers.append(taught_pictures(*given))
        return answers[-1]

    monkeypatch.setattr("dreamlift.toybox.training.prior.taught_pictures", answer)
    loss, own = x0_loss(networks, batch, teacher), batch.taught
    abar = networks.scheduler.alphas_cumprod[batch.t[~own]]
    rest = (loss_weight(abar) * batch.rgb[~own].square().mean((1, 2, 3))).sum()
    taught = float(loss.detach()) * 8 - float(rest)  # the network says 0: each picture's own mean square, of weight 1
    wanted = torch.nn.functional.interpolate(answers[0], (16, 16), mode="bilinear").square().mean((1, 2, 3))
    assert len(wanted) == int(own.sum()) == 3
    assert taught == pytest.approx(float(wanted.sum()), rel=1e-3)
    assert taught != pytest.approx(float(batch.rgb[own].square().mean((1, 2, 3)).sum()), rel=0.05)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_learn_what_one_whole_batch_teaches(workers):
    torch.manual_seed(0)
    networks = make_networks(vocabulary(), 16, (8, 16))
    batch = draw_batch(pictures(48), Training(batch=12, size=16), 0, networks.shape)
    with ThreadPoolExecutor(workers) as pool:
        loss = set_gradients(networks.parameters(), lambda i, n: x0_loss(networks, batch.share(i, n)), pool, workers)
    whole = x0_loss(networks, batch)
    grads = torch.autograd.grad(whole, networks.parameters(), allow_unused=True)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    for parameter, want in zip(networks.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(parameter.grad, want, rtol=1e-3, atol=1e-6)


def test_a_chosen_few_kinds():
    few = ("mug", "car")
    words = set(vocabulary(few))
    assert {"mug", "cup", "car", "automobile", "red", "striped", "hat", "box", "clay"} <= words < set(vocabulary())
    assert not {"chair", "duck", "bunny"} & words
    rng = np.random.default_rng(0)
    assert {describe(rng, kinds=few).category for _ in range(50)} == set(few)
    assert {row.description.category for row in sample_pictures(0, 8, kinds=few)} <= set(few)


def test_sampling_takes_a_camera_and_zeros_are_none():
    torch.manual_seed(0)
    networks = make_networks(vocabulary(("mug",)), 16, (8, 16))
    with torch.no_grad():
        networks.unet.time_embedding.cond_proj.weight.normal_()
    plain, zeros, told = (
        sample_grid(networks, ["a red mug"] * 2, camera=camera)
        for camera in (None, torch.zeros(2, 8), camera_features(torch.tensor([0.0, 2.0]), torch.zeros(2)))
    )
    assert torch.equal(plain, zeros)
    assert plain.shape == (2, 16, 16, 3)
    assert float((told - plain).abs().max()) > 1e-3


def test_the_kinds_of_a_prior_are_read_off_its_words():
    found = kinds_known(make_networks(vocabulary(("mug", "ice_cream")), 16, (8, 16)).tokenizer)
    assert set(found) == {"mug", "ice_cream", "hat"}  # hats are in every vocabulary, as accessories
    assert {"mug", "chair", "rocket"} <= set(kinds_known(load_folder(FOLDER).tokenizer))


def test_training_resumes_bit_by_bit(tmp_path, monkeypatch):
    settings = Training(steps=6, batch=2, size=16, warmup=2)
    monkeypatch.setattr("dreamlift.toybox.training.dataset.load_shards", lambda *_: pictures())
    monkeypatch.setattr("dreamlift.toybox.training.prior.milestone", lambda *_: None)
    monkeypatch.setattr(
        "dreamlift.toybox.training.prior.make_networks", lambda words, size: make_networks(words, size, (8, 16))
    )
    train(settings, tmp_path / "whole", tmp_path, "cpu", 6)
    # The learning rate's shape follows from the total, so the first half runs with the same settings and is cut short.
    monkeypatch.setattr("dreamlift.toybox.training.prior.draw_batch", _stop_at(3))
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "parts", tmp_path, "cpu", 3)
    monkeypatch.setattr("dreamlift.toybox.training.prior.draw_batch", draw_batch)
    train(settings, tmp_path / "parts", tmp_path, "cpu", 3)
    whole = (tmp_path / "whole" / "training.safetensors").read_bytes()
    assert (tmp_path / "parts" / "training.safetensors").read_bytes() == whole
    other = replace(settings, seed=1)
    train(other, tmp_path / "other", tmp_path, "cpu", 6)
    assert (tmp_path / "other" / "training.safetensors").read_bytes() != whole


def _stop_at(step: int):
    def draw(data, settings, index, shape, taught):
        if index == step:
            raise KeyboardInterrupt
        return draw_batch(data, settings, index, shape, taught=taught)

    return draw


def test_saved_folder_is_read_back_for_further_training():
    networks = load_folder(FOLDER)
    assert networks.unet.dtype == torch.float32
    assert set(networks.tokenizer.get_vocab()) <= {*vocabulary(), "<pad>", "</s>", "<unk>"}


def test_a_grown_vocabulary_keeps_what_was_learnt(tmp_path):
    torch.manual_seed(0)
    old = make_networks(["a", "mug", "red"], 16, (8, 16))
    save_folder(old, tmp_path, half=False)
    new = make_networks(["a", "blue", "mug", "plate", "red"], 16, (8, 16))
    begin_with(new, tmp_path)
    x, t = torch.randn(1, 12, 8, 8), torch.tensor([500])
    for networks in (old, new):
        networks.text_encoder.eval()
    one, other = (n.unet(x, t, n.encode_text(n.tokenize(["a red mug"]))).sample for n in (old, new))
    torch.testing.assert_close(one, other)


def test_a_grown_network_keeps_what_was_learnt(tmp_path, monkeypatch):
    torch.manual_seed(0)
    words = ["a", "mug", "red"]
    monkeypatch.setattr("dreamlift.toybox.training.network.TIME_WIDTH", 64)
    monkeypatch.setattr("dreamlift.toybox.training.network.TRANSFORMER_LAYERS", 1)
    old = make_networks(words, 16, (8, 16))
    save_folder(old, tmp_path, half=False)
    monkeypatch.undo()
    new = make_networks(words, 16, (8, 16))
    begin_with(new, tmp_path)
    assert sum(p.numel() for p in new.parameters()) > 1.2 * sum(p.numel() for p in old.parameters())
    for networks in (old, new):
        networks.text_encoder.eval()
        # The pooled text is normalised over the wider time embedding, so it alone would differ.
        torch.nn.init.zeros_(networks.unet.add_embedding.norm2.weight)
        torch.nn.init.zeros_(networks.unet.add_embedding.norm2.bias)
    x, t, camera = torch.randn(2, 12, 8, 8), torch.tensor([500, 20]), torch.randn(2, 8)
    text = (n.encode_text(n.tokenize(["a red mug"] * 2)) for n in (old, new))
    one, other = (n.unet(x, t, e, timestep_cond=camera).sample for n, e in zip((old, new), text, strict=True))
    torch.testing.assert_close(one, other)


def test_the_curve_of_the_loss_falls_as_the_loss_does(tmp_path):
    log = tmp_path / "loss.jsonl"
    falling = [{"step": step, "loss": 0.5 * 0.99**step} for step in range(0, 400, 20)]
    stray = [{"step": 200, "loss": 5.0}, {"step": 220, "loss": float("nan")}]  # before the run was stopped, and done again
    log.write_text("".join(json.dumps(row) + "\n" for row in [*falling[:10], *stray, *falling[10:]]))
    save_curve(tmp_path / "loss.png", log)
    ink = np.asarray(Picture.open(tmp_path / "loss.png").convert("L"))[40:-40, 40:-40] < 60
    columns = np.flatnonzero(ink.any(axis=0))
    heights = np.array([np.flatnonzero(ink[:, column]).mean() for column in columns])
    # A geometric fall is a straight line from the upper left to the lower right on a logarithmic axis.
    straight = np.polyfit(columns, heights, 1)
    assert straight[0] == pytest.approx((320 - 60) / (640 - 60), rel=0.02)
    assert np.abs(heights - np.polyval(straight, columns)).max() < 2
