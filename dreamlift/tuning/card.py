"""The records of a tuning: ``training.json`` with everything that it was made of, and the model card ``README.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreamlift.priors.lora.additions import LORA_FILE, T5_LORA_FILE
from dreamlift.prompts import article
from dreamlift.system.files import atomic_write_text
from dreamlift.system.text import read_text

RECORD = "training.json"
FREE = ("steps", "finished_steps", "files", "loss")  # what may differ when a tuning is continued


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a tuning's folder; None if there is none. Raises ValueError."""
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        found = json.loads(read_text(file, 10_000_000))
        if not isinstance(found, dict) or not isinstance(found.get("photos"), list):
            raise ValueError("it is no record of a tuning")
        found["prior"] = shown_prior(str(found.get("prior", "")))  # older records have the whole path
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error}): give --out another folder") from None
    return found


def use_of(folder: Path) -> str:
    """What a message says of the folder of a tuning that was given as something else; "" for any other folder."""
    try:
        record = read_record(folder)
        if record is None:
            return ""
        settings, prompt = record["settings"], str(record["prompt"])
        verb = "invert" if settings.get("word_only") else "dreambooth"
        if not record.get("files"):
            return f"it is an unfinished tuning: the same `dreamlift {verb} ... --out {folder}` goes on with it"
        use = f"--prior {folder}" if settings["all_weights"] else f"--lora {folder}"
        if not settings["all_weights"] and record["prior"] != "toybox":
            use += f" --prior {record['prior']}"
    except (AttributeError, KeyError, TypeError, ValueError):  # a file of that name of something else
        return ""
    more = f"`dreamlift {verb} ... --out {folder}` with more --steps trains it further"
    return f"it is a tuning: `dreamlift generate {json.dumps(prompt, ensure_ascii=False)} {use}` uses it, {more}"


def shown_prior(name: str) -> str:
    """A prior's name for a record: of a local file or folder without its place on this machine; the revision identifies it."""
    return Path(name).name if Path(name).is_absolute() else name


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue a tuning with other settings. Raises ValueError with the first one that differs."""
    for name in (key for key in now if key not in FREE):
        old, new = before.get(name), json.loads(json.dumps(now[name]))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(key for key in (*new, *old) if old.get(key) != new.get(key))
            old, new = old.get(name), new.get(name)
        short = (f"{name} {_short(old)}, now {_short(new)}") if not isinstance(new, (list, dict)) else f"other {name}"
        raise ValueError(f"{folder} was tuned with {short}: the same settings continue it, or give --out another folder")


def _short(value: Any) -> str:
    return json.dumps(value)[:60]


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record. Raises OSError."""
    atomic_write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def write_card(folder: Path, record: dict[str, Any], learned_variance: bool = False) -> None:
    """Write the model card. Raises OSError."""
    atomic_write_text(folder / "README.md", card(record, folder.name, learned_variance))


def card(record: dict[str, Any], name: str, learned_variance: bool = False) -> str:
    """The model card of a tuning in the folder ``name``.

    Args:
        record: of a stage of a run also ``stage``, its number; ``source``, the pictures that it was tuned on; ``begun``, the
            weights of the run that it went on from; ``under``, the prior that the files are used with.
        learned_variance: the prior predicts a variance, which the tuning does not train.
    """
    settings, prior = record["settings"], record["prior"]
    whole, prompt, word_only = settings["all_weights"], record["prompt"], settings.get("word_only", False)
    under = record.get("under", prior)
    prior_option = "" if whole or under == "toybox" else f" --prior {under}"
    use = f"--prior {name}" if whole else f"--lora {name}{prior_option}"
    if word_only:
        tags, told, kept = "textual_inversion, text-to-3d", _inversion(record, prior), "`checkpoint/` is"
    else:
        tags = f"dreambooth, text-to-3d{'' if whole else ', lora'}"
        told, kept = _dreambooth(record, prior), "`checkpoint/` and `class/` are"
    files = "".join(f"- `{file}`\n" for file in record["files"])
    rest = f"`training.json` has all settings. {kept} needed only to continue the training."
    if "stage" in record:
        rest = f"Stage {record['stage']} of a run left these weights; the run's `config.yaml` has all settings."
    return f"""---
base_model: {prior}
library_name: diffusers
tags: [{tags}]
---

# {prompt}

{told}

```bash
dreamlift generate "{prompt}" {use}
dreamlift generate "{prompt} on a wooden box" {use}
```

{files}{_in_diffusers(record["files"], name, learned_variance)}
{rest}
The license is that of the base model and of the photos.
"""


def _in_diffusers(files: list[str], name: str, learned_variance: bool) -> str:
    """What diffusers needs beside the files, or does not read of them."""
    told = (
        f"\ndiffusers reads these files, except `{T5_LORA_FILE}`, which dreamlift alone reads.\n"
        if T5_LORA_FILE in files
        else ""
    )
    if not learned_variance or LORA_FILE not in files:
        return told
    return f"""{told}
In diffusers, a fixed variance replaces the one that the prior predicts, since the tuning does not train it:

```python
pipe.load_lora_weights("{name}")
pipe.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config, variance_type="fixed_small")
```
"""


def _dreambooth(record: dict[str, Any], prior: str) -> str:
    word, kind, settings = (record[key] for key in ("word", "class", "settings"))
    what = "all weights of the U-Net" if settings["all_weights"] else \
        f"a LoRA of rank {settings['rank']} ({settings['targets']} weights)"  # fmt: skip
    what += ", and the text encoder" if settings["text_encoder"] else ""
    taught = f"`{word}` has a learnt vector" if settings["learn_word"] else f"`{word}` is spelled with known tokens"
    kept = f"Pictures of {article(kind)} {kind} keep the class as it was (weight {settings['class_weight']:g})."
    kept = kept if settings["class_weight"] else "No class pictures were used."
    begun = f" It went on from the weights `{record['begun']}` of the same run." if record.get("begun") else ""
    return f"""A fine-tuning of the prior `{prior}` on {_pictures(record)} by DreamBooth
([Ruiz et al. 2023](https://arxiv.org/abs/2208.12242)): {what}; {record["finished_steps"]} steps.{begun}
{kept}
{taught}."""


def _inversion(record: dict[str, Any], prior: str) -> str:
    init = record.get("init") or record["settings"].get("word_init")
    began = f" It began as `{init}`." if init else ""
    return f"""The word `{record["word"]}` for the prior `{prior}`, learnt from {_pictures(record)} by textual inversion
([Gal et al. 2022](https://arxiv.org/abs/2208.01618)) in {record["finished_steps"]} steps.{began}
No weight of the prior was changed."""


def _pictures(record: dict[str, Any]) -> str:
    """What a prior was tuned on."""
    count, source = len(record["photos"]), record.get("source", "photos")
    photos = f"{count} photos" if count > 1 else "a photo"
    made = "pictures that an earlier stage of the run had made"
    return {"photos": photos, "handover": made, "both": f"{photos} and {made}"}[source]
