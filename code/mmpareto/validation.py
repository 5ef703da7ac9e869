"""Checks of what files of other people hold, by pydantic."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.errors import InputError, first_few, one_line
from mmpareto.files import read_json

MOST_SHOWN = 3  # mistakes in a message


def read_checked(path: Path, kind: Any, advice: str) -> Any:
    """Read a JSON file whose entries have the types of `kind`.

    Arguments:
        kind: a TypedDict, or another type that pydantic knows.
        advice: what to do with a damaged file, for the message.

    Raises:
        InputError: the file cannot be read, is no JSON, or has other entries.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {advice}.") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({one_line(error)}): {advice}.") from error
    if found := mistakes(kind, content):
        raise InputError(f"{path} is damaged ({first_few(found, MOST_SHOWN)}): {advice}.")
    return content


def mistakes(kind: Any, content: object) -> list[str]:
    """The entries of `content` that are absent, or are not of the type that `kind` gives them, with the reason.

    Arguments:
        kind: a TypedDict, or another type that pydantic knows.
    """
    return _found(lambda: _adapter(kind).validate_python(content))


def mistakes_in_json(types: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """The entries of a JSON object that are not of their type, with the reason; those that are not named are ignored.

    Arguments:
        types: name → type.
    """
    kind = TypeAdapter(TypedDict("Entries", dict(types), total=False))  # type: ignore[operator]
    return _found(lambda: kind.validate_json(json.dumps(content), strict=True))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _found(validate: Callable[[], Any]) -> list[str]:
    try:
        validate()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        texts = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in found]
        return [one_line(f"{where}: {reason}" if where else reason) for where, reason in texts]
    return []
