"""Accuracies that others report (published.json), and the runs that they can be compared with."""

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from mmpareto.data import DATASETS
from mmpareto.files import parse_json
from mmpareto.integration import METHODS
from mmpareto.models.per_modality import is_pretrained
from mmpareto.training.method_labels import name_of, value_text
from mmpareto.training.method_options import read_options
from mmpareto.training.settings import Settings

# Figures on Kinetics-Sounds and on scores of sentiment state their number of classes, or it is not known.
CLASSES = {"cremad": 6, "cgmnist": 10, "modelnet40": 40, "vggsound": 309, "ave": 28, "ucf101": 101}
LISTED_CLASSES = {"kinetics_sounds": 31}
"""Classes of a run's data without `--n_classes`, where figures are of several class sets."""
WITH_AUDIO = ("cremad", "kinetics_sounds", "vggsound", "ave")
"""The data sets of which `--audio` chooses a feature."""

CLASS_SET, WEIGHTS, AUDIO = "class set", "initial weights", "audio feature"

LEARNING_RATE = re.compile(r"learning rate ([\d.]+)(?: in the paper and ([\d.]+) in the code)?")

_NAMES = {
    "resnet18": "ResNet-18",
    "mmtm": "MMTM",
    "cnn": "small CNN",
    "concat": "concatenation",
    "film": "FiLM",
    "fbank": "filterbank",
    "spectrogram": "spectrogram of OGM-GE and DGL",
    "stft": "log-STFT of DGL",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A paper, a repository or a page.

    Attributes:
        name: in a few words, such as "MCR, NeurIPS 2025".
        title, venue, address, authors: `authors` is "" if they are not known.
        note: what a reader has to know about all its figures.
        second_hand: from where the figures were taken, if not from the source itself.
    """

    name: str
    title: str
    venue: str
    address: str
    authors: str = ""
    note: str = ""
    second_hand: str = ""

    @property
    def text(self) -> str:
        """Title, authors, venue and address."""
        return ". ".join(part for part in (self.title, self.authors, self.venue, self.address) if part)


@dataclasses.dataclass(frozen=True)
class Published:
    """An accuracy in percent, with the digits that its source gives. What is None, or "", is not known.

    Attributes:
        dataset, method: registered names; else the source's own.
        repeated: further accuracies that the same command gave.
        approximate: whether the source says "about".
        std, seeds: standard deviation over seeds, and their number.
        correct, n_test: number of test clips that were classified correctly, and of all.
        unimodal: modality → its accuracy alone.
        detail: how the method was changed, such as "encoders frozen".
        n_classes: of the data set.
        variant, options: of the method; options that are not given have the variant's values. `options` of None are not
            known.
        fusion, encoder, blocks, audio: names as in `Settings`; else the source's own.
        pretrained: whether the encoders start from ImageNet weights.
        frames: per clip.
        selection: of the epoch that is reported.
        schedule: optimizer, learning rate and epochs.
        metric: other than accuracy.
        note: on this figure alone.
    """

    dataset: str
    method: str
    accuracy: Decimal
    repeated: tuple[Decimal, ...] = ()
    approximate: bool = False
    std: Decimal | None = None
    seeds: int | None = None
    correct: int | None = None
    n_test: int | None = None
    unimodal: Mapping[str, Decimal] = dataclasses.field(default_factory=dict, hash=False)
    detail: str = ""
    n_classes: int | None = None
    variant: str | None = None
    options: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
    fusion: str | None = None
    encoder: str | None = None
    blocks: str = "none"
    pretrained: bool | None = None
    audio: str | None = None
    frames: int | None = None
    selection: str = ""
    schedule: str = ""
    metric: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        """The accuracy, such as "75.13", "69.0 ± 2.5", "about 69" or "75.10 and 76.28 by one command"."""
        if self.repeated:
            return " and ".join(map(str, (self.accuracy, *self.repeated))) + " by one command"
        spread = "" if self.std is None else f" ± {self.std}"
        return f"{'about ' if self.approximate else ''}{self.accuracy}{spread}"

    @property
    def clips(self) -> str:
        """The number of test clips, such as "744" or "559 of 744"; "" if it is not known."""
        if self.n_test is None:
            return ""
        return str(self.n_test) if self.correct is None else f"{self.correct} of {self.n_test}"

    @property
    def name(self) -> str:
        """The method's name."""
        name = name_of(self.method)
        return name[0].upper() + name[1:]

    @property
    def label(self) -> str:
        """The method with its variant, known options and detail, such as "DGL (alpha 4)"."""
        options = dict(self.options or {})
        parts = [self.variant] if self.variant else []
        if self.method == "unimodal":
            parts.append(options.pop("modality"))
        parts += [f"{name} {value_text(value)}" for name, value in options.items()]
        parts += [self.detail] if self.detail else []
        return f"{self.name} ({', '.join(parts)})" if parts else self.name

    @property
    def facts(self) -> dict[str, str | None]:
        """Facts that must agree with a run besides data set, method and options: name → value; None if not known."""
        facts = {CLASS_SET: None if self.n_classes is None else f"{self.n_classes} classes"}
        if self.method != "unimodal":
            facts |= {"fusion": self.fusion, "blocks": self.blocks}
        facts["encoder"] = self.encoder
        facts[WEIGHTS] = None if self.pretrained is None else _weights(self.pretrained)
        if self.dataset in WITH_AUDIO:
            facts[AUDIO] = self.audio
        return facts

    @property
    def learning_rates(self) -> list[float]:
        """The initial learning rates that the schedule states; empty if they are not known."""
        return [float(rate) for stated in LEARNING_RATE.findall(self.schedule) for rate in stated if rate]

    @property
    def all_options(self) -> dict[str, Any] | None:
        """The value of every option of the method, which is a registered one; None if they are not known."""
        if self.options is None or (METHODS[self.method].variants and self.variant is None):
            return None
        return _options(self.method, self.variant) | dict(self.options)

    def differences(self, settings: Settings) -> dict[str, str | None]:
        """The facts and options that do not agree with a run of the same data set and method.

        A learning rate has to agree if the source states one. Frames, epochs and the rest of the schedule need not: the
        report states those of the source.

        Returns:
            name → the value here; None if it is not known, which never agrees.
        """
        run = facts_of(settings)
        different = {name: value for name, value in self.facts.items() if value is None or value != run[name]}
        if self.learning_rates and settings.learning_rate not in self.learning_rates:
            different["learning rate"] = " or ".join(f"{rate:g}" for rate in self.learning_rates)
        options = self.all_options
        if options is None:
            different["options"] = None
        else:
            used = _options(settings.method, None) | dict(settings.options)
            if used != options:
                unequal = [name for name, value in options.items() if value != used.get(name)]
                different["options"] = ", ".join(f"{name} {value_text(options[name])}" for name in unequal)
        return different

    def agrees_with(self, settings: Settings) -> bool:
        """True if it can stand beside a run: everything that has to agree is known, and does."""
        same = (self.dataset, self.method) == (settings.dataset, settings.method)
        same = same and settings.objective == "supervised" and settings.train_fraction == 1
        return same and not self.differences(settings)


def facts_of(settings: Settings) -> dict[str, str]:
    """The facts of a run, named as in `Published.facts`."""
    default = getattr(DATASETS[settings.dataset], "default_classes", None)
    classes = settings.n_classes or default or (CLASSES | LISTED_CLASSES).get(settings.dataset)
    return {
        CLASS_SET: f"{classes} classes",
        "fusion": settings.fusion,
        "encoder": value_text(settings.encoder),
        "blocks": settings.blocks,
        WEIGHTS: _weights(is_pretrained(settings.encoder, settings.pretrained)),
        AUDIO: settings.audio,
    }


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table of a source, or a part of it whose figures are of the same setting.

    Attributes:
        place: in the source, such as "table 1".
        figures: all its rows, except those that only repeat another table of the source.
        note: on all its figures.
    """

    source: Source
    place: str
    figures: tuple[Published, ...]
    note: str = ""


@functools.cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables of published.json."""
    text = importlib.resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    tables = []
    for entry in parse_json(text, parse_float=Decimal)["sources"]:
        contents = entry.pop("tables")
        tables += [_table(Source(**entry), content) for content in contents]
    return tuple(tables)


def published_of(settings: Settings) -> list[tuple[PublishedTable, Published]]:
    """The figures that agree with a run, each with its table, in the order of the file."""
    return [(table, one) for table in published_tables() for one in table.figures if one.agrees_with(settings)]


def _table(source: Source, content: dict[str, Any]) -> PublishedTable:
    place, note, figures = content.pop("place"), content.pop("note", ""), content.pop("figures")
    return PublishedTable(source, place, tuple(_figure(content | figure) for figure in figures), note)


def _figure(entry: dict[str, Any]) -> Published:
    entry["accuracy"] = Decimal(entry["accuracy"])
    entry["repeated"] = tuple(entry.get("repeated", ()))
    entry.setdefault("n_classes", CLASSES.get(entry["dataset"]))
    if entry.get("options"):
        entry["options"] = {n: float(v) if isinstance(v, Decimal) else v for n, v in entry["options"].items()}
    return Published(**entry)


@functools.cache
def _options(method: str, variant: str | None) -> dict[str, Any]:
    """The value of every option that a variant (None: the first) of a registered method has."""
    return read_options(method, variant, [], [])[1]


def _weights(pretrained: bool) -> str:
    return "ImageNet weights" if pretrained else "from scratch"


def shown(value: str) -> str:
    """The name of an encoder, fusion or audio feature as papers write it."""
    return _NAMES.get(value, value)
