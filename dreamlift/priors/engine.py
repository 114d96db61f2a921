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
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dreamlift.priors.files.folder import read_weights, standard_files
from dreamlift.system.files import atomic_write_bytes, cache_folder
from dreamlift.system.startup import quiet_onnxruntime

Engine = Literal["auto", "torch", "onnx"]
UsedEngine = Literal["torch", "onnx"]
GRAPHS = Path(__file__).parents[1] / "weights" / "graphs"  # of the embedded priors
OPSET = 17
FORMAT = 1  # raised whenever the traced calls change
PREFIX = "network."  # of a weight's name in a graph
VARYING = ("states",)  # inputs whose second axis varies: the number of text states
INSTALL = 'pip install "dreamlift[fast]"'


def available(engine: Engine, device: torch.device) -> UsedEngine:
    """The engine of a run on ``device``: "auto" is ONNX Runtime on a CPU where it is installed, and torch otherwise.

    Raises:
        ValueError: an unknown engine; "onnx" on another device, or without ONNX Runtime.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"unknown engine {engine!r}; accepted: {', '.join(get_args(Engine))}")
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
    pooled: Tensor | None = None, sizes: Tensor | None = None, labels: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The output of a diffusers U-Net ``(B, C, h, w)``, of the input's precision.

    Args:
        sample: ``(B, C, h, w)``. timestep: integers ``(B,)``. states: text states ``(B, L, D)``.
        camera: ``(B, 8)``, the input of a camera-conditioned network.
        pooled: ``(B, P)`` and sizes: ``(B, 6)``, pooled text states and picture sizes of Stable Diffusion XL.
        labels: ``(B, ...)``, the input of a class embedding.
    """
    added = {} if pooled is None else {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return unet(sample, timestep, encoder_hidden_states=states, timestep_cond=camera, class_labels=labels, **added).sample


class OnnxNetwork:
    """An ONNX Runtime session of a network.

    Its threads are as many as torch has at that time, and they sleep while they wait. Equal calls give equal bits.

    Args:
        graph: of :func:`find_graph` or :func:`trace`.
        weights: the network's, float32 on the CPU; they must not be changed afterwards.
        inputs: an example of the call's tensors; later calls have the same names and shapes, except for the number B of entries
            and the axes that vary (:data:`VARYING`).

    Raises:
        EngineError: a weight is missing, or ONNX Runtime does not support the network's operations.
    """

    def __init__(self, graph: tuple[list[str], bytes], weights: Mapping[str, Tensor], inputs: dict[str, Tensor]) -> None:
        quiet_onnxruntime()
        import onnxruntime as ort

        names, model = graph
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only
        try:
            self.weights = [weights[name.removeprefix(PREFIX)].detach().contiguous().numpy() for name in names]
        except KeyError as error:
            raise EngineError(f"the network has no weight {error}") from None
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in self.weights]  # not copied on a CPU
        options.add_external_initializers(names, values)
        try:
            self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no common base
            raise EngineError(f"ONNX Runtime does not run this network ({_line(error)})") from error
        self.shapes = {name: value.shape[1:] for name, value in inputs.items()}

    def fits(self, inputs: dict[str, Tensor]) -> bool:
        """Whether these inputs have the names and shapes that the network was traced with."""
        return inputs.keys() == self.shapes.keys() and all(
            inputs[name].shape[1:] == shape for name, shape in self.shapes.items() if name not in VARYING
        )

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """The network's output, without gradients."""
        fed = {name: value.detach().contiguous().numpy() for name, value in inputs.items()}
        return torch.from_numpy(self.session.run(None, fed)[0])


class EngineError(RuntimeError):
    """A network that ONNX Runtime cannot run."""


