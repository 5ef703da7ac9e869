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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers see imports; at run time, `__getattr__` imports a class on first use
    from mmpareto.integration.method import Method as Method
    from mmpareto.integration.methods.agm import AGM as AGM
    from mmpareto.integration.methods.cggm import CGGM as CGGM
    from mmpareto.integration.methods.cml import CML as CML
    from mmpareto.integration.methods.dgl import DGL as DGL
    from mmpareto.integration.methods.ensemble import Ensemble as Ensemble
    from mmpareto.integration.methods.gblending import GBlending as GBlending
    from mmpareto.integration.methods.gradnorm import GradNorm as GradNorm
    from mmpareto.integration.methods.greedy import Greedy as Greedy
    from mmpareto.integration.methods.inforeg import InfoReg as InfoReg
    from mmpareto.integration.methods.lfm import LFM as LFM
    from mmpareto.integration.methods.mcr import MCR as MCR
    from mmpareto.integration.methods.metabalance import MetaBalance as MetaBalance
    from mmpareto.integration.methods.mla import MLA as MLA
    from mmpareto.integration.methods.mmpareto import MMPareto as MMPareto
    from mmpareto.integration.methods.ogm import OGM as OGM
    from mmpareto.integration.methods.ogm import OGMGE as OGMGE
    from mmpareto.integration.methods.opm import OPM as OPM
    from mmpareto.integration.methods.pareto import Pareto as Pareto
    from mmpareto.integration.methods.pcgrad import PCGrad as PCGrad
    from mmpareto.integration.methods.plain_sum import JointLoss as JointLoss
    from mmpareto.integration.methods.plain_sum import UniformSum as UniformSum
    from mmpareto.integration.methods.pmr import PMR as PMR
    from mmpareto.integration.methods.pretrain_finetune import PretrainFinetune as PretrainFinetune
    from mmpareto.integration.methods.reconboost import ReconBoost as ReconBoost
    from mmpareto.integration.methods.refresh import Refresh as Refresh
    from mmpareto.integration.methods.relearning import Relearning as Relearning
    from mmpareto.integration.methods.smv import SMV as SMV
    from mmpareto.integration.methods.torchjd import TorchJD as TorchJD
    from mmpareto.integration.methods.umt import UMT as UMT
    from mmpareto.integration.methods.unimodal import Unimodal as Unimodal
    from mmpareto.integration.reduction import MeanReducer as MeanReducer
    from mmpareto.integration.reduction import SumReducer as SumReducer
    from mmpareto.integration.report import EncoderReport as EncoderReport
    from mmpareto.integration.report import Report as Report

_METHODS = {
    "joint": "methods.plain_sum:JointLoss",
    "uniform": "methods.plain_sum:UniformSum",
    "pareto": "methods.pareto:Pareto",
    "mmpareto": "methods.mmpareto:MMPareto",
    "dgl": "methods.dgl:DGL",
    "ogm": "methods.ogm:OGM",
    "ogm_ge": "methods.ogm:OGMGE",
    "opm": "methods.opm:OPM",
    "gblending": "methods.gblending:GBlending",
    "greedy": "methods.greedy:Greedy",
    "pmr": "methods.pmr:PMR",
    "agm": "methods.agm:AGM",
    "inforeg": "methods.inforeg:InfoReg",
    "relearning": "methods.relearning:Relearning",
    "cml": "methods.cml:CML",
    "lfm": "methods.lfm:LFM",
    "unimodal": "methods.unimodal:Unimodal",
    "ensemble": "methods.ensemble:Ensemble",
    "pretrain_finetune": "methods.pretrain_finetune:PretrainFinetune",
    "umt": "methods.umt:UMT",
    "smv": "methods.smv:SMV",
    "gradnorm": "methods.gradnorm:GradNorm",
    "pcgrad": "methods.pcgrad:PCGrad",
    "metabalance": "methods.metabalance:MetaBalance",
    "cggm": "methods.cggm:CGGM",
    "mcr": "methods.mcr:MCR",
    "mla": "methods.mla:MLA",
    "reconboost": "methods.reconboost:ReconBoost",
}
_OTHERS = [
    "methods.torchjd:TorchJD",
    "methods.refresh:Refresh",
    "method:Method",
    "report:Report",
    "report:EncoderReport",
    "reduction:MeanReducer",
    "reduction:SumReducer",
]
TORCHJD = "torchjd:"


class Methods(Mapping[str, "type[Method]"]):
    """Maps the name of a method to its class, which is imported on first use.

    "torchjd:UPGrad", and likewise every aggregator of TorchJD, is a key that is not listed. Type checkers accept
    `METHODS[name](**options)`; an option by name, they check on the class itself, such as `MMPareto(gamma=2)`.
    """

    def __init__(self) -> None:
        self._added: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Register a method of your own: the subclass of `Method` at "module:attribute".

        Raises:
            ValueError: the target is not of that form, or the name is another method's.
        """
        if name in _METHODS or self._added.get(name, target) != target:
            raise ValueError(f"method {name!r} is registered already; choose another name")
        if not all(target.partition(":")):
            raise ValueError(f"method {name!r} is registered as {target!r}; give 'module:attribute'")
        self._added[name] = target

    def __getitem__(self, name: str) -> "type[Method]":
        if name.startswith(TORCHJD):
            return _load("methods.torchjd:TorchJD").of(name.removeprefix(TORCHJD))
        if name in self._added:
            module, _, attribute = self._added[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        return _load(_METHODS[name])

    def __iter__(self) -> Iterator[str]:
        return iter([*_METHODS, *self._added])

    def __len__(self) -> int:
        return len(_METHODS) + len(self._added)


METHODS = Methods()


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


if not TYPE_CHECKING:  # else every name would exist
    _BY_NAME = {target.partition(":")[2]: target for target in [*_METHODS.values(), *_OTHERS]}
    __all__ = ["METHODS", *_BY_NAME]

    def __getattr__(name: str) -> Any:
        if name in _BY_NAME:
            return _load(_BY_NAME[name])
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__
