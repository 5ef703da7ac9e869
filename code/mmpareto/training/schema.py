"""Types of what checkpoints and config.json hold, checked by pydantic: files of other people may hold anything."""

from typing import Annotated, Any, NotRequired, Required

import torch
from pydantic import AfterValidator as Check
from pydantic import ConfigDict, Field, StrictBool
from torch import Tensor
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

LARGEST = 100_000  # channels, classes or length of an input: bounds the memory of a network that a file describes

Size = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0)]
Shapes = dict[str, list[Size] | tuple[Size, ...]]


def _holds_numbers(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ValueError("must be an ordinary tensor")
    return tensor


Weights = dict[str, Annotated[Tensor, Check(_holds_numbers)]]
ALLOW = ConfigDict(extra="allow", arbitrary_types_allowed=True, strict=True)
FORBID = ConfigDict(extra="forbid", strict=True)


class Network(TypedDict, total=False):
    """Arguments of `models.building.build_network`."""

    __pydantic_config__ = FORBID  # type: ignore[misc]
    channels: Required[dict[str, Size]]
    n_classes: Required[Size]
    encoder: str | dict[str, str]
    fusion: str | None
    cosine_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    heads: str
    blocks: str | None
    projections: Size | None
    init: str
    tasks: list[str] | tuple[str, ...]
    input_shapes: Shapes


class Checkpoint(TypedDict, total=False):
    """Entries of best.pt and last.pt; those of older files, or of some methods, may lack what is not required."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    network: Required[Network]
    model: Required[Weights]
    data: Required[dict[str, Any]]
    dataset: Required[str]
    data_folder: Required[str]
    epoch: Required[Count]
    selected_on: Required[str]
    heads_trained: Required[StrictBool]
    method: str
    objective: str
    amp: str | None
    probe: dict[str, Weights]
    probe_result: dict[str, Any]
    settings: dict[str, Any]
    input_shapes: Shapes
    plugins: list[str]


class TrainingState(TypedDict):
    """Further entries of last.pt, from which a run continues (`loop.Trainer.state_dict`)."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    method_state: dict[str, Any]
    random_state: dict[str, Any]
    epoch: Annotated[int, Field(ge=1)]
    steps: Count
    earlier_steps: NotRequired[Count]
    seconds: float
    waited: float
    meter: dict[str, Any]
    history: list[dict[str, Any]]


REQUIRED = tuple(name for name in Checkpoint.__annotations__ if name in Checkpoint.__required_keys__)
