"""Accuracies that others have published, each with its source: published.json, looked up by what a run is."""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping
from decimal import Decimal

from mmpareto.data import DATASETS
from mmpareto.training.method_options import read_options
from mmpareto.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class Published:
    """An accuracy as a source gives it, in percent, with the digits that it has there.

    Attributes:
        dataset, method: registered names.
        n_classes: where the data set can be cut into several numbers of classes; else None.
        modality: of `unimodal`; else None.
        std: standard deviation over seeds, where it is given.
        approximate: the source says "about".
        unimodal: modality → its accuracy.
        name, source, protocol: where it stands, in short and in full, and on what its epoch was chosen.
        note: what differs from this project's defaults.
    """

    dataset: str
    method: str
    accuracy: Decimal
    name: str
    source: str
    protocol: str
    n_classes: int | None = None
    modality: str | None = None
    std: Decimal | None = None
    approximate: bool = False
    unimodal: Mapping[str, Decimal] = dataclasses.field(default_factory=dict, hash=False)
    note: str = ""

    @property
    def text(self) -> str:
        """Such as "75.13", "69.0 ± 2.5" or "about 69"."""
        spread = "" if self.std is None else f" ± {self.std}"
        return f"{'about ' if self.approximate else ''}{self.accuracy}{spread}"

    @property
    def footnote(self) -> str:
        """Source, protocol, and what else is to be known; figures of one source and note share it."""
        return f"{self.source}. Protocol: {self.protocol}." + (f" {self.note}." if self.note else "")


@functools.cache
def all_published() -> tuple[Published, ...]:
    """Every published figure."""
    text = importlib.resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_float=Decimal, parse_int=int)
    return tuple(
        Published(**figure | {"accuracy": Decimal(figure["accuracy"])} | content["sources"][figure["source"]])
        for figure in content["figures"]
    )


def published_of(settings: Settings) -> list[Published]:
    """The figures that a run with these settings may be laid beside, in the order of the file.

    They are of concatenation, of networks from scratch, and of the method as it is by default or in one of its
    variants: any other fusion, pretrained weights or option, such as a γ of its own, has none. What else differs
    between a source and a run (epochs, frames, learning rate) is the source's to say.
    """
    default = getattr(DATASETS[settings.dataset], "default_classes", None)
    classes = settings.n_classes or default
    modality = settings.options.get("modality") if settings.method == "unimodal" else None
    if settings.fusion != "concat" or settings.pretrained is not None or not _as_published(settings):
        return []
    return [
        figure
        for figure in all_published()
        if (figure.dataset, figure.method, figure.modality) == (settings.dataset, settings.method, modality)
        and (figure.n_classes is None or figure.n_classes == classes)
    ]


def _as_published(settings: Settings) -> bool:
    if settings.method == "unimodal":
        return True
    _, usual = read_options(settings.method, settings.variant, [], [])
    return settings.options == usual
