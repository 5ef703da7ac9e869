"""A method's options on the command line: the arguments of its class are its flags."""

import argparse
import difflib
import inspect
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from mmpareto.cli import truth
from mmpareto.errors import InputError
from mmpareto.integration import METHODS, TORCHJD
from mmpareto.registry import Registry

Options = dict[str, Any]


def method_name(spelling: str) -> str:
    """The registered name of `spelling`, or torchjd:<Aggregator>; needs no torch.

    Raises:
        InputError: there is none; the message gives the nearest name.
    """
    if spelling.lower().startswith(TORCHJD):
        return TORCHJD + spelling[len(TORCHJD) :]
    return Registry("method", dict.fromkeys(METHODS, "")).name(spelling)


def read_options(
    name: str, variant: str | None, words: Sequence[str], flags: Sequence[str]
) -> tuple[str | None, Options]:
    """What the command line says of the method's options: the variant (its first unless said), and every option.

    Arguments:
        words: what of the command line is no other flag, such as --gamma 2.
        flags: the other flags, for the hint at a near miss.

    Raises:
        InputError: the method has no such variant or option, or does not take the value.
    """
    kind = _class(name)
    if variant is None:
        variant = next(iter(kind.variants), None)
    elif variant not in kind.variants:
        known = f"it has {', '.join(kind.variants)}" if kind.variants else "it has none"
        raise InputError(f"method {name!r} has no variant {variant!r}; {known}.")
    defaults = {option.name: option.default for option in _options(kind) if option.default is not option.empty}
    options = defaults | dict(kind.variants.get(variant, {})) | typed_options(name, words, flags)
    make_method(name, options)
    return variant, options


def typed_options(name: str, words: Sequence[str], flags: Sequence[str]) -> Options:
    """The options among `words`, converted as the method's class says; see `read_options`."""
    options = _options(_class(name))
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage=f"train.py --method {name} [--variant NAME] {' '.join(f'[--{o.name} …]' for o in options)}",
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    for option in options:
        kind, choices = _type(option.annotation)
        parser.add_argument(f"--{option.name}", type=kind, choices=choices)
    found, unknown = parser.parse_known_args(words)
    if unknown:
        flag = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(flag, [f"--{name}" for name in [*(o.name for o in options), *flags]], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        own = ", ".join(f"--{option.name}" for option in options) or "none"
        raise InputError(f"unknown flag {flag}.{hint} The options of method {name!r}: {own}; other flags: --help.")
    return vars(found)


def make_method(name: str, options: Options) -> Any:
    """The method with these options.

    Raises:
        InputError: a value is out of range, the options do not go together, or one is missing.
    """
    kind = _class(name)
    missing = [o.name for o in _options(kind) if o.default is o.empty and o.name not in options]
    if missing:
        raise InputError(f"method {name!r} needs --{missing[0]}.")
    try:
        from mmpareto.integration import Refresh  # imports torch

        every = options.get("refresh", 1)
        method = kind(**{name: value for name, value in options.items() if name != "refresh"})
        return Refresh(method, every) if every != 1 else method
    except (TypeError, ValueError) as error:
        raise InputError(f"--method {name}: {error}.") from error


def methods_text() -> str:
    """Every method in a paragraph: its name, what it does, its source, options with their defaults, and variants."""
    parts = [_paragraph(name, METHODS[name]) for name in METHODS]
    from mmpareto.integration.methods.torchjd import TorchJD

    known = TorchJD.known()
    there = f"installed: {', '.join(known)}" if known else "the library is not installed: pip install torchjd"
    parts.append(f"{TORCHJD}NAME\n" + _lines(f"Any aggregator of TorchJD; {there}.", TorchJD.source))
    return "\n\n".join(parts)


def _paragraph(name: str, kind: Any) -> str:
    chosen = dict(next(iter(kind.variants.values()), {}))
    options = "  ".join(f"--{o.name} {_shown(chosen.get(o.name, o.default))}" for o in _options(kind))
    variants = " | ".join(kind.variants)
    lines = [(kind.__doc__ or "").partition("\n")[0], kind.source]
    lines += [f"--variant {variants}"] if variants else []
    lines += [options] if options else []
    return f"{name}\n" + _lines(*lines)


def _lines(*lines: str) -> str:
    return "\n".join(textwrap.fill(line, 116, initial_indent="    ", subsequent_indent="      ") for line in lines)


def _shown(value: Any) -> str:
    return "(unset)" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _class(name: str) -> Any:
    try:
        return METHODS[name]
    except ValueError as error:  # of TorchJD: no library, or no such aggregator
        raise InputError(f"--method {name}: {error}.") from error


def _options(kind: Any) -> list[inspect.Parameter]:
    """The arguments of a method's class that a command line can give: numbers, words, and lists of numbers."""
    options = [o for o in inspect.signature(kind, eval_str=True).parameters.values() if _type(o.annotation)[0]]
    if kind.refreshable:  # not an argument of the class: `make_method` wraps the method
        options.append(inspect.Parameter("refresh", inspect.Parameter.KEYWORD_ONLY, default=1, annotation=int))
    return options


def _type(annotation: Any) -> tuple[Any, Sequence[Any] | None]:
    """How argparse converts an argument of this type, and what it may be; None where it cannot."""
    if typing.get_origin(annotation) is typing.Literal:
        return str, typing.get_args(annotation)
    members = typing.get_args(annotation) or (annotation,)
    if any(getattr(member, "__name__", "") == "Tensor" for member in members):
        return str, None  # numbers with commas between; the method reads them
    for kind, convert in ((bool, truth), (int, int), (float, float), (str, str)):
        if kind in members:
            return convert, None
    return None, None