class _Traced(nn.Module):
    """``call(network, **inputs)`` with positional arguments, as the tracer needs them."""

    def __init__(self, network: nn.Module, call: Callable[..., Tensor], names: list[str]) -> None:
        super().__init__()
        self.network, self.call, self.names = network, call, names

    def forward(self, *values: Tensor) -> Tensor:
        return self.call(self.network, **dict(zip(self.names, values, strict=True)))


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters and buffers by name; they share its memory."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a network's folder in float32, from the files that diffusers and transformers read.

    Raises:
        ValueError: there are no such files, or they are damaged.
    """
    if not standard_files(folder, torch.float32):
        raise ValueError(f"{folder} has no weights with a standard name")
    return {name: value.float() for name, value in read_weights(folder, torch.float32).items()}


def graph_key(config: Mapping[str, Any], weights: Mapping[str, Tensor], inputs: dict[str, Tensor]) -> str:
    """Identifies the graph of a network that its config describes, by the config and by the shapes of weights and inputs."""
    # The precision in which a network is stored is no part of its graph, which is always traced in float32.
    public = {
        name: value for name, value in config.items() if not name.startswith("_") and name not in ("dtype", "torch_dtype")
    }
    shapes = {name: list(value.shape) for name, value in weights.items()}
    given = {
        name: [str(value.dtype), *(value.shape[2:] if name in VARYING else value.shape[1:])] for name, value in inputs.items()
    }
    text = json.dumps([FORMAT, OPSET, public, shapes, given], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def find_graph(key: str) -> tuple[list[str], bytes] | None:
    """The names of a graph's weights, and the graph, from the package or the user's cache; None: it is in neither."""
    for folder in (GRAPHS, cache_folder("graphs")):
        try:
            return unpack((folder / f"{key}.graph").read_bytes())
        except (OSError, ValueError, zlib.error):  # it is not there, or damaged and made again
            continue
    return None


def ready_session(folder: Path, config: Mapping[str, Any], inputs: dict[str, Tensor]) -> OnnxNetwork | None:
    """The session of the network in ``folder`` without its class; None: other weight files than the usual ones, or no graph.

    Raises:
        EngineError: ONNX Runtime does not take the graph.
    """
    try:
        weights = stored_weights(folder)
    except ValueError:
        return None
    graph = find_graph(graph_key(config, weights, inputs))
    return None if graph is None else OnnxNetwork(graph, weights, inputs)


def unpack(packed: bytes) -> tuple[list[str], bytes]:
    """The names and the graph of :func:`trace`. Raises ValueError or zlib.error for other bytes."""
    names, _, graph = zlib.decompress(packed).partition(b"\n")
    return json.loads(names), graph


def traced_graph(
    key: str, network: nn.Module, call: Callable[..., Tensor], inputs: dict[str, Tensor]
) -> tuple[list[str], bytes]:  # fmt: skip
    """A new graph, which is also written to the cache. Raises EngineError.

    Only for a network that was built from its config: one in memory may have been changed in ways that no key shows, such as
    hooks, FreeU or an adapter's scale.
    """
    packed, folder = trace(network, call, inputs), cache_folder("graphs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(folder / f"{key}.graph", packed)
    except OSError as error:  # a full disk costs the next run a few seconds
        logging.getLogger(__name__).info("the network's graph is not cached: %s", error)
    return unpack(packed)


def trace(network: nn.Module, call: Callable[..., Tensor], inputs: dict[str, Tensor]) -> bytes:
    """The names of the weights and the ONNX graph of ``call(network, **inputs)``, packed. Raises EngineError."""
    try:
        import onnx
    except ImportError:
        raise EngineError(f"this network's graph is not cached, and tracing it needs the package onnx: {INSTALL}") from None
    names, buffer, model = list(inputs), io.BytesIO(), _Traced(network, call, list(inputs))
    # Only this wrapper is in training mode: otherwise, the exporter would take weights with equal values, such as those of new
    # normalization layers, for one weight.
    model.training = True
    axes = {name: {0: "entries", **({1: "tokens"} if name in VARYING else {})} for name in [*names, "out"]}
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
    traced = onnx.load_from_string(buffer.getvalue())
    # Without weights, the tracer makes inputs of them. ONNX Runtime folds and rearranges only weights that are initializers.
    given, weights = list(traced.graph.input), weights_of(network)
    del traced.graph.input[:]
    header = []
    for each in given:
        if each.name not in names:
            held = traced.graph.initializer.add()
            held.name, held.data_type, held.data_location = each.name, onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
            if each.name.removeprefix(PREFIX) not in weights:
                raise EngineError(f"this network cannot be traced (its graph has an unknown input {each.name})")
            held.dims.extend(weights[each.name.removeprefix(PREFIX)].shape)
            held.external_data.add(key="location", value="torch's memory")
            header.append(each.name)
        else:
            traced.graph.input.append(each)
    return zlib.compress(json.dumps(header).encode() + b"\n" + traced.SerializeToString(), 9)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
