"""Encoders of HuggingFace Transformers, an optional library: `--encoder hf:FOLDER`."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn

from mmpareto.errors import InputError
from mmpareto.files import parse_json

SPECTROGRAM = "audio-spectrogram-transformer"


class HuggingFaceEncoder(nn.Module):
    """A model of Transformers, with the weights in a local folder; nothing is downloaded, and no code of its is run.

    Three kinds of models are encoders:

        images or clips (`pixel_values`): the model's pooled output, or else the mean over its last hidden states;
            frames of a clip are encoded one by one and averaged, unless the model is one of videos
        sequences of features (models of text): the features are the input embeddings, after a linear layer if their
            number is not the model's width; the mean over the steps' last hidden states
        the audio spectrogram transformer: a filterbank (1, T, F)

    Arguments:
        channels: channels of the images, or features per step.

    Attributes:
        without_files: name of this encoder that needs no folder, with random weights: "hf:" and the configuration.
    """

    initialises_itself = True
    takes: tuple[str, ...]
    source: ClassVar[str]
    config: ClassVar[Any]

    @classmethod
    def of(cls, source: str) -> "type[HuggingFaceEncoder]":
        """Return the class of a model's encoders.

        Arguments:
            source: the folder, with config.json and the weights; or the configuration as JSON.

        Raises:
            InputError: Transformers is not installed, or the model is not in the folder or of another kind.
        """
        transformers = _transformers(source)
        if not source.startswith("{") and not (Path(source) / "config.json").is_file():
            raise InputError(f"--encoder hf:{source} is no folder with a config.json; nothing is downloaded.")
        try:
            if source.startswith("{"):
                config = transformers.AutoConfig.for_model(**parse_json(source))
            else:
                config = transformers.AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
            kind = transformers.MODEL_MAPPING[type(config)].main_input_name
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"--encoder hf:{source} is not a model of Transformers ({reason}).") from error
        if kind == "pixel_values":
            takes: tuple[str, ...] = ("clips",) if hasattr(config, "num_frames") else ("images", "clips")
        elif kind == "input_ids":
            takes = ("sequences",)
        elif config.model_type == SPECTROGRAM:
            takes = ("images",)
        else:
            raise InputError(
                f"--encoder hf:{source} takes {kind}; models of images, videos and text are encoders here."
            )
        contents = {"source": source, "config": config, "takes": takes, "__doc__": cls.__doc__}
        return type(cls.__name__, (cls,), contents)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.without_files = "hf:" + _as_json(self.config)
        self.model = _load(self.source, self.config)
        width = getattr(self.config, "hidden_size", None) or getattr(self.config, "hidden_sizes", [None])[-1]
        if width is None:
            raise InputError(f"--encoder hf:{self.source}: its configuration has no hidden_size; take another model.")
        self.feature_size: int = width
        self.project: nn.Module = nn.Identity()
        if self.takes == ("sequences",):
            if hasattr(self.model, "pooler") and self.model.pooler is not None:
                self.model.pooler.requires_grad_(False)  # not used, and so not trained
            self.project = nn.Linear(channels, width) if channels != width else self.project
        else:
            expected = getattr(self.config, "num_channels", 1 if self.config.model_type == SPECTROGRAM else channels)
            if expected != channels:
                raise InputError(f"--encoder hf:{self.source} takes images of {expected} channels, not {channels}.")

    @property
    def pretrained_part(self) -> nn.Module:
        """The part whose tensors a file of weights names."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch of images, clips, filterbanks, or sequences with the mask last, to (B, feature size)."""
        if self.takes == ("sequences",):
            return self._encode_sequences(x)
        if self.config.model_type == SPECTROGRAM:
            return _pooled(self.model(x.squeeze(1)))
        if x.dim() == 4 or self.takes == ("clips",):
            return _pooled(self.model(x))
        return _pooled(self.model(x.flatten(0, 1))).unflatten(0, x.shape[:2]).mean(dim=1)

    def _encode_sequences(self, x: Tensor) -> Tensor:
        valid = x[:, :, -1] > 0.5
        attended = valid | ~valid.any(dim=1, keepdim=True)  # a softmax over no step would be NaN
        embeddings = self.project(x[:, :, :-1])
        states = self.model(inputs_embeds=embeddings, attention_mask=attended.long()).last_hidden_state
        weights = valid.to(states.dtype).unsqueeze(2)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _pooled(output: Any) -> Tensor:
    """The pooled output (B, width) of a model of images, or the mean over its last hidden states."""
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    states = output.last_hidden_state
    return states.mean(dim=(2, 3)) if states.dim() == 4 else states.mean(dim=1)


def _load(source: str, config: Any) -> nn.Module:
    transformers = _transformers(source)
    if source.startswith("{"):
        return transformers.AutoModel.from_config(config).float()
    try:
        return transformers.AutoModel.from_pretrained(source, config=config, local_files_only=True).float()
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--encoder hf:{source}: its weights cannot be loaded ({reason}).") from error


def _as_json(config: Any) -> str:
    """The configuration as JSON, without what is private, such as the folder's path."""
    values = parse_json(config.to_json_string(use_diff=True))
    return json.dumps(
        {name: value for name, value in values.items() if not name.startswith("_")} | {"model_type": config.model_type}
    )


def _transformers(source: str) -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise InputError(f"--encoder hf:{source} needs the library transformers: pip install transformers.") from None
    return transformers
