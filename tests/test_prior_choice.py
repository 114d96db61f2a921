"""Priors by name and in memory: a diffusers pipeline serves as the folder that it was saved to; teachers share networks."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from big_helpers import CPU, PROMPTS, conditioned, first_pipeline, third_pipeline, xl_pipeline
from lift_helpers import changed, save_stub
from safetensors.torch import save_file

from dreamlift.cameras import CameraSampler
from dreamlift.config.build import ConfigError, config_hash, load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.lifting import lift, load, resolve
from dreamlift.plugins import register
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import MESH
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.priors.kinds import BUILT_IN, PRIORS, Priors, find, kind_of, load_prior
from dreamlift.priors.latent import LatentPrior
from dreamlift.priors.parts import FolderParts, LoadedParts
from dreamlift.priors.pixel import PixelPrior
from dreamlift.priors.saving import Memory
from dreamlift.prompts import Compass, NoViews
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.system.streams import random_stream
from dreamlift.types import LoraFile, Step, Task

MAKERS = {
    "Stable Diffusion 1": first_pipeline, "Stable Diffusion XL": xl_pipeline,
    "Stable Diffusion 3": lambda: third_pipeline(True), "Stable Diffusion 3 without T5": lambda: third_pipeline(False),
}  # fmt: skip


@pytest.fixture(scope="module", params=[*MAKERS, "DeepFloyd IF"])
def both(request, tmp_path_factory):
    """(folder, the same model as a stock pipeline in memory)."""
    from diffusers import DiffusionPipeline

    folder = tmp_path_factory.mktemp("both") / "model"
    if request.param in MAKERS:
        pipe = MAKERS[request.param]()
        pipe.save_pretrained(folder)
        return folder, pipe
    return folder, DiffusionPipeline.from_pretrained(save_stub(folder), torch_dtype=torch.float32)


def weights_of(pipe):
    """Copies of all weights of a pipeline, by part and name."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}


def same(one, other):
    """Bit by bit, None where the other is."""
    assert (one is None) == (other is None)
    assert one is None or torch.equal(one, other)


def answers(prior, prompts=PROMPTS):
    """Latents, a guided prediction with cameras, and a picture from a prior, for given numbers."""
    rng = random_stream("answers")
    picture, text = torch.rand(2, 20, 20, 3, generator=rng), prior.embed_text(prompts)
    cond = replace(conditioned(text, [0, 2], [1, 1]), cameras=CameraSampler(views=2)(0.0, rng))
    latents = prior.encode(picture)
    with torch.no_grad():
        return latents, prior.predict_noise(latents, torch.tensor([0.3, 0.8]), cond, 5.0), prior.decode(latents)


