"""Checks of what files of other people hold, by pydantic."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.errors import one_line


def mistakes(kind: Any, content: object) -> list[str]:
    """The entries of `content` that are absent, or are not of the type that `kind` gives them, with the reason.

    Arguments:
        kind: a TypedDict.
    """
    return _found(lambda: TypeAdapter(kind).validate_python(content))


def mistakes_in_json(types: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """The entries of a JSON object that are not of their type, with the reason; those that are not named are ignored.

    Arguments:
        types: name → type.
    """
    kind = TypeAdapter(TypedDict("Entries", dict(types), total=False))  # type: ignore[operator]
    return _found(lambda: kind.validate_json(json.dumps(content), strict=True))


def _found(validate: Callable[[], Any]) -> list[str]:
    try:
        validate()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [one_line(f"{'.'.join(map(str, one['loc']))}: {one['msg']}") for one in found]
    return []
