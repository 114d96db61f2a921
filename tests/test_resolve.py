"""What a run looks up, it looks up once: priors, their revisions, files; and words are encoded once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from big_helpers import first_pipeline
from lift_helpers import TINY, as_killed, changed, run_main, save_stub, small_pictures, taught
from safetensors.torch import save_file
from test_single_file import text_keys, unet_keys, vae_keys, write

from dreamlift.config.short import override
from dreamlift.lifting import begin_stage, finish, lift, load, resolve
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import COLORED
from dreamlift.priors import kinds, pixel
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.loading import sources
from dreamlift.priors.lora import additions
from dreamlift.prompts import NoViews
from dreamlift.types import LoraFile, Step

SMALL = dict(word.removeprefix("--").split("=", 1) for word in TINY if "null" not in word) | {
    "steps": "2", "stages.1.steps": "2", "stages.1.scene.resolution": "12", "stages.1.cameras.resolution": "[16]",
    "cameras.resolution": "[16]", "stages.1.cameras.views": "1", "cameras.views": "1",
}  # fmt: skip


def two_stages(prior, **changes):
    """The two stages of magic3d-toy, of two small steps each."""
    config = replace(override(COLORED, SMALL), prompt="a red mug", **changes)
    return taught(config, prior=prior if isinstance(prior, PriorChoice) else PriorChoice(str(prior)))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second prior."""
    return save_stub(tmp_path_factory.mktemp("prior") / "other")


@pytest.fixture
def looked_up(monkeypatch):
    """How often each function was called: Counter(locate=..., revision_of=..., file_hash=..., encode_prompts=...)."""
    calls: Counter[str] = Counter()

    def counted(name, places):
        original = getattr(places[0], name)

        def call(*args, **more):
            calls[name] += 1
            return original(*args, **more)

        for place in places:
            monkeypatch.setattr(place, name, call)

    counted("locate", (sources, kinds))
    counted("revision_of", (sources, kinds))
    counted("encode_prompts", (pixel,))
    return calls


def test_the_prior_of_both_stages_is_located_once_a_run(cwd, stub, looked_up, monkeypatch):
    small_pictures(monkeypatch)
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    assert run_main("generate", "a red mug", "--prior", stub, "--out", "run", *words) == 0
    assert looked_up == {"locate": 1, "revision_of": 1, "encode_prompts": 1}
    as_killed(cwd / "run")
    assert run_main("resume", "run") == 0
    assert looked_up == {"locate": 2, "revision_of": 2, "encode_prompts": 2}
    looked_up.clear()
    assert run_main("export", "run") == 0
    assert looked_up == {}  # meshing a checkpoint anew needs no prior


def test_each_of_two_priors_is_located_once(stub, other, looked_up):
    config = taught(two_stages(stub), 1, prior=PriorChoice(str(other)))
    job = load(resolve(config))
    steps = [event for event in lift(job) if isinstance(event, Step)]
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert looked_up == {"locate": 2, "revision_of": 2, "encode_prompts": 2}
    # back to the first one in a third stage
    looked_up.clear()
    third = taught(replace(config, stages=(*config.stages, config.stages[1])), 2, prior=PriorChoice(str(stub)))
    found = resolve(third)
    assert found.priors[0][0] is found.priors[2][0]
    assert found.priors[0][0] is not found.priors[1][0]
    assert looked_up == {"locate": 2, "revision_of": 2}


def test_words_are_encoded_again_only_for_another_prior_or_wording(stub, other, looked_up):
    config = two_stages(stub)
    job = load(resolve(config))
    assert looked_up["encode_prompts"] == 1
    assert job.embeds[0][0] is job.embeds[1][0]
    bare = load(resolve(taught(config, 1, wording=NoViews())))
    assert looked_up["encode_prompts"] == 1 + 2
    assert [embeds[0].wording for embeds in bare.embeds] == [config.stages[0].teachers[0].wording, NoViews()]
    load(resolve(taught(config, 1, prior=PriorChoice(str(other)))))
    assert looked_up["encode_prompts"] == 3 + 2
    (teacher,) = config.stages[0].teachers
    load(resolve(changed(config, teachers=(teacher, replace(teacher, weight=0.5), replace(teacher, prior=None)))))
    assert looked_up["encode_prompts"] == 5 + 1


