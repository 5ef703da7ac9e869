"""Methods that combine the gradients of several losses; this package needs torch alone.

A method replaces `loss.backward()` in any training loop:

    integrate = MMPareto()
    report = integrate.backward(joint_loss, {"audio": loss_a, "visual": loss_v},
                                encoders={"audio": net.audio, "visual": net.visual})
    optimizer.step()

`methods/` has one file per method; the files here are what the methods share. To follow a step, read `reference.py`
(MMPareto on one page), then `method.py` (`backward`), `differentiation.py` and `methods/mmpareto.py`.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

_TARGETS = {
    "joint": "plain_sum:JointLoss",
    "uniform": "plain_sum:UniformSum",
    "pareto": "pareto:Pareto",
    "mmpareto": "mmpareto:MMPareto",
    "dgl": "dgl:DGL",
    "ogm": "ogm:OGM",
    "ogm_ge": "ogm:OGMGE",
    "gblending": "gblending:GBlending",
    "greedy": "greedy:Greedy",
    "pmr": "pmr:PMR",
    "agm": "agm:AGM",
    "unimodal": "unimodal:Unimodal",
    "ensemble": "ensemble:Ensemble",
    "pretrain_finetune": "pretrain_finetune:PretrainFinetune",
    "gradnorm": "gradnorm:GradNorm",
    "pcgrad": "pcgrad:PCGrad",
    "metabalance": "metabalance:MetaBalance",
}
TORCHJD = "torchjd:"


class Methods(Mapping[str, Any]):
    """Maps the name of a method to its class, which is imported on first use.

    "torchjd:UPGrad", and likewise every aggregator of TorchJD, is a key that is not listed.
    """

    def __init__(self) -> None:
        self._added: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Register a method of your own: the subclass of `Method` at "module:attribute".

        Raises:
            ValueError: the target is not of that form, or the name is another method's.
        """
        if name in _TARGETS or self._added.get(name, target) != target:
            raise ValueError(f"method {name!r} is registered already; choose another name")
        if not all(target.partition(":")):
            raise ValueError(f"method {name!r} is registered as {target!r}; give 'module:attribute'")
        self._added[name] = target

    def __getitem__(self, name: str) -> Any:
        if name.startswith(TORCHJD):
            return _load("torchjd:TorchJD").of(name.removeprefix(TORCHJD))
        if name in self._added:
            module, _, attribute = self._added[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        return _load(_TARGETS[name])

    def __iter__(self) -> Iterator[str]:
        return iter([*_TARGETS, *self._added])

    def __len__(self) -> int:
        return len(_TARGETS) + len(self._added)


METHODS = Methods()
_BY_CLASS = {target.partition(":")[2]: target for target in [*_TARGETS.values(), "torchjd:TorchJD", "refresh:Refresh"]}

__all__ = ["METHODS", *_BY_CLASS]


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(f"{__name__}.methods.{module}"), attribute)


def __getattr__(name: str) -> Any:
    if name in _BY_CLASS:
        return _load(_BY_CLASS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
