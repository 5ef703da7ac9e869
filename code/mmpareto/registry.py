"""Names for classes that are imported only when they are used."""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from mmpareto.errors import InputError


def normalised(name: str) -> str:
    """The form in which names are compared: case, "-", "_" and spaces do not count."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


class Registry(Mapping[str, Any]):
    """Maps a name to the object at "module:attribute", importing the module on first use.

    Arguments:
        kind: what the names stand for, for messages ("data set").
        places: name → "module:attribute".
        aliases: further spellings → name.
    """

    def __init__(self, kind: str, places: Mapping[str, str], aliases: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._places = dict(places)
        self._spellings = {normalised(name): name for name in places}
        self._spellings |= {normalised(alias): name for alias, name in (aliases or {}).items()}

    def name(self, spelling: str) -> str:
        """The registered name of `spelling`.

        Raises:
            InputError: there is none; the message gives the nearest name.
        """
        found = self._spellings.get(normalised(spelling))
        if found is None:
            near = difflib.get_close_matches(normalised(spelling), self._spellings, n=1)
            hint = f" Did you mean {self._spellings[near[0]]!r}?" if near else ""
            raise InputError(f"unknown {self.kind} {spelling!r}.{hint} Known: {', '.join(sorted(self._places))}.")
        return found

    def add(self, name: str, place: str) -> None:
        """Register one more name, for a class that lies in a package of your own."""
        self._places[name] = place
        self._spellings[normalised(name)] = name

    def __getitem__(self, spelling: str) -> Any:
        module, _, attribute = self._places[self.name(spelling)].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, spelling: object) -> bool:
        return isinstance(spelling, str) and normalised(spelling) in self._spellings

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