def test_what_is_given_by_relative_paths_is_found_from_anywhere_after_resolve(cwd, other, monkeypatch, tmp_path):
    """After resolve, the working folder may change and nobody looks anything up: whatever is asked raises."""
    save_stub(cwd / "prior")
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    sides = {"A": torch.ones(1, 16), "B": torch.ones(16, 1)}
    save_file({f"unet.{key}.lora_{side}.weight": value for side, value in sides.items()}, cwd / "style.safetensors")
    save_file({"emb_params": torch.zeros(1, encoder_width(other))}, cwd / "word.safetensors")
    trimesh.creation.icosphere(2, 0.7).export(cwd / "mine.obj")
    (cwd / "mine.obj").write_text("mtllib gone.mtl\n" + (cwd / "mine.obj").read_text())
    choice = PriorChoice("prior", loras=(LoraFile("style.safetensors", 0.5),), embeddings=("word.safetensors",))
    (paint,) = PRESETS["texture-toy"].stages
    small = {"steps": "2", "cameras.resolution": "[16]", "cameras.views": "1", "scene.texture.size": "32"}
    painted = override(replace(PRESETS["texture-toy"], prompt="a red word mug", initial_mesh="mine.obj"), small)
    runs = [replace(two_stages(choice), prompt="a red word mug"), taught(painted, prior=choice)]
    assert paint.scene.takes_initial_mesh
    resolved = [resolve(config) for config in runs]
    assert "mine.obj: the material file 'gone.mtl' was not found in its folder or below it" in resolved[1].notes

    def asked(*words, **more):
        raise AssertionError(f"looked up after resolve: {words} {more}")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for place, name in (
        (sources, "locate"), (sources, "revision_of"), (sources, "whole_name"), (kinds, "locate"), (kinds, "revision_of"),
        (kinds, "whole_name"), (kinds, "with_whole_paths"), (kinds, "find"), (additions, "with_whole_paths"),
        (additions, "file_hash"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, asked)
    for found in resolved:
        assert found.config.stages[-1].teachers[0].prior == found.priors[-1][0].choice
        for path in (found.priors[0][0].choice.name, *(lora.path for lora in found.priors[0][0].choice.loras)):
            assert path.startswith(str(cwd))
        job = load(found)
        events = list(lift(job))
        assert sum(isinstance(event, Step) for event in events) == found.config.total_steps
        assert len(finish(job).mesh.faces) > 10
    assert resolved[1].config.initial_mesh == str(cwd / "mine.obj")


def encoder_width(folder):
    return kinds.find(PriorChoice(str(folder))).parts.config("text_encoder")["d_model"]


def test_a_resolved_config_resolves_to_itself(stub):
    config = two_stages(stub)
    first = resolve(config)
    again = resolve(first.config)
    assert again.config == first.config
    assert again.revisions == first.revisions == first.priors[0][0].revision
    assert first.revisions


@pytest.mark.filterwarnings("ignore:.* does not know '")
def test_a_one_file_checkpoint_is_hashed_once_a_run(tmp_path, monkeypatch, looked_up):
    from dreamlift.priors.loading import single_file

    for name, value in (("XDG_CACHE_HOME", "cache"), ("HF_HUB_CACHE", "hub")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipe = first_pipeline()
    pipe.save_pretrained(tmp_path / "settings")
    file = write(tmp_path / "m.safetensors", unet_keys(pipe.unet), vae_keys(pipe.vae), text_keys(pipe.text_encoder))
    hashed = []
    original = additions.file_hash
    for place in (additions, single_file):
        monkeypatch.setattr(place, "file_hash", lambda path: (hashed.append(path), original(path))[1])
    config = two_stages(PriorChoice(str(file), str(tmp_path / "settings")))
    with pytest.warns(UserWarning, match="is converted once"):
        job = load(resolve(config))
    for event in lift(job):
        del event
    assert hashed == [file]
    assert looked_up == {"locate": 2, "revision_of": 1, "encode_prompts": 1}  # the second one is that of its settings
    assert job.config.stages[1].teachers[0].prior.name == str(file)  # the user's own, and not the converted folder's
    resolve(config)
    assert hashed == [file, file]


def test_the_priors_of_both_stages_are_one_in_memory(stub):
    resolved = resolve(two_stages(stub))
    job = load(resolved)
    before = job.work.ready.priors[0]
    for event in lift(job):
        del event
    assert job.number == 1
    assert job.work.ready.priors[0] is before
    again = begin_stage(resolved, job.embeds, job.pool, 0, load(resolved).handover)
    assert again.ready.priors[0] is before
    assert np.isfinite(again.step().loss)


def test_a_model_card_does_not_change_the_weights_revision(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    revision = sources.revision_of(tmp_path)
    (tmp_path / "README.md").write_text("A card.")
    assert sources.revision_of(tmp_path) == revision
    (tmp_path / "model_index.json").write_text('{"unet": 1}')
    assert sources.revision_of(tmp_path) != revision
