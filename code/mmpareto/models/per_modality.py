"""Choices per modality, as in `--encoder audio=resnet18 text=transformer`; imports no torch."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mmpareto.errors import InputError
from mmpareto.models import ENCODERS

Choice: TypeAlias = str | tuple[str, ...]
"""One value for all modalities, or words MODALITY=VALUE, perhaps after one value for all the others."""

AUTO = "auto"
# Kind of a modality's input → the shape of a sample, and the encoder that AUTO stands for.
KINDS = {
    "vectors": ("vectors (F)", "mlp"),
    "sequences": ("sequences (T, F)", "transformer"),
    "images": ("images (C, H, W)", "resnet18"),
    "clips": ("clips of frames (T, C, H, W)", "resnet18"),
}
_ONE_MODALITY = re.compile(r"([\w-]+)=(.+)", re.DOTALL)


def split(choice: Choice) -> tuple[str | None, dict[str, str]]:
    """Return the value for all modalities that are not named, and modality → value."""
    general, named = None, {}
    for word in (choice,) if isinstance(choice, str) else choice:
        match = _ONE_MODALITY.fullmatch(word)
        if match is None or Path(word).is_file():
            general = word
        else:
            named[match[1]] = match[2]
    return general, named


def canonical(words: str | Sequence[str], flag: str, value: Callable[[str], str]) -> Choice:
    """Return the words of a flag, sorted by modality.

    Arguments:
        value: converts a value, such as a name to its registered spelling.

    Raises:
        InputError: two values are for the same modalities, or `value` refuses one.
    """
    words = (words,) if isinstance(words, str) else words
    general, named = split(tuple(words))
    if len(named) + (general is not None) < len(words):
        raise InputError(f"--{flag} {' '.join(words)} has two values for the same modalities; give one.")
    sorted_words = [f"{name}={value(named[name])}" for name in sorted(named)]
    first = [value(general)] if general is not None else []
    return first[0] if first and not named else (*first, *sorted_words)


def encoder_name(spelling: str) -> str:
    """Return the registered name of an encoder, or "auto"; raises InputError where there is none."""
    return AUTO if spelling.lower() == AUTO else ENCODERS.name(spelling)


def kind_of(shape: Sequence[int]) -> str:
    """Return the kind of the input of a modality, a key of `KINDS`, from the shape of a sample.

    Raises:
        InputError: samples of this shape have no kind.
    """
    if not 1 <= len(shape) <= len(KINDS):
        raise InputError(f"a sample of shape {tuple(shape)} is none of {_listed(KINDS)}.")
    return list(KINDS)[len(shape) - 1]


def choose_encoders(
    choice: Choice, shapes: Mapping[str, Sequence[int]], *, all_modalities: bool = True
) -> dict[str, str]:
    """Return modality → name of its encoder, in the order of `shapes`.

    Arguments:
        choice: of `--encoder`; "auto" stands for the encoder of the input's kind.
        shapes: modality → shape of a sample.
        all_modalities: whether `shapes` has all modalities of the data, so that other names are wrong.

    Raises:
        InputError: a modality has no encoder or one that does not take its input, or a modality is unknown.
    """
    general, named = split(choice)
    _check_names("encoder", named, shapes, all_modalities)
    chosen = {}
    for modality, shape in shapes.items():
        name, kind = named.get(modality, general), kind_of(shape)
        if name is None:
            raise InputError(
                f"--encoder {' '.join(choice)} has none for {modality}: add {modality}={KINDS[kind][1]}, or one name "
                "for all other modalities."
            )
        chosen[modality] = name = KINDS[kind][1] if name == AUTO else name
        takes = getattr(ENCODERS[name], "takes", KINDS)
        if kind not in takes:
            raise InputError(
                f"--encoder {name} takes {_listed(takes)}, but {modality} has {KINDS[kind][0]}; take {KINDS[kind][1]}."
            )
    return chosen


def choose_files(choice: Choice | None, modalities: Iterable[str], *, all_modalities: bool = True) -> dict[str, Path]:
    """Return modality → file of its encoder's weights, for the modalities that have one.

    Arguments:
        choice: of `--pretrained`.
        modalities, all_modalities: as for `choose_encoders`.

    Raises:
        InputError: a modality is unknown.
    """
    if choice is None:
        return {}
    general, named = split(choice)
    modalities = list(modalities)
    _check_names("pretrained", named, modalities, all_modalities)
    files = {modality: named.get(modality, general) for modality in modalities}
    return {modality: Path(file) for modality, file in files.items() if file is not None}


def names_of_files(choice: Choice) -> str:
    """The words of `--pretrained` without the files' folders, for people."""
    general, named = split(choice)
    words = [Path(general).name] if general is not None else []
    return " ".join([*words, *(f"{modality}={Path(file).name}" for modality, file in named.items())])


def is_pretrained(encoder: Choice, pretrained: Choice | None) -> bool:
    """Return whether an encoder starts from weights that were trained elsewhere."""
    general, named = split(encoder)
    return bool(pretrained) or any(name is not None and name.startswith("hf:") for name in (general, *named.values()))


def _check_names(flag: str, named: Iterable[str], modalities: Iterable[str], all_modalities: bool) -> None:
    unknown = [name for name in named if name not in modalities]
    if unknown and all_modalities:
        raise InputError(f"--{flag} names {', '.join(unknown)}, but the data has {' and '.join(modalities)}.")


def _listed(kinds: Iterable[str]) -> str:
    return " or ".join(KINDS[kind][0] if kind in KINDS else kind for kind in kinds)
