"""Export of a trained network: ONNX, a program of torch.export, or weights in safetensors, each one file."""

import contextlib
import copy
import dataclasses
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mmpareto.analysis.finished_run import JOINT_HEAD
from mmpareto.analysis.trained import METADATA, Trained, load
from mmpareto.errors import InputError, one_line
from mmpareto.files import atomic_path, remove_leftovers
from mmpareto.training.checkpoints import FORMAT
from mmpareto.training.settings import portable_settings

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
METADATA_FILE = f"{METADATA}.json"  # inside a .pt2 file
LARGEST_ONNX = 2_000_000_000  # bytes of weights that fit into one file
BATCHES = (2, 1, 3)  # exported with the first size, and checked with all
TOLERANCE = 1e-3

Inputs: TypeAlias = dict[str, Tensor]
Network: TypeAlias = Callable[[Inputs], Inputs]


class LogitsByHead(nn.Module):
    """The network as a function of tensors alone: {modality: (B, …)} → {head: logits (B, C)}."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.network = trained.model
        self._heads = trained.heads

    def forward(self, inputs: Mapping[str, Tensor]) -> Inputs:
        """The logits of "joint" and of every unimodal head that was trained."""
        return self._heads(self.network(inputs))


def export(trained: Trained, to: str, out: Path, shapes: Mapping[str, Sequence[int]]) -> float | None:
    """Write the network to the file `out`.

    The inputs are those that `Trained.preprocess` returns, float32 with any batch size. The file also holds `metadata`,
    as JSON: among the metadata properties of ONNX, in the extra file mmpareto.json of a .pt2 file, and in the header of
    safetensors.

    Arguments:
        to: a key of `SUFFIXES`.
        shapes: modality → shape of its input without the batch dimension, for the modalities that the exported network
            takes.

    Returns:
        The largest difference between the logits of the exported network and of this one, on random inputs of several
        batch sizes, as a fraction of the largest logit; None if it was not measured: onnxruntime is not installed.

    Raises:
        InputError: an optional package is missing, the network cannot be exported, the exported one differs, or the
            file cannot be written.
    """
    if to == "safetensors" and len(shapes) < len(trained.modalities):
        raise InputError("safetensors holds the weights of the whole network; leave --without out.")
    model = LogitsByHead(dataclasses.replace(trained, model=copy.deepcopy(trained.model).cpu())).eval()
    content = metadata(trained, shapes, to)
    generator = torch.Generator().manual_seed(0)
    batches = [
        {name: torch.randn(size, *shape, generator=generator) for name, shape in shapes.items()} for size in BATCHES
    ]
    try:
        remove_leftovers(out.parent, [out.name])
        with atomic_path(out) as temporary:
            exported = WRITERS[to](model, content, batches[0], temporary)
            difference = None if exported is None else _difference(model, exported, batches)
            if difference is not None and not difference < TOLERANCE:
                raise InputError(
                    f"{trained.path}, exported to {to}, gives other logits: by {difference:.1%} of the largest one; "
                    "nothing was written."
                )
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror or error}); give another --out.") from error
    return difference


def metadata(trained: Trained, shapes: Mapping[str, Sequence[int]], to: str) -> dict[str, Any]:
    """Description of the network for users of the file; with the weights, all that `load` needs."""
    inputs = {name: {"name": _input_name(name, to), "shape": ["batch", *shape]} for name, shape in shapes.items()}
    return {
        "format": FORMAT,
        "inputs": inputs,
        "outputs": trained.tasks or [JOINT_HEAD, *(shapes if trained.unimodal_heads != "untrained" else [])],
        "classes": trained.description.get("classes"),
        "task": trained.task,
        "normalisation": trained.description.get("normalisation", {}),
        "notes": trained.notes,
        "warning": trained.banner,
        "dataset": trained.dataset,
        "data": trained.description,
        "data_folder": str(Path("data") / trained.dataset),  # that of the training may name one machine's folders
        "input_shapes": {name: list(shape) for name, shape in shapes.items()},
        "network": trained.architecture,
        "method": trained.method,
        "settings": portable_settings(trained.settings),
        "unimodal_heads": trained.unimodal_heads,
        "heads_trained": trained.unimodal_heads == "trained",
        "epoch": trained.epoch or 0,
        "selected_on": f"exported from {trained.path.name}",
        "amp": trained.amp,
        "plugins": list(trained.plugins),
    }


def _input_name(modality: str, to: str) -> str:
    """The name of an input; in ONNX, inputs and outputs must not share names, and the outputs are named by head."""
    return f"{modality}_input" if to == "onnx" else modality


@torch.no_grad()
def _difference(model: Network, exported: Network, batches: Sequence[Inputs]) -> float:
    largest = 0.0
    for batch in batches:
        expected, result = model(batch), exported(batch)
        for head, logits in expected.items():
            scale = max(logits.abs().max().item(), 1.0)
            largest = max(largest, (result[head] - logits).abs().max().item() / scale)
    return largest


def _write_onnx(model: LogitsByHead, content: dict[str, Any], example: Inputs, path: Path) -> Network | None:
    _require("ONNX", "onnx", "onnxscript")
    if sum(p.nbytes for p in model.state_dict().values()) > LARGEST_ONNX:
        raise InputError("the weights exceed the 2 GB of an ONNX file; use --to torch_export.")
    names = [one["name"] for one in content["inputs"].values()]
    with _readable_errors("onnx"):
        program = torch.onnx.export(
            _program(model, example),
            (example,),
            input_names=names,
            output_names=content["outputs"],
            dynamic_shapes=({name: {0: "batch"} for name in example},),  # the name of that dimension
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[METADATA] = json.dumps(content)
        program.save(path, external_data=False)
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(batch: Inputs) -> Inputs:
        given = {name: batch[modality].numpy() for name, modality in zip(names, content["inputs"], strict=True)}
        return {
            name: torch.from_numpy(values)
            for name, values in zip(content["outputs"], session.run(content["outputs"], given), strict=True)
        }

    return run


def _write_torch_export(model: LogitsByHead, content: dict[str, Any], example: Inputs, path: Path) -> Network:
    with _readable_errors("torch_export"):
        buffer = io.BytesIO()  # given a path, PyTorch does not say why it cannot write
        torch.export.save(_program(model, example), buffer, extra_files={METADATA_FILE: json.dumps(content)})
        path.write_bytes(buffer.getvalue())
        return torch.export.load(path).module()


def _write_safetensors(model: LogitsByHead, content: dict[str, Any], example: Inputs, path: Path) -> Network:
    _require("safetensors", "safetensors")
    from safetensors.torch import save

    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.network.state_dict().items()}
    path.write_bytes(save(tensors, metadata={METADATA: json.dumps(content)}))  # `save_file` does not raise an OSError
    return LogitsByHead(load(path)).eval()


WRITERS: dict[str, Callable[[LogitsByHead, dict[str, Any], Inputs, Path], Network | None]] = {
    "onnx": _write_onnx,
    "torch_export": _write_torch_export,
    "safetensors": _write_safetensors,
}


def _program(model: LogitsByHead, example: Inputs) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (example,), dynamic_shapes=({name: {0: batch} for name in example},))


def _require(what: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(f"exporting to {what} needs the package {package}: pip install {' '.join(packages)}.")


@contextlib.contextmanager
def _readable_errors(to: str) -> Iterator[None]:
    """Context of an export: the exporters raise errors of many types, and warn about their own insides."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:
        reason = one_line(str(error).strip().partition("\n")[0] or type(error).__name__)
        raise InputError(
            f"the network cannot be exported to {to} ({reason}). In a module of your own, the batch size must not "
            "become a number: x.shape[0], not len(x). --to safetensors works with any module."
        ) from error
    finally:
        logging.disable(logging.NOTSET)
