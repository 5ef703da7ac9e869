"""A method's options on the command line: the arguments of its class are its flags."""

import argparse
import inspect
import textwrap
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mmpareto.cli import ArgumentParser, argument_options, unknown_flag
from mmpareto.errors import InputError
from mmpareto.integration import METHODS, TORCHJD
from mmpareto.registry import Registry
from mmpareto.training.effects import Effect
from mmpareto.training.method_labels import method_class
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


def recorded_variant(method: str, variant: str | None) -> str | None:
    """Return the present name of a recorded variant; of a run from before its method had any, the first one.

    Raises:
        InputError: as `variant_name`.
    """
    if variant is not None:
        return variant_name(method, variant)
    return next(iter(getattr(method_class(method), "variants", {})), None)


def read_options(
    method: str,
    variant: str | None,
    words: Sequence[str],
    flags: Sequence[str],
    from_recipe: Mapping[str, Any] = MappingProxyType({}),
    recorded: tuple[str | None, Mapping[str, Any]] | None = None,
) -> tuple[str | None, Options]:
    """Return the variant and the value of every option.

    An option has the value that was typed; else the variant's, the recipe's, or the default. With `recorded`, it has
    the recorded value unless the option was typed, or is of a typed variant.

    Arguments:
        variant: None where none was typed: the recorded one, or the method's first.
        words, flags: as for `typed_options`.
        from_recipe: options that the recipe sets.
        recorded: variant and options of another run, which take the place of the defaults.

    Raises:
        InputError: the method has no such variant or option, or refuses a value.
    """
    kind = _class(method)
    chosen = None if variant is None else variant_name(method, variant)
    if recorded is None:
        chosen = chosen or next(iter(kind.variants), None)
    base = _defaults(kind) if recorded is None else recorded[1]
    options = {**base, **from_recipe, **kind.variants.get(chosen, {}), **typed_options(method, words, flags)}
    make_method(method, options)
    return chosen or (recorded[0] if recorded else None), options


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
    """Return the options among `words`, converted to the types of the class's arguments.

    Arguments:
        words: the part of the command line that is no other flag, such as --gamma 2.
        flags: names of the other flags, to suggest one for a misspelling.

    Raises:
        InputError: the method has no such option.
    """
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
        raise InputError(_unknown_option(method, unknown[0], [option.name for option in options], flags))
    return vars(typed)


def _unknown_option(method: str, word: str, names: Sequence[str], flags: Sequence[str]) -> str:
    """The message for a word that is neither an option of the method nor another flag."""
    flag = word.partition("=")[0]
    others = [other for other in METHODS if flag in [f"--{option.name}" for option in _options(_class(other))]]
    if others:
        return f"{flag} is an option of {', '.join(others)}, not of method {method!r}: leave it out or change --method."
    known = ", ".join(f"--{name}" for name in names) or "none"
    return f"{unknown_flag(word, [*names, *flags])} Options of method {method!r}: {known}; other flags: --help."


def option_effects(method: str) -> dict[str, Effect]:
    """Return the effects of those options of a method that do not always have one (`Method.without_effect`)."""
    return {option: _effect_without(values) for option, values in _class(method).without_effect.items()}


def _effect_without(values: Mapping[str, Any]) -> Effect:
    """The effect of an option that has none with these values of others."""
    absent = " and ".join(f"--{name} is {_text(value)}" for name, value in values.items())
    return Effect(absent, lambda settings, facts: any(settings.options[name] != v for name, v in values.items()))


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
    return "(unset)" if value is None or value == () else str(value).lower() if isinstance(value, bool) else str(value)


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
