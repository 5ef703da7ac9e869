"""Image encoders of timm, an optional library: `--encoder timm:NAME`."""

import difflib
from types import ModuleType
from typing import ClassVar

from torch import Tensor, nn

from mmpareto.errors import InputError


class TimmEncoder(nn.Module):
    """A model of timm without its classifier, with timm's initial weights.

    Nothing is downloaded: `--pretrained FILE` loads a local file of timm's weights.

    Arguments:
        channels: channels of the images.
    """

    takes = ("images", "clips")
    initialises_itself = True
    model_name: ClassVar[str]

    @classmethod
    def of(cls, name: str) -> "type[TimmEncoder]":
        """Return the class of a model's encoders.

        Raises:
            InputError: timm is not installed, or has no such model.
        """
        timm = _timm(name)
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            hint = f"; near are {', '.join(near)}" if near else ""
            raise InputError(f"--encoder timm:{name}: timm {timm.__version__} has no model {name!r}{hint}.")
        return type(cls.__name__, (cls,), {"model_name": name, "__doc__": cls.__doc__})

    def __init__(self, channels: int) -> None:
        super().__init__()
        timm = _timm(self.model_name)
        self.model = timm.create_model(self.model_name, pretrained=False, in_chans=channels, num_classes=0)
        self.feature_size: int = getattr(self.model, "head_hidden_size", None) or self.model.num_features

    @property
    def pretrained_part(self) -> nn.Module:
        """The part whose tensors a file of timm's weights names."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), or (B, T, C, H, W) for T frames, whose features are averaged, to (B, feature size)."""
        if x.dim() == 4:
            return self.model(x)
        return self.model(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(dim=1)


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise InputError(f"--encoder timm:{name} needs the library timm: pip install timm.") from None
    return timm
