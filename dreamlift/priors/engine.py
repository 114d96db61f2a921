"""Who runs a frozen denoising network: torch, or ONNX Runtime, which is about twice as fast on a CPU.

ONNX Runtime (https://onnxruntime.ai, MIT) runs a graph of the network, which torch traces once. The graph holds the network's
operations but no weights: those stay in torch's memory and are given to each session. A graph therefore takes 50 KB, depends on
the architecture alone and is right for any fine-tuned weights or merged LoRAs. The embedded priors' graphs are part of the
package; others are traced once, which needs the package ``onnx``, and kept in the user's cache folder.

Gradients with respect to a network's inputs or weights are computed by torch only.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamlift.system.files import atomic_write_bytes, cache_folder

Engine = Literal["auto", "torch", "onnx"]
UsedEngine = Literal["torch", "onnx"]
GRAPHS = Path(__file__).parents[1] / "weights" / "graphs"  # of the embedded priors
OPSET = 17
FORMAT = 1  # raised whenever the traced calls change
INSTALL = 'pip install "dreamlift[fast]"'


def available(engine: Engine, device: torch.device) -> UsedEngine:
    """The engine of a run on ``device``: "auto" is ONNX Runtime on a CPU where it is installed, and torch otherwise.

    Raises:
        ValueError: "onnx" on another device, or without ONNX Runtime.
    """
    installed = find_spec("onnxruntime") is not None
    if engine == "auto":
        return "onnx" if installed and device.type == "cpu" else "torch"
    if engine == "onnx" and device.type != "cpu":
        raise ValueError(f"--engine onnx runs networks on the CPU, but the run is on {device}: use --engine auto or torch")
    if engine == "onnx" and not installed:
        raise ValueError(f"ONNX Runtime is not installed: {INSTALL}, or use --engine torch")
    return engine


def call_network(
    unet: Any, sample: Tensor, timestep: Tensor, states: Tensor, *, camera: Tensor | None = None,
    pooled: Tensor | None = None, sizes: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The output of a diffusers U-Net ``(B, C, h, w)``, of the input's precision.

    Args:
        sample: ``(B, C, h, w)``. timestep: integers ``(B,)``. states: text states ``(B, L, D)``.
        camera: ``(B, 8)``, the input of a camera-conditioned network.
        pooled: ``(B, P)`` and sizes: ``(B, 6)``, pooled text states and picture sizes of Stable Diffusion XL.
    """
    added = {} if pooled is None else {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return unet(sample, timestep, encoder_hidden_states=states, timestep_cond=camera, **added).sample


class OnnxNetwork:
    """A U-Net's ONNX Runtime session.

    Its threads are as many as torch has at that time, and they sleep while they wait. Equal calls give equal bits.

    Args:
        unet: the network, in float32 on the CPU; its weights must not be freed or changed afterwards.
        inputs: an example of :func:`call_network`'s tensors; later calls have the same names and shapes, except for the
            number of pictures B and of text states L.

    Raises:
        EngineError: the network cannot be traced, or ONNX Runtime does not support its operations.
    """

    def __init__(self, unet: nn.Module, inputs: dict[str, Tensor]) -> None:
        import onnxruntime as ort

        names, graph = graph_of(unet, inputs)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only
        weights = {name: value for name, value in weights_of(unet).items() if name in names}
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]  # not copied on a CPU
        options.add_external_initializers(list(weights), values)
        self.kept = weights, values
        try:
            self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no common base
            raise EngineError(f"ONNX Runtime does not run this network ({_line(error)})") from error
        self.shapes = {name: value.shape[1:] for name, value in inputs.items()}

    def fits(self, inputs: dict[str, Tensor]) -> bool:
        """Whether these inputs have the names and shapes that the network was traced with."""
        return inputs.keys() == self.shapes.keys() and inputs["sample"].shape[1:] == self.shapes["sample"]

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """:func:`call_network`'s output, without gradients."""
        fed = {name: value.detach().contiguous().numpy() for name, value in inputs.items()}
        return torch.from_numpy(self.session.run(None, fed)[0])


class EngineError(RuntimeError):
    """A network that ONNX Runtime cannot run."""


