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
        families: prefix → "module:attribute" of a class whose `of(rest)` returns the object: "timm:resnet50" is
            `Timm.of("resnet50")`. Such names are not listed.
    """

    def __init__(
        self,
        kind: str,
        targets: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        families: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.families = dict(families or {})
        self._targets = dict(targets)
        self._spellings = {normalised(name): name for name in targets}
        self._spellings |= {normalised(alias): name for alias, name in (aliases or {}).items()}

    def name(self, spelling: str) -> str:
        """Return the registered name of `spelling`.

        Raises:
            InputError: no name is spelled so; the message gives the nearest one.
        """
        family, colon, rest = spelling.partition(":")
        if colon and family.lower() in self.families:
            return f"{family.lower()}:{rest}"
        name = self._spellings.get(normalised(spelling))
        if name is None:
            near = difflib.get_close_matches(normalised(spelling), self._spellings, n=1)
            hint = f" Did you mean {self._spellings[near[0]]!r}?" if near else ""
            known = ", ".join([*sorted(self._targets), *(f"{family}:NAME" for family in self.families)])
            raise InputError(f"unknown {self.kind} {spelling!r}.{hint} Known: {known}.")
        return name

    def add(self, name: str, target: str) -> None:
        """Register one more name, such as that of a class in a package of your own.

        Raises:
            InputError: the target is not "module:attribute", or the name is another target's already.
        """
        present = self._targets.get(self._spellings.get(normalised(name), ""))
        if present not in (None, target):
            raise InputError(f"{self.kind} {name!r} is registered already, as {present}; choose another name.")
        if not all(target.partition(":")):
            raise InputError(f"{self.kind} {name!r} is registered as {target!r}; give 'module:attribute'.")
        self._targets[name] = target
        self._spellings[normalised(name)] = name

    def __getitem__(self, spelling: str) -> Any:
        name = self.name(spelling)
        if name in self._targets:
            return self._imported(name, self._targets[name])
        family, _, rest = name.partition(":")
        return self._imported(name, self.families[family]).of(rest)

    def _imported(self, name: str, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (AttributeError, ModuleNotFoundError) as error:
            if module.partition(".")[0] == "mmpareto":
                raise
            raise InputError(f"{self.kind} {name!r} is registered as {target}, which is missing: {error}.") from error

    def __contains__(self, spelling: object) -> bool:
        return isinstance(spelling, str) and normalised(spelling) in self._spellings

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
