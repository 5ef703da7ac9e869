"""Types of what a run's files hold, checked by pydantic: files of other people may hold anything."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, Required

import torch
from pydantic import AfterValidator as Check
from pydantic import ConfigDict, Field, StrictBool
from torch import Tensor
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.data.loading.options import FEATURE_FILES

LARGEST = 100_000  # channels, classes or length of an input: bounds the memory of a network that a file describes
LARGEST_INT = 2**53
MOST_PIXELS = 1 << 28  # of the frames of a sample
DEEPEST = 20  # levels of lists and dicts

Size = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST_INT)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Shapes = dict[str, list[Size] | tuple[Size, ...]]


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Mapping):
        inside = [*value.values()] if all(isinstance(key, str) for key in value) else [value]
    elif isinstance(value, list | tuple):
        inside = [*value]
    else:
        return value is None or isinstance(value, float | str) or (isinstance(value, int) and abs(value) <= LARGEST_INT)
    return depth < DEEPEST and all(_is_plain(one, depth + 1) for one in inside)


def _plain(value: Any) -> Any:
    if not _is_plain(value):
        raise ValueError("must be made of numbers, texts, lists and dicts")
    return value


Plain = Annotated[Any, Check(_plain)]
PlainDict = Annotated[dict[str, Any], Check(_plain)]


def _holds_numbers(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ValueError("must be an ordinary tensor")
    return tensor


NumberTensor = Annotated[Tensor, Check(_holds_numbers)]
Weights = dict[str, NumberTensor]
ALLOW = ConfigDict(extra="allow", arbitrary_types_allowed=True, strict=True)
FORBID = ConfigDict(extra="forbid", strict=True)


def _fits_memory(description: Any) -> Any:
    if description.get("frames", 1) * description.get("image_size", 1) ** 2 > MOST_PIXELS:
        raise ValueError("frames of more pixels than a sample may have")
    return description


def _known_feature(audio: str) -> str:
    if audio not in FEATURE_FILES:
        raise ValueError(f"must be one of {', '.join(FEATURE_FILES)}")
    return audio


def _accuracies(line: Any) -> Any:
    """Accuracies are fractions, or None where they were not measured."""
    for key, value in line.items():
        if key.partition("_")[0] == "acc" and value is not None and not _is_fraction(value):
            raise ValueError(f"{key[:80]} must be a fraction")
    return line


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


class Description(TypedDict, total=False):
    """Description of the inputs, by which other samples are treated in the same way (`PreparedDataset`)."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    audio: Annotated[str, Check(_known_feature)]
    frames: Size
    frame_choice: str
    image_size: Size
    audio_frames: Size | None
    audio_pool: list[Size] | tuple[Size, ...]
    n_classes: Size | None
    channels: Required[dict[str, Size]]
    classes: list[str]
    tasks: list[str]
    task: str
    label_scale: Annotated[list[Number], Field(min_length=2, max_length=2)]
    fps: Size | None
    normalisation: dict[str, Annotated[list[list[Number]], Field(min_length=2, max_length=3)]]
    arrays: PlainDict


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
    data: Required[Annotated[Description, Check(_fits_memory), Check(_plain)]]
    dataset: Required[str]
    data_folder: Required[str]
    epoch: Required[Count]
    selected_on: Required[str]
    heads_trained: Required[StrictBool]
    method: str
    objective: str
    amp: Literal["bf16", "fp16"] | None
    probe: dict[str, Weights]
    probe_result: PlainDict
    settings: PlainDict
    notes: list[str]
    input_shapes: Shapes
    plugins: list[str]


class _Line(TypedDict, total=False):
    __pydantic_config__ = ALLOW  # type: ignore[misc]
    epoch: Required[Annotated[int, Field(ge=1, le=LARGEST_INT)]]


EpochLine = Annotated[_Line, Check(_plain)]
"""The metrics of an epoch: a line of metrics.jsonl."""
ChosenLine = Annotated[EpochLine, Check(_accuracies)]
"""The metrics of an epoch that a run is judged by."""


class Prepared(TypedDict, total=False):
    """Entries of a data set's prepared.json that a run's files repeat."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    title: str
    task: str
    split: str
    modalities: dict[str, Any] | list[str]
    tasks: dict[str, Any] | list[str]
    samples: dict[str, dict[str, Any]]
    bayes_accuracy: dict[str, Number]


class RunData(TypedDict, total=False):
    """The data of a run (`training.data.Data.record`)."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    folder: str
    fingerprint: str
    clips: dict[str, Count]
    available: dict[str, Count]
    prepared: Annotated[Prepared, Check(_plain)] | None


class Config(TypedDict, total=False):
    """Entries of config.json; `settings.whole_arguments` checks the arguments."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    arguments: Required[dict[str, Any]]
    data: RunData
    git_commit: str | None
    versions: dict[str, str | None]
    resumed: Annotated[list[Any], Check(_plain)]


class Probe(TypedDict):
    """Samples that linear probes were fitted to."""

    samples: Count
    available: Count


class Patience(TypedDict):
    """Why a run stopped early."""

    patience: Count


class Summary(TypedDict, total=False):
    """Entries of summary.json."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    name: str
    data: RunData
    protocol: str
    last: ChosenLine
    best_val: ChosenLine | None
    best_val_reason: str
    best_test: ChosenLine | None
    best_from_epoch: Count
    stopped_early: Patience
    probe: Probe
    unimodal_note: str
    warning: str


class Means(TypedDict):
    """State of `meters.Meter`."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    names: list[str]
    sums: NumberTensor | None
    weight: Annotated[Number, Field(ge=0)]


class TrainingState(TypedDict):
    """Further entries of last.pt, from which a run continues (`loop.Trainer.state_dict`)."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    optimizer: dict[str, Any]
    scaler: dict[str, Number]
    method_state: dict[str, Any]
    random_state: dict[str, Any]
    epoch: Annotated[int, Field(ge=1)]
    steps: Count
    earlier_steps: NotRequired[Count]
    seconds: Number
    waited: Number
    meter: Means
    history: list[EpochLine]


REQUIRED = tuple(name for name in Checkpoint.__annotations__ if name in Checkpoint.__required_keys__)
