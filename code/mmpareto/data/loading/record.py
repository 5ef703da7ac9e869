"""Types of the entries of prepared.json, checked by pydantic: folders of other people may hold anything."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class Record(TypedDict, total=False):
    """prepared.json of any data set, which may have further entries."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    dataset: str
    title: str
    audio: list[str]
    fps: int | None
    clips: dict[str, int]
    tasks: list[str]
    modalities: list[str] | dict[str, dict[str, Any]]


class ArrayEntry(TypedDict):
    """A modality of the data sets of arrays."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    kind: Literal["vector", "sequence", "image", "map"]
    shape: Annotated[list[int], Field(min_length=1, max_length=3)]
    normalisation: NotRequired[Annotated[list[list[float]], Field(min_length=2, max_length=2)]]
    standardised: NotRequired[bool]


def _with_positive_std(scale: list[float]) -> list[float]:
    if not scale[1] > 0:
        raise ValueError("the standard deviation must be positive")
    return scale


class ArrayRecord(TypedDict, total=False):
    """Further entries of prepared.json of the data sets of arrays."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    modalities: dict[str, ArrayEntry]
    task: Literal["classification", "multilabel", "regression"]
    label_scale: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_with_positive_std)]
