"""The text encoder knows whose colour is whose: the reader that teaches it, against numpy, and the shipped weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_toybox_prior import FOLDER, pictures

from dreamlift.priors.network import camera_features
from dreamlift.toybox.training.dataset import CLAY, vocabulary
from dreamlift.toybox.training.latent import make_latent_networks, make_vae
from dreamlift.toybox.training.network import load_folder, make_networks
from dreamlift.toybox.training.prior import FAST, READING, Batch, make_optimizers, x0_loss
from dreamlift.toybox.training.reader import UNTOLD, Reader, ViewReader
from dreamlift.toybox.training.steps.learning import set_rates
from dreamlift.toybox.training.text import TextTraining, draw_captions, teach
from dreamlift.toybox.world.things import COLORS, Description


def test_the_readers_loss_is_the_cross_entropy_of_the_mean_state():
    torch.manual_seed(0)
    reader, states = Reader(6), torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    told = torch.tensor([[2, 5], [UNTOLD, 12], [UNTOLD, UNTOLD]])
    want = 0.0
    for row, (color, hat) in enumerate(told.tolist()):
        mean = states[row, : int(mask[row].sum())].numpy().mean(axis=0)
        for head, index in ((reader.color, color), (reader.hat, hat)):
            logits = head.weight.detach().numpy() @ mean + head.bias.detach().numpy()
            want -= 0.0 if index == UNTOLD else (logits - np.log(np.exp(logits).sum()))[index]
    assert float(reader.loss(states, {"attention_mask": mask}, told).detach()) == pytest.approx(want / 3, rel=1e-5)


def test_what_captions_tell_of_colours():
    data = pictures(48)
    rows, rng = np.arange(48), np.random.default_rng(0)
    captions = [data.caption(int(i), rng) for i in rows]
    names = [*COLORS, ""]
    told = data.told(rows, captions).tolist()
    for i, (caption, (color, hat)) in enumerate(zip(captions, told, strict=True)):
        if not caption:
            assert (color, hat) == (UNTOLD, UNTOLD)
            continue
        assert (" hat" in caption.split(",")[0] and " wearing " in caption) == (hat != len(COLORS))
        if hat != len(COLORS):
            assert f" {names[hat]} hat" in caption
        assert (color == UNTOLD) == (data.style[i] == CLAY)
        if color != UNTOLD:
            assert f" {names[color]} " in caption.split(" wearing ")[0]


def test_teaching_leaves_the_states_of_other_captions_as_they_were():
    data = pictures(48)
    data = replace(data, hat=np.where(np.arange(48) % 2 == 0, data.hat, 3).astype(np.int16))
    moved, losses = [], []
    for keep in (0.0, 300.0):
        torch.manual_seed(0)
        networks = make_networks(["a", "an", *COLORS, "duck", "robot", "wearing", "hat"], 16, (8, 16))
        tokens = networks.tokenize([Description("duck", color).caption() for color in COLORS])
        with torch.no_grad():
            before = networks.encode_text(tokens)
            unet = [p.clone() for p in networks.unet.parameters()]
            losses.append(teach(networks, data, TextTraining(steps=30, batch=16, warmup=2, keep=keep)))
            moved.append(float((networks.encode_text(tokens) - before).square().mean()))
            assert all(torch.equal(a, b) for a, b in zip(unet, networks.unet.parameters(), strict=True))
    assert moved[1] < 0.5 * moved[0]
    assert losses[0][-1] < 0.8 * losses[0][0]


def test_what_begins_near_zero_learns_faster_than_the_rest():
    networks = make_networks(["a", "red", "mug"], 16, (8, 16))
    optimizers = make_optimizers(networks, 1.0)
    set_rates(optimizers, 0.01)
    rates = {id(p): group["lr"] for each in optimizers for group in each.param_groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in networks.parameters()}
    bias = networks.text_encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    fast = {id(bias), *map(id, networks.reader.parameters())}
    assert {rate for key, rate in rates.items() if key in fast} == {0.01 * FAST}
    assert {rate for key, rate in rates.items() if key not in fast} == {0.01}


def test_half_of_the_captions_name_a_hat():
    data = replace(pictures(48), hat=(np.arange(48) % 12 - 10).clip(-1).astype(np.int16))
    drawn = draw_captions(data, TextTraining(batch=64), 0)
    assert (drawn.told[:32, 1] != len(COLORS)).all()
    again, other = (draw_captions(data, TextTraining(batch=64), step) for step in (0, 1))
    assert again.captions == drawn.captions != other.captions


def test_the_shipped_prior_tells_a_red_duck_in_a_yellow_hat_from_a_yellow_one_in_a_red_hat():
    networks, names = load_folder(FOLDER), list(COLORS)
    pairs = [(kind, *pair) for kind in ("duck", "robot", "snowman") for pair in itertools.permutations(range(len(names)), 2)]
    captions = [Description(kind, names[own], hat=names[hat]).caption() for kind, own, hat in pairs]
    tokens = networks.tokenize(captions)
    with torch.no_grad():
        mask = tokens["attention_mask"][..., None].float()
        means = ((networks.encode_text(tokens) * mask).sum(dim=1) / mask.sum(dim=1)).double()
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    seen, unseen = order[:260], order[260:]
    features = torch.cat([(means - means[seen].mean(0)) / means[seen].std(0), torch.ones(len(pairs), 1)], dim=1)
    for place in (1, 2):  # ridge regression on one-hot colours, fitted to two thirds of the pairs
        wanted = torch.tensor([pair[place] for pair in pairs])
        left = features[seen].T @ features[seen] + 10.0 * torch.eye(features.shape[1])
        fitted = torch.linalg.solve(left, features[seen].T @ torch.eye(len(names)).double()[wanted[seen]])
        right = (features[unseen] @ fitted).argmax(dim=1) == wanted[unseen]
        assert float(right.double().mean()) > 0.85  # a bag of words reaches 0.5 at most


def test_a_view_that_stands_in_its_directions_is_read_without_error():
    reader = ViewReader(32, 8, size=2.0)
    torch.testing.assert_close(reader.directions @ reader.directions.T, torch.eye(8), atol=1e-5, rtol=0)
    camera = camera_features(torch.tensor([0.3, -2.0, 1.0]), torch.tensor([0.1, 0.5, 0.0]))
    camera[2] = 0.0  # not told
    pooled = 2.0 * camera @ reader.directions
    assert float(reader.loss(pooled, camera)) == pytest.approx(0.0, abs=1e-9)
    pooled[2] = 5.0  # what is not asked for may be anything
    assert float(reader.loss(pooled, camera)) == pytest.approx(0.0, abs=1e-9)
    wrong = pooled + reader.directions[3]  # one feature of the eight off by one
    assert float(reader.loss(wrong, camera)) == pytest.approx(1 / 8, rel=1e-4)
    assert not list(reader.parameters())
    again = ViewReader(32, 8, size=2.0)
    assert torch.equal(again.directions, reader.directions)


def test_a_latent_prior_is_taught_to_say_the_view_where_it_is_told():
    torch.manual_seed(0)
    networks = make_latent_networks(vocabulary(("mug",)), make_vae((8, 16)), 16, (8, 16))
    camera = camera_features(torch.tensor([0.5, 1.5]), torch.zeros(2))
    batch = Batch(torch.zeros(2, 3, 16, 16), ["a red mug, left side view", "a red mug"], camera, torch.tensor([900, 900]),
                  torch.zeros(2, *networks.shape), torch.zeros(2, 2).long(), torch.zeros(2).bool())  # fmt: skip
    with torch.no_grad():
        bare, read = x0_loss(replace(networks, reader=None), batch), x0_loss(networks, batch)
        text = networks.encode_text(networks.tokenize(batch.captions[:1]))
        pooled = networks.unet.add_embedding(text)
    assert networks.reader is not None
    wanted = READING * (pooled @ networks.reader.directions.T - 3.0 * camera[:1]).square().mean()
    assert float(read - bare) == pytest.approx(float(wanted), rel=1e-3)  # the second caption says no view