def test_a_pipeline_in_memory_is_the_prior_of_its_folder(both):
    folder, pipe = both
    before, (named, given) = weights_of(pipe), (PriorChoice(str(folder)), PriorChoice.of(pipe))
    assert type(pipe).__name__ in given.name
    located = [find(choice) for choice in (named, given)]
    assert located[0].kind is located[1].kind
    priors = [each.load(CPU) for each in located]
    assert priors[0].resolution == priors[1].resolution
    for one, other in zip(answers(priors[0]), answers(priors[1]), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(priors[0].embed_text(PROMPTS), priors[1].embed_text(PROMPTS), strict=True):
        same(one, other)
    # as a run reads its words
    task, embeds = Task("a red mug", "a mug"), []
    for each in located:
        embeds.append(each.read(task, Compass(blend=True, perp_neg=1.0), (), CPU))
    cameras = CameraSampler(views=3)(0.0, random_stream("cameras"))
    one, other = (vars(found.at(cameras)) for found in embeds)
    for name in one.keys() - {"cameras", "frame_azimuth"}:
        same(one[name], other[name])
    assert all(torch.equal(value, before[name]) for name, value in weights_of(pipe).items())
    network = priors[1].transformer if hasattr(priors[1], "transformer") else priors[1].network.unet
    assert network in pipe.components.values()  # no copy


def test_load_prior_takes_whatever_says_which_prior(tmp_path):
    pipe = first_pipeline()
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    exact = GaussianPrior(torch.zeros(1, 3, 8, 8), torch.ones(1))
    assert load_prior(exact) is load_prior(PriorChoice.of(exact)) is exact
    forms = (folder, str(folder), PriorChoice(str(folder)), pipe, PriorChoice.of(pipe))
    first, *others = (load_prior(form, "cpu") for form in forms)
    for other in others:
        assert isinstance(other, LatentPrior)
        for one, two in zip(answers(first), answers(other), strict=True):
            assert torch.equal(one, two)
    linear = [PriorChoice(str(folder), linear_encoder=True), PriorChoice.of(pipe, linear_encoder=True)]
    picture = torch.rand(1, 8, 8, 3, generator=random_stream(0))
    assert torch.equal(*(load_prior(choice).encode(picture) for choice in linear))
    with pytest.raises(ValueError, match="a UNet2DConditionModel is not a prior: give a diffusers pipeline, a Prior"):
        load_prior(pipe.unet)
    pipe.register_modules(unet=None)
    with pytest.raises(ValueError, match="Pipeline in memory is not a supported model"):
        load_prior(pipe)


def test_a_pipeline_keeps_no_memory_settings_of_an_earlier_load():
    pipe = first_pipeline()
    before, text = answers(load_prior(pipe)), load_prior(pipe).embed_text(PROMPTS)
    low = load_prior(pipe, memory=Memory(micro_batch=2, gradient_checkpointing=True, attention_slices=True))
    assert low.network.memory.micro_batch == 2
    assert pipe.vae.use_slicing
    assert pipe.unet.is_gradient_checkpointing
    assert pipe.vae.is_gradient_checkpointing
    assert {type(kind).__name__ for kind in pipe.unet.attn_processors.values()} == {"SlicedAttnProcessor"}
    again = load_prior(pipe)
    assert again.network.memory.micro_batch == 0
    for one, other in zip((*before, text.states), (*answers(again), again.embed_text(PROMPTS).states), strict=True):
        assert torch.equal(one, other)
    assert not pipe.vae.use_slicing
    assert not pipe.unet.is_gradient_checkpointing
    assert not pipe.vae.is_gradient_checkpointing
    assert {type(kind).__name__ for kind in pipe.unet.attn_processors.values()} == {"AttnProcessor2_0"}


def test_loras_and_embeddings_leave_the_pipeline_as_it_was(tmp_path):
    pipe = first_pipeline()
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    before, words = weights_of(pipe), dict(pipe.tokenizer.get_vocab())
    key, text_key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "text_encoder.text_model.encoder.layers.0"
    rng = random_stream("lora")
    sizes = {key: (pipe.unet, (16, 16)), f"{text_key}.mlp.fc1": (pipe.text_encoder, (32, 16))}
    file = {}
    for name, (_, (rows, columns)) in sizes.items():
        file[f"{name}.lora_A.weight"] = torch.randn(2, columns, generator=rng)
        file[f"{name}.lora_B.weight"] = torch.randn(rows, 2, generator=rng)
    save_file(file, tmp_path / "style.safetensors")
    save_file({"emb_params": torch.randn(2, 16, generator=rng)}, tmp_path / "charm.safetensors")
    own = {
        "loras": (LoraFile(str(tmp_path / "style.safetensors"), 0.5),),
        "embeddings": (str(tmp_path / "charm.safetensors"),),
    }  # fmt: skip
    prompts = ["a charm mug", "", "a mug"]
    named, given = (load_prior(choice) for choice in (PriorChoice(str(folder), **own), PriorChoice.of(pipe, **own)))
    for one, other in zip(named.embed_text(prompts), given.embed_text(prompts), strict=True):
        same(one, other)
    plain = load_prior(pipe)
    found, expected, without = (answers(prior, prompts) for prior in (given, named, plain))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert float((found[1] - without[1]).abs().max()) > 1e-3
    assert not torch.equal(given.embed_text(prompts).states[2], plain.embed_text(prompts).states[2])  # by the LoRA alone
    assert all(torch.equal(value, before[name]) for name, value in weights_of(pipe).items())
    assert pipe.tokenizer.get_vocab() == words
    assert plain.network.unet is pipe.unet
    assert given.network.unet is not pipe.unet
    assert find(PriorChoice.of(pipe, **own)).revision != find(PriorChoice.of(pipe)).revision


def test_a_choice_in_memory_lifts_and_is_no_part_of_a_config_file():
    pipe = first_pipeline()
    config = taught_by(PriorChoice.of(pipe))
    job = load(resolve(config))
    assert [event.note for event in lift(job) if isinstance(event, Step)] == ["", ""]
    assert job.work.ready.priors[0].network.unet is pipe.unet
    for write in (save_yaml, config_hash):
        with pytest.raises(ConfigError, match=r"prior\.loaded: a value in memory cannot be written to a config"):
            write(config)
    with pytest.raises(ConfigError, match=r"prior\.loaded: unknown name"):
        load_yaml(Config, "stages: [{type: lift, teachers: [{prior: {loaded: x}}]}]")


class Mine(LatentPrior):
    """A kind of a plugin, for one pipeline alone."""

    @classmethod
    def accepts(cls, parts):
        return isinstance(parts, LoadedParts) and getattr(parts.pipeline, "mine", False)


class Newer(Mine):
    """Another one for it."""


def test_kinds_of_plugins_are_preferred_where_they_accept(stub, xl_folder):
    pipe = first_pipeline()
    assert tuple(PRIORS) == BUILT_IN
    assert kind_of(LoadedParts(pipe)) is LatentPrior
    try:
        register("prior", "mine", Mine)
        assert kind_of(LoadedParts(pipe)) is LatentPrior  # it does not accept this one
        pipe.mine = True
        assert kind_of(LoadedParts(pipe)) is Mine
        assert type(load_prior(pipe)) is Mine
        register("prior", "newer", Newer)
        assert kind_of(LoadedParts(pipe)) is Newer
        found = [kind_of(FolderParts(folder)) for folder in (stub, xl_folder)]
        assert found == [PixelPrior, LatentPrior]
        with pytest.raises(ValueError, match="the name 'latent' is that of a prior of the package"):
            register("prior", "latent", Mine)
    finally:
        for name in ("mine", "newer"):
            PRIORS.pop(name, None)


def taught_by(*choices, wording=None):
    """A short run of one stage, with a teacher of each choice."""
    config = replace(PRESETS["toybox-field"], prompt="a red mug", backdrops=(), engine="torch")  # which loads whole networks
    (teacher,) = config.stages[0].teachers
    teachers = tuple(replace(teacher, prior=choice, wording=wording or teacher.wording) for choice in choices)
    stage = config.stages[0]
    return changed(
        config, steps=2, teachers=teachers, cameras=replace(stage.cameras, resolution=(16,)),
        scene=replace(stage.scene, samples_per_ray=16, field=Voxel((5, 9), (0.0, 0.0))),
    )  # fmt: skip


@pytest.fixture
def spied(monkeypatch):
    """What happens to networks: [("load", folder's name, part, folders whose network is in memory at this moment), ...]."""
    seen, networks = [], []
    original = FolderParts.network

    def network(self, part, *more):
        gc.collect()
        seen.append((self.folder.name, part, [name for name, found in networks if found() is not None]))
        found = original(self, part, *more)
        if part == "unet":
            networks.append((self.folder.name, weakref.ref(found)))
        return found

    monkeypatch.setattr(FolderParts, "network", network)
    return seen


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folders of two priors on pixels."""
    place = tmp_path_factory.mktemp("two")
    return [save_stub(place / name) for name in ("first", "second")]


def test_equal_choices_share_a_network_and_unwanted_ones_go_first(two, spied):
    # The two hold the same weights, as two folders can seem to whose large files have the same sizes.
    assert find(PriorChoice(str(two[0]))).revision == find(PriorChoice(str(two[1]))).revision
    first, second = (PriorChoice(str(folder)) for folder in two)
    pool = Priors()
    a, b = pool.take([find(first), find(replace(first))], CPU, Memory())
    assert a is b
    assert spied == [("first", "unet", [])]
    (c,) = pool.take([find(first)], CPU, Memory())
    assert c is a
    assert len(spied) == 1
    d, e, f = pool.take([find(second), find(first), find(second)], CPU, Memory())
    assert e is a
    assert d is f
    assert d is not e
    assert spied[1:] == [("second", "unet", ["first"])]  # the first one is wanted still
    del a, b, c, d, e, f
    pool.take([find(replace(second, camera_conditioning=False))], CPU, Memory())
    assert spied[2:] == [("second", "unet", [])]  # other options: the two of before are gone before it is loaded
    pool.take([find(replace(second, camera_conditioning=False))], CPU, Memory(micro_batch=1))
    assert spied[3:] == [("second", "unet", [])]
    assert [prior.network.memory.micro_batch for prior in pool.loaded.values()] == [1]


def test_teachers_of_one_prior_share_it_and_its_words(two, spied):
    choice = PriorChoice(str(two[0]))
    job = load(resolve(taught_by(choice, PriorChoice(str(two[0])), choice)))
    assert len({id(prior) for prior in job.work.ready.priors}) == 1
    assert len({id(embeds) for embeds in job.embeds[0]}) == 1
    assert [part for _, part, _ in spied] == ["text_encoder", "unet"]
    steps = [event for event in lift(job) if isinstance(event, Step)]
    assert [len(step.guidance) for step in steps] == [3, 3]
    other = resolve(taught_by(choice, choice))
    views = replace(other.config.stages[0].teachers[1], wording=NoViews())
    config = changed(other.config, teachers=(other.config.stages[0].teachers[0], views))
    again = load(resolve(config))
    assert again.embeds[0][0] is not again.embeds[0][1]
    assert again.work.ready.priors[0] is again.work.ready.priors[1]


def test_a_stages_prior_leaves_the_memory_before_the_next_ones(two, spied):
    first, second = (PriorChoice(str(folder)) for folder in two)
    config = taught_by(first)
    stage = config.stages[0]
    mesh = replace(MESH, steps=2, cameras=stage.cameras, scene=TetMesh(resolution=16, color=Voxel((5,), (0.0,))))
    others = [replace(mesh, teachers=taught_by(choice).stages[0].teachers) for choice in (second, first)]
    job = load(resolve(replace(config, stages=(stage, *others))))
    for event in lift(job):
        del event
    assert [(name, alive) for name, part, alive in spied if part == "unet"] == [("first", []), ("second", []), ("first", [])]
    # every prompt was encoded before the first network was loaded
    assert [part for _, part, _ in spied] == ["text_encoder", "text_encoder", "unet", "unet", "unet"]
