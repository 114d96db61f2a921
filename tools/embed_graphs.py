"""Write the graphs of the embedded priors' networks to dreamlift/weights/graphs, for dreamlift.priors.engine.

    python tools/embed_graphs.py

Needed again only when a network's architecture or the traced call changes; graphs do not depend on the weights' values.
"""

from dreamlift.priors.engine import GRAPHS, graph_key, trace
from dreamlift.priors.kinds import load_prior

if __name__ == "__main__":
    GRAPHS.mkdir(exist_ok=True)
    for old in GRAPHS.glob("*.graph"):
        old.unlink()
    for name in ("toybox", "toybox-latent"):
        network = load_prior(name).network  # pyright: ignore[reportAttributeAccessIssue]
        inputs = network.example()
        path = GRAPHS / f"{graph_key(network.unet, inputs)}.graph"
        path.write_bytes(trace(network.unet, inputs))
        print(f"{name}: {path.name}, {path.stat().st_size:,} bytes")
