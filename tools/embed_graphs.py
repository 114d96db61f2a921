"""Write the graphs of the embedded priors' networks to dreamlift/weights/graphs, for dreamlift.priors.engine.

    python tools/embed_graphs.py

Needed again only when a network's architecture or the traced call changes; graphs do not depend on the weights' values.
"""

import transformers

from dreamlift.priors.engine import GRAPHS, call_network, graph_key, read_weights, trace
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.quick_text import call_encoder, example

if __name__ == "__main__":
    GRAPHS.mkdir(exist_ok=True)
    for old in GRAPHS.glob("*.graph"):
        old.unlink()
    for name in ("toybox", "toybox-latent"):
        network = load_prior(name).network  # pyright: ignore[reportAttributeAccessIssue]
        folder = network.parts.folder
        kind = getattr(transformers, network.parts.architecture("text_encoder"))
        encoder = kind.from_pretrained(folder / "text_encoder").float().eval()
        for part, module, call, inputs in (
            ("unet", network.unet, call_network, network.example()),
            ("text_encoder", encoder, call_encoder, example(network.parts)),
        ):  # fmt: skip
            path = GRAPHS / f"{graph_key(network.parts.config(part), read_weights(folder / part), inputs)}.graph"
            path.write_bytes(trace(module, call, inputs))
            print(f"{name}, {part}: {path.name}, {path.stat().st_size:,} bytes")
