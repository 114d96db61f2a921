"""A network of diffusers or transformers from the settings and weights in its folder.

The weights are read here rather than by ``from_pretrained``, for three reasons: any set of weight files is found, whatever its
precision and number of files; a weight that is missing is an error, where the libraries leave it random; and each error names
its file. A network is built without memory for its weights ("meta"), so that wrong settings are refused before they take any.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.priors.files.folder import read_json, read_weights
from dreamlift.priors.files.tensors import PriorFilesError

MAX_LAYERS = 1000  # of a network's settings: the largest published ones have about 100


def load_network(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    """The network of the class ``kind`` in ``folder``, on the CPU in ``dtype``.

    Raises:
        ValueError: settings or weights are missing or damaged, or do not fit each other; one line names the file.
    """
    config = read_json(folder / "config.json")
    if config.get("quantization_config") is not None:
        raise PriorFilesError(f"{folder} holds quantized weights, which are not supported: fetch the model's plain ones")
    for name, value in config.items():
        if "layers" in name and isinstance(value, int) and value > MAX_LAYERS:
            raise PriorFilesError(f"{folder / 'config.json'} has {name} {value}; accepted: at most {MAX_LAYERS}")
    weights = read_weights(folder, dtype)
    build = _of_transformers if hasattr(kind, "config_class") and kind.config_class is not None else _of_diffusers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network, unknown = build(folder, kind, config, weights, dtype)
    except _UnfitError as error:
        raise PriorFilesError(str(error)) from None
    except Exception as error:  # the libraries raise anything for wrong settings
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        told = f"{folder / 'config.json'} does not describe a {kind.__name__} ({reason}): fetch it again"
        raise PriorFilesError(told) from error
    if unknown:
        told = f"{folder}: {len(unknown)} weights are not part of its network and are left out, such as {min(unknown)}"
        warnings.warn(told, stacklevel=1)
    return network


class _UnfitError(Exception):
    """Weights that do not fit their network."""


Built = tuple[Any, list[str]]  # a network, and the names of weights that are not its own


def _of_diffusers(folder: Path, kind: Any, config: dict[str, Any], weights: dict[str, Tensor], dtype: torch.dtype) -> Built:
    _check_numbers(folder, kind, config)
    with torch.device("meta"):
        network: Any = kind.from_config(config)
    network._fix_state_dict_keys_on_load(weights)  # older names of attention layers
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    _compare(folder, wanted, weights)
    if any(name not in wanted for name, _ in network.named_buffers()):  # computed ones, which meta networks have not
        network = kind.from_config(config).to(dtype)
    known = {name: weights[name].to(dtype, copy=True) for name in wanted}
    network.load_state_dict(known, assign=True)
    return network, [name for name in weights if name not in wanted]


def _of_transformers(folder: Path, kind: Any, config: dict[str, Any], weights: dict[str, Tensor], dtype: torch.dtype) -> Built:
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # its table of missing weights is an error here
    try:
        with torch.device("meta"):  # shapes that are wrong are refused before memory is taken for them
            shapes = {
                name: tuple(value.shape) for name, value in kind(kind.config_class.from_dict(config)).state_dict().items()
            }
        known = {name.removeprefix("text_model."): value for name, value in weights.items()}
        shared = {name: shape for name, shape in shapes.items() if name.removeprefix("text_model.") in known}
        _compare(folder, shared, {name: known[name.removeprefix("text_model.")] for name in shared})
        settings = kind.config_class.from_dict(config)
        network, info = kind.from_pretrained(None, config=settings, state_dict=weights, dtype=dtype, output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
    for name in sorted(info["missing_keys"]):
        raise _UnfitError(f"{folder} lacks the weight {name}: fetch it again")
    return network, list(info["unexpected_keys"])


def _check_numbers(folder: Path, kind: Any, config: dict[str, Any]) -> None:
    """Raise for a setting that is no number, or negative, where the class has one: some are used only in the first call."""
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        usual, value = parameter.default, config.get(name, parameter.default)
        if not isinstance(usual, (int, float)) or isinstance(usual, bool) or isinstance(value, list):
            continue
        numeric = isinstance(value, (int, float)) and (value >= 0 or usual < 0)
        if not numeric and (value is not None or "None" not in str(parameter.annotation)):
            raise _UnfitError(f"{folder / 'config.json'} has {name} {value!r}; accepted: a number such as {usual}")


def _compare(folder: Path, wanted: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> None:
    """Raise for the first weight that is missing or has another shape."""
    for name, shape in wanted.items():
        if name not in weights:
            raise _UnfitError(f"{folder} lacks the weight {name}: fetch it again")
        if tuple(weights[name].shape) != shape:
            stored = tuple(weights[name].shape)
            told = f"the weight {name} has shape {stored}, and config.json asks for {shape}: they are of two models"
            raise _UnfitError(f"{folder}: {told}")
