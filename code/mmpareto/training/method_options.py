"""A method's options on the command line: the arguments of its class are its flags."""

import argparse
import difflib
import inspect
import textwrap
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mmpareto.cli import ArgumentParser, argument_options
from mmpareto.errors import InputError
from mmpareto.integration import METHODS, TORCHJD
from mmpareto.registry import Registry
from mmpareto.training.recipes import recipes_with_options

Options = dict[str, Any]


def method_name(spelling: str) -> str:
    """Return the registered name of `spelling`, or torchjd:<Aggregator>; needs no torch.

    Raises:
        InputError: no method is spelled so; the message gives the nearest name.
    """
    if spelling.lower().startswith(TORCHJD):
        return TORCHJD + spelling[len(TORCHJD) :]
    return Registry("method", dict.fromkeys(METHODS, "")).name(spelling)


def variant_name(method: str, spelling: str) -> str:
    """Return the present name of a method's variant, which may once have had another: `brief` is `per_tensor`.

    Raises:
        InputError: the method has no such variant.
    """
    kind = _class(method)
    name = kind.variant_aliases.get(spelling, spelling)
    if name not in kind.variants:
        known = f"it has {', '.join(kind.variants)}" if kind.variants else "it has none"
        raise InputError(f"method {method!r} has no variant {spelling!r}; {known}.")
    return name


def read_options(
    method: str,
    variant: str | None,
    words: Sequence[str],
    flags: Sequence[str],
    from_recipe: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str | None, Options]:
    """Return the variant (None: the method's first) and the value of every option.

    An option has the value that was typed; else the variant's, the recipe's, or the default.

    Arguments:
        words: the part of the command line that is no other flag, such as --gamma 2.
        flags: names of the other flags, to suggest one for a misspelling.
        from_recipe: options that the recipe sets.

    Raises:
        InputError: the method has no such variant or option, or refuses the value.
    """
    kind = _class(method)
    variant = next(iter(kind.variants), None) if variant is None else variant_name(method, variant)
    options = (
        _defaults(kind) | dict(from_recipe) | dict(kind.variants.get(variant, {})) | typed_options(method, words, flags)
    )
    make_method(method, options)
    return variant, options


def whole_options(method: str, options: Mapping[str, Any]) -> Options:
    """Return the options of a recorded run, with the defaults of those that were added since and change nothing.

    The options of a method that is unknown here, of another version or of a library that is not installed, stay as
    they are.
    """
    try:
        return _defaults(_class(method)) | dict(options)
    except InputError:
        return dict(options)


def typed_options(method: str, words: Sequence[str], flags: Sequence[str]) -> Options:
    """Return the options among `words`, converted to the types of the class's arguments; see `read_options`."""
    options = _options(_class(method))
    parser = ArgumentParser(
        prog="train.py",
        usage=f"train.py --method {method} [--variant NAME] {' '.join(f'[--{o.name} …]' for o in options)}",
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    for option in options:
        parser.add_argument(f"--{option.name}", **_argument_options(option))
    typed, unknown = parser.parse_known_args(words)
    if unknown:
        flag = unknown[0].partition("=")[0]
        names = [option.name for option in options]
        near = difflib.get_close_matches(flag, [f"--{name}" for name in [*names, *flags]], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        known = ", ".join(f"--{name}" for name in names) or "none"
        raise InputError(f"unknown flag {flag}.{hint} Options of method {method!r}: {known}; other flags: --help.")
    return vars(typed)


def make_method(method: str, options: Mapping[str, Any]) -> Any:
    """Return the method with these options.

    Raises:
        InputError: a value is out of range, the options cannot be combined, or one is missing.
    """
    from mmpareto.integration import Refresh  # imports torch

    kind = _class(method)
    for option in _options(kind):
        if option.default is option.empty and option.name not in options:
            raise InputError(f"method {method!r} needs --{option.name}.")
    arguments = {"refresh": 1, **options}
    refresh = arguments.pop("refresh")
    try:
        made = kind(**arguments)
        return made if refresh == 1 else Refresh(made, refresh)
    except (TypeError, ValueError) as error:
        raise InputError(f"--method {method}: {error}.") from error


def methods_text() -> str:
    """Describe every method in a paragraph: what it does, its source, variants, and options with their defaults.

    Values of options that recipes set are listed last.
    """
    from mmpareto.integration.methods.torchjd import TorchJD

    known = TorchJD.known()
    library = f"installed: {', '.join(known)}" if known else "the library is not installed: pip install torchjd"
    torchjd = f"{TORCHJD}NAME\n" + _indented(f"Any aggregator of TorchJD; {library}.", TorchJD.source)
    return "\n\n".join([*(_paragraph(name, METHODS[name]) for name in METHODS), torchjd])


def _paragraph(name: str, kind: Any) -> str:
    first_variant = dict(next(iter(kind.variants.values()), {}))
    options = "  ".join(f"--{o.name} {_text(first_variant.get(o.name, o.default))}" for o in _options(kind))
    lines = [(kind.__doc__ or "").partition("\n")[0], kind.source]
    lines += [f"--variant {' | '.join(kind.variants)}"] if kind.variants else []
    lines += [options] if options else []
    lines += [
        f"--dataset {dataset} --recipe {recipe}: " + "  ".join(f"--{o} {_text(value)}" for o, value in values.items())
        for dataset, recipe, values in recipes_with_options(name)
    ]
    return f"{name}\n" + _indented(*lines)


def _indented(*lines: str) -> str:
    return "\n".join(textwrap.fill(line, 116, initial_indent="    ", subsequent_indent="      ") for line in lines)


def _text(value: Any) -> str:
    return "(unset)" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _class(method: str) -> Any:
    try:
        return METHODS[method]
    except KeyError:
        raise InputError(f"unknown method {method!r}.") from None
    except ValueError as error:  # TorchJD is not installed, or has no such aggregator
        raise InputError(f"--method {method}: {error}.") from error


def _options(kind: Any) -> list[inspect.Parameter]:
    """The arguments of a method's class that a command line can give: numbers, words, and lists of numbers."""
    options = [o for o in inspect.signature(kind, eval_str=True).parameters.values() if _argument_options(o)]
    if kind.refreshable:  # not an argument of the class: `make_method` wraps the method
        options.append(inspect.Parameter("refresh", inspect.Parameter.KEYWORD_ONLY, default=1, annotation=int))
    return options


def _defaults(kind: Any) -> Options:
    return {option.name: option.default for option in _options(kind) if option.default is not option.empty}


def _argument_options(option: inspect.Parameter) -> dict[str, Any]:
    members = typing.get_args(option.annotation) or (option.annotation,)
    if any(getattr(member, "__name__", "") == "Tensor" for member in members):
        return {"type": str}  # numbers separated by commas, which the method converts
    return argument_options(option.annotation)