class _Traced(nn.Module):
    """:func:`call_network` with positional arguments, as the tracer needs them."""

    def __init__(self, unet: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.unet, self.names = unet, names

    def forward(self, *values: Tensor) -> Tensor:
        return call_network(self.unet, **dict(zip(self.names, values, strict=True)))


def weights_of(unet: nn.Module) -> dict[str, Any]:
    """The network's weights as arrays that share its memory, by their names in the graph."""
    tensors = [*unet.named_parameters(), *unet.named_buffers()]
    return {f"unet.{name}": value.detach().contiguous().numpy() for name, value in tensors}


def graph_of(unet: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[str], bytes]:
    """The names of the graph's weights, and the graph: the package's, a cached one, or a new one, which is cached.

    Errors as in :class:`OnnxNetwork`.
    """
    name = f"{graph_key(unet, inputs)}.graph"
    for folder in (GRAPHS, cache_folder("graphs")):
        try:
            return unpack((folder / name).read_bytes())
        except (OSError, ValueError, zlib.error):  # it is not there, or damaged and made again
            continue
    packed, folder = trace(unet, inputs), cache_folder("graphs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(folder / name, packed)
    except OSError as error:  # a full disk costs the next run a few seconds
        logging.getLogger(__name__).info("the network's graph is not cached: %s", error)
    return unpack(packed)


def unpack(packed: bytes) -> tuple[list[str], bytes]:
    """The names and the graph of :func:`trace`. Raises ValueError or zlib.error for other bytes."""
    names, _, graph = zlib.decompress(packed).partition(b"\n")
    return json.loads(names), graph


def graph_key(unet: Any, inputs: dict[str, Tensor]) -> str:
    """Identifies a graph: the architecture, and the names and shapes of its inputs and weights, but not their values."""
    config = {name: value for name, value in dict(unet.config).items() if not name.startswith("_")}
    shapes = {name: list(value.shape) for name, value in [*unet.named_parameters(), *unet.named_buffers()]}
    given = {name: [str(value.dtype), *value.shape[1:]] for name, value in inputs.items() if name != "states"}
    processors = sorted({type(each).__name__ for each in getattr(unet, "attn_processors", {}).values()})
    known = [FORMAT, OPSET, config, shapes, given, inputs["states"].shape[-1], processors]
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def trace(unet: nn.Module, inputs: dict[str, Tensor]) -> bytes:
    """The names of the weights and the ONNX graph of the network's operations, packed. Raises EngineError."""
    try:
        import onnx
    except ImportError:
        raise EngineError(f"this network's graph is not cached, and tracing it needs the package onnx: {INSTALL}") from None
    names, buffer, model = list(inputs), io.BytesIO(), _Traced(unet, list(inputs))
    # Only this wrapper is in training mode: otherwise, the exporter would take weights with equal values, such as those of new
    # normalization layers, for one weight.
    model.training = True
    axes = {name: {0: "pictures"} for name in [*names, "out"]}
    axes["states"] = {0: "pictures", 1: "tokens"}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about sizes that are the same in all calls
            torch.onnx.export(
                model, tuple(inputs.values()), buffer, input_names=names, output_names=["out"],  # pyright: ignore
                dynamic_axes=axes, opset_version=OPSET, dynamo=False, export_params=False, do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
            )  # fmt: skip
    except Exception as error:  # the tracer runs the model's own code, which can raise anything
        raise EngineError(f"this network cannot be traced ({_line(error)})") from error
    graph = onnx.load_from_string(buffer.getvalue())
    # Without weights, the tracer makes inputs of them. ONNX Runtime folds and rearranges only weights that are initializers.
    given, weights = list(graph.graph.input), weights_of(unet)
    del graph.graph.input[:]
    for each in given:
        if each.name not in weights:
            graph.graph.input.append(each)
            continue
        held = graph.graph.initializer.add()
        held.name, held.data_type, held.data_location = each.name, onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
        held.dims.extend(weights[each.name].shape)
        held.external_data.add(key="location", value="torch's memory")
    header = json.dumps([held.name for held in graph.graph.initializer if held.external_data])
    return zlib.compress(header.encode() + b"\n" + graph.SerializeToString(), 9)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
