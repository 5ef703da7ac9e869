"""A trained network from a checkpoint, ready for use: `mmpareto.load`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmpareto.analysis.finished_run import JOINT_HEAD
from mmpareto.analysis.preprocessing import Preprocessing, Sample
from mmpareto.data import DATASETS
from mmpareto.data.loading.sources import FlowSource, FramesSource
from mmpareto.errors import InputError
from mmpareto.files import parse_json
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork, Outputs
from mmpareto.models.pretrained import read_released
from mmpareto.training.checkpoints import check_entries, load_checkpoint, load_weights, network_of
from mmpareto.training.devices import Precision
from mmpareto.training.method_labels import method_class
from mmpareto.training.metrics import is_contrastive
from mmpareto.training.recipes import recipe
from mmpareto.training.run_folder import BEST, CONFIG, read_config
from mmpareto.training.settings import whole_arguments

RELEASED_SUFFIX = ".pth"  # train.py writes .pt
SAFETENSORS_SUFFIX = ".safetensors"
METADATA = "mmpareto"  # key of the description in an exported file
INPUT_SETTINGS = ("audio", "frames", "frame_choice", "image_size", "audio_frames", "audio_pool")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, with what is needed to use it; the data that it was trained on are not.

        trained = mmpareto.load("runs/cremad-mmpareto-seed0")
        trained.predict("clip.mp4")                    # {"joint": {"ANG": 0.91, …}, "audio": {…}, "visual": {…}}
        trained.predict({"visual": frames})            # without the sound
        batch = trained.preprocess(["a.mp4", "b.mp4"]) # modality → tensor, batch first
        logits = trained.model(batch).joint            # (2, classes)

    Attributes:
        path: the checkpoint.
        model: the network, in evaluation mode, on the CPU. A linear probe replaces unimodal heads that the method does
            not train, if there is one.
        dataset: the data set's name.
        folder: of the prepared data set when the network was trained.
        description: of the input (`PreparedDataset.description`); lacks "classes", "fps" and "normalisation" where the
            file lacks them.
        architecture: the arguments of `build_network`.
        method: that trained it; None where it is not known.
        settings: of the training, as in config.json; where that is not beside the checkpoint, the `portable_settings`
            in the checkpoint, {} in older ones.
        preprocess: samples as they come → a batch for the model; see `Preprocessing`.
        unimodal_heads: whether they were trained, are linear probes, or are as initialised and mean nothing.
        epoch: the epoch that the weights are of, if known.
        notes: sentences on the origin of the weights, for a person.
        amp: the mixed precision of the evaluation in training.
        plugins: modules that register parts of it.
        joint_probe: whether the joint head is a linear probe, too, on the concatenated features (pre-training).
    """

    path: Path
    model: MultimodalNetwork
    dataset: str
    folder: Path
    description: dict[str, Any]
    architecture: dict[str, Any]
    method: str | None
    settings: dict[str, Any]
    preprocess: Preprocessing
    unimodal_heads: Literal["trained", "probe", "untrained"]
    epoch: int | None
    notes: list[str]
    amp: str | None = None
    plugins: Sequence[str] = ()
    joint_probe: bool = False

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model takes, in order."""
        return self.model.modalities

    @property
    def tasks(self) -> list[str]:
        """The tasks of a model that has several, in order; else []."""
        return self.model.tasks

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits.

        Raises:
            InputError: the checkpoint lacks them, as those of the released code do.
        """
        if "classes" not in self.description:
            raise InputError(f"{self.path} does not name its classes; --clip needs a checkpoint of train.py.")
        return list(self.description["classes"])

    @property
    def task(self) -> str:
        """The task: "classification", "multilabel", "regression" or "multitask"."""
        return self.description.get("task") or ("classification" if self.model.n_classes > 1 else "regression")

    @property
    def banner(self) -> str | None:
        """Warning that accompanies all results on the data set, if it has one."""
        return DATASETS[self.dataset].banner

    def precision(self, device: torch.device) -> Precision:
        """The precision of the training; full precision where the device lacks it."""
        return Precision(None if self.amp == "fp16" and device.type == "cpu" else self.amp, device)

    def heads(self, outputs: Outputs) -> dict[str, Tensor]:
        """Head → its logits (B, C): "joint", and every modality whose unimodal head was trained or is a probe.

        Of several tasks: task → its logits.
        """
        joint = {} if outputs.joint is None else {JOINT_HEAD: outputs.joint}
        return joint | ({} if self.unimodal_heads == "untrained" else outputs.unimodal)

    def probabilities(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """Probabilities (…, C) of logits (…, C), which are divided by the temperature; of a regression, the scores."""
        if self.task == "regression":
            mean, std = self.description.get("label_scale", (0.0, 1.0))
            return logits * std + mean
        return (logits / temperature).sigmoid() if self.task == "multilabel" else (logits / temperature).softmax(-1)

    @torch.no_grad()
    def predict(
        self, sample: Sample, *, fps: int | None = None, temperatures: Mapping[str, float] | None = None
    ) -> dict[str, dict[str, float]]:
        """Probabilities of one sample: head → class → probability (of a regression, the score).

        The heads are "joint" and the modalities of the sample, or the tasks; an untrained one is left out. `evaluate.py
        --clip` does the same.

        Arguments:
            sample: see `Preprocessing`. A modality may be absent.
            fps: frames per second of a raw clip, where the checkpoint lacks them.
            temperatures: head → what its logits are divided by, 1 by default (see `evaluate.py --temperature`).

        Raises:
            InputError: the sample does not fit the model, a file cannot be read, or the checkpoint lacks the classes.
        """
        classes, device, temperatures = self.classes, next(self.model.parameters()).device, temperatures or {}
        batch = {name: x.to(device) for name, x in self.preprocess([sample], fps).items()}
        with self.precision(device).autocast():
            outputs = self.model(batch)
        probabilities = {
            head: self.probabilities(logits[0].float().cpu(), temperatures.get(head, 1.0))
            for head, logits in self.heads(outputs).items()
        }
        return {head: dict(zip(classes, p.tolist(), strict=True)) for head, p in probabilities.items()}


def load(path: str | Path, dataset: str | None = None) -> Trained:
    """Load a trained network. Nothing in the file is executed.

    Arguments:
        path: the folder of a run, for its best.pt; a checkpoint of train.py (.pt); a .safetensors file of export.py; or
            a checkpoint of the released MMPareto code (.pth).
        dataset: for files of the released code, which lack it (default: cremad).

    Raises:
        InputError: the file is missing, damaged, or of another architecture, version or data set.
    """
    path = Path(path)
    if path.is_dir():
        path = path / BEST
    if path.suffix == RELEASED_SUFFIX:
        return _released(path, DATASETS.name(dataset or "cremad"))
    content = _read_safetensors(path) if path.suffix == SAFETENSORS_SUFFIX else load_checkpoint(path)
    if dataset is not None and DATASETS.name(dataset) != content["dataset"]:
        raise InputError(f"{path} was trained on {content['dataset']}, not on {dataset}; leave --dataset out.")
    settings = _settings_beside(path) or content.get("settings", {})
    if is_contrastive(content):
        content = _with_probes(content, path)
    model = network_of(content, path)
    for name, head in content.get("probe", {}).items():
        if name != JOINT_HEAD:  # it is in "model"
            model.heads[name].load_state_dict(head)
    heads = content.get("unimodal_heads") or _unimodal_heads(content)
    preprocess = Preprocessing(content["dataset"], content["data"], content.get("input_shapes", {}), path)
    model.input_shapes = preprocess.shapes
    name = content.get("method") or settings.get("method")
    if method := method_class(name or ""):
        model.absent = method.absent
    return Trained(
        path=path,
        model=model.eval(),
        dataset=content["dataset"],
        folder=Path(content["data_folder"]),
        description=content["data"],
        architecture=content["network"],
        method=name,
        settings=settings,
        preprocess=preprocess,
        unimodal_heads=heads,
        epoch=content["epoch"] - (content["selected_on"] == "last" and not content.get("steps")),  # else the next one
        notes=content.get("notes") or _notes(content, heads),
        amp=content.get("amp"),
        plugins=content.get("plugins", ()),
        joint_probe=is_contrastive(content),
    )


def _with_probes(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The checkpoint of contrastive pre-training as that of a classifier, of which the heads are its linear probes.

    Raises:
        InputError: there are no probes.
    """
    if "probe" not in content:
        raise InputError(
            f"{path} was pre-trained without labels, and has no linear probes to classify by: --resume its run with "
            "--no_probe false, or start a supervised run from it by --pretrained."
        )
    network = {name: value for name, value in content["network"].items() if name not in ("projections", "heads")}
    encoders = {name: tensor for name, tensor in content["model"].items() if name.startswith("encoders.")}
    heads = {
        f"{'fusion.fc_out' if name == JOINT_HEAD else f'heads.{name}'}.{entry}": tensor
        for name, head in content["probe"].items()
        for entry, tensor in head.items()
    }
    return {**content, "network": network | {"fusion": "concat"}, "model": encoders | heads}


def _settings_beside(path: Path) -> dict[str, Any]:
    """The settings in the config.json of the checkpoint's folder; {} if there is none that this version can read."""
    try:
        return whole_arguments(read_config(path.parent)) if (path.parent / CONFIG).is_file() else {}
    except InputError:  # the checkpoint may be usable all the same
        return {}


def _unimodal_heads(content: Mapping[str, Any]) -> Literal["trained", "probe", "untrained"]:
    return "trained" if content["heads_trained"] else "probe" if content.get("probe") else "untrained"


def _notes(content: Mapping[str, Any], heads: str) -> list[str]:
    epoch, steps = content["epoch"], content.get("steps", 0)
    if content["selected_on"] != "last":
        notes = [f"the weights of epoch {epoch}, chosen on: {content['selected_on']}"]
    elif steps:
        notes = [f"the weights of a run that was stopped in epoch {epoch}, after step {steps}"]
    else:
        notes = [f"the weights of the last epoch, {epoch - 1}"]  # the "epoch" of last.pt is the next one
    if heads != "trained":
        probe = "a linear probe's, on the frozen encoders" if heads == "probe" else "untrained: ignore them"
        notes.append(f"the method trains no unimodal heads; those used here are {probe}")
    if is_contrastive(content):
        notes[-1] = "pre-trained without labels; the joint head and those of the modalities are linear probes"
    return notes


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The entries of the checkpoint from which export.py wrote a .safetensors file."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors: pip install safetensors.") from error
    if not path.is_file():
        raise InputError(f"there is no file {path}; give a file that export.py wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            content = parse_json((file.metadata() or {})[METADATA])
            content |= {"model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged, or is no file of export.py ({type(error).__name__}: {error}).") from error
    check_entries(content, path)
    return content


def _released(path: Path, dataset: str) -> Trained:
    weights, unmatched = read_released(path)
    channels = {
        parts[1]: tensor.shape[1]
        for name, tensor in weights.items()
        if (parts := name.split("."))[0] == "encoders" and parts[2:] == ["conv1", "weight"] and tensor.dim() == 4
    }
    joint = weights.get("fusion.fc_out.weight")
    if not channels or joint is None:
        raise InputError(f"{path} lacks the encoders or the joint head of the released MMPareto code's model.")
    architecture: dict[str, Any] = {"channels": channels, "n_classes": len(joint)}
    model = build_network(**architecture)
    load_weights(model, weights, path)
    notes = ["a checkpoint of the released code: the epoch that was best on its test set"]
    if unmatched:
        notes.append(f"not used, as the network here has no such entry: {', '.join(unmatched)}")
    values = recipe(dataset, "released")
    sources = {"visual": FramesSource.normalisation, "flow": FlowSource.normalisation}
    description = {key: values[key].value for key in INPUT_SETTINGS} | {
        "channels": channels,
        "normalisation": {name: sources[name] for name in channels if name in sources},
    }
    preprocess = Preprocessing(dataset, description, {}, path)
    return Trained(
        path=path,
        model=model.eval(),
        dataset=dataset,
        folder=Path("data") / dataset,
        description=description,
        architecture=architecture,
        method=None,
        settings={},
        preprocess=preprocess,
        unimodal_heads="trained",
        epoch=None,
        notes=notes,
    )
