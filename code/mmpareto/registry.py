"""Names of classes that are imported on first use."""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from mmpareto.errors import InputError


def normalised(name: str) -> str:
    """The form in which names are compared: case, "-", "_" and spaces are ignored."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


class Registry(Mapping[str, Any]):
    """Maps a name to the object at "module:attribute", importing the module on first use.

        ENCODERS.add("mine", "my_package.my_module:MyEncoder")

    Arguments:
        kind: what the names stand for, for messages ("data set").
        targets: name → "module:attribute".
        aliases: other spellings → name.
    """

    def __init__(self, kind: str, targets: Mapping[str, str], aliases: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._targets = dict(targets)
        self._spellings = {normalised(name): name for name in targets}
        self._spellings |= {normalised(alias): name for alias, name in (aliases or {}).items()}

    def name(self, spelling: str) -> str:
        """Return the registered name of `spelling`.

        Raises:
            InputError: no name is spelled so; the message gives the nearest one.
        """
        name = self._spellings.get(normalised(spelling))
        if name is None:
            near = difflib.get_close_matches(normalised(spelling), self._spellings, n=1)
            hint = f" Did you mean {self._spellings[near[0]]!r}?" if near else ""
            raise InputError(f"unknown {self.kind} {spelling!r}.{hint} Known: {', '.join(sorted(self._targets))}.")
        return name

    def add(self, name: str, target: str) -> None:
        """Register one more name, such as that of a class in a package of your own."""
        self._targets[name] = target
        self._spellings[normalised(name)] = name

    def __getitem__(self, spelling: str) -> Any:
        module, _, attribute = self._targets[self.name(spelling)].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, spelling: object) -> bool:
        return isinstance(spelling, str) and normalised(spelling) in self._spellings

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
