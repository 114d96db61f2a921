"""Write the graphs of the embedded priors' networks to dreamlift/weights/graphs, for dreamlift.priors.engine.

    python tools/embed_graphs.py

Needed again only when a network's architecture or the traced call changes; graphs do not depend on the weights' values.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers

from dreamlift.priors import quick_text
from dreamlift.priors.engine import GRAPHS, call_network, graph_key, stored_weights, trace
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.quick_text import call_encoder
from dreamlift.priors.zero123 import encoding
from dreamlift.priors.zero123.encoding import call_image_encoder


def networks(prior: Any) -> Iterator[tuple[str, Any, Callable, dict[str, torch.Tensor]]]:
    """The parts of a prior: their folders, modules, calls and example inputs."""
    parts = prior.parts
    yield "unet", prior.network.unet, call_network, prior.network.example()
    for part, call, inputs in (
        ("text_encoder", call_encoder, quick_text.example), ("image_encoder", call_image_encoder, encoding.example),
    ):  # fmt: skip
        if parts.has(part):
            kind = getattr(transformers, parts.architecture(part))
            yield part, kind.from_pretrained(parts.folder / part).float().eval(), call, inputs(parts)


if __name__ == "__main__":
    GRAPHS.mkdir(exist_ok=True)
    for old in GRAPHS.glob("*.graph"):
        old.unlink()
    for name in ("toybox", "toybox-latent", "toybox-geometry", "toybox-view"):
        prior: Any = load_prior(name)
        for part, module, call, inputs in networks(prior):
            weights = stored_weights(prior.parts.folder / part)
            path = GRAPHS / f"{graph_key(prior.parts.config(part), weights, inputs)}.graph"
            path.write_bytes(trace(module, call, inputs))
            print(f"{name}, {part}: {path.name}, {path.stat().st_size:,} bytes")
