"""How the gradients of several losses become one: a method a file, on torch alone.

A method is used in place of `loss.backward()` in any training loop:

    integrate = MMPareto()
    report = integrate.backward(joint_loss, {"audio": loss_a, "visual": loss_v},
                                encoders={"audio": net.audio, "visual": net.visual})
    optimizer.step()

The way to read it: `method.py` (the call that every method shares) → `gradients.py` (which losses are
differentiated together, and what comes of it; `by_encoder.py`, the same from less memory) → `mmpareto.py` (what is done
with it).
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

_PLACES = {
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
    "pretrain_finetune": "pretrain_finetune:PretrainFinetune",
    "gradnorm": "gradnorm:GradNorm",
    "pcgrad": "pcgrad:PCGrad",
    "metabalance": "metabalance:MetaBalance",
}
TORCHJD = "torchjd:"


class Methods(Mapping[str, Any]):
    """Maps a method's name to its class, which is imported on first use.

    "torchjd:UPGrad", and so for every aggregator of TorchJD, is found too, but not listed.
    """

    def __getitem__(self, name: str) -> Any:
        if name.startswith(TORCHJD):
            return _load("torchjd:TorchJD").of(name.removeprefix(TORCHJD))
        return _load(_PLACES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


METHODS = Methods()
_BY_CLASS = {place.partition(":")[2]: place for place in [*_PLACES.values(), "torchjd:TorchJD"]}

__all__ = ["METHODS", *_BY_CLASS]


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"{__name__}.methods.{module}"), attribute)


def __getattr__(name: str) -> Any:
    if name in _BY_CLASS:
        return _load(_BY_CLASS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
