"""The model card of a run: model_card.md in its folder, for the people whom the model is handed on to."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpareto.data import DATASETS
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.models import ENCODERS
from mmpareto.models.per_modality import split
from mmpareto.training.method_labels import label, method_class, objective_details, value_text
from mmpareto.training.metrics import is_contrastive
from mmpareto.training.run_folder import CONFIG, MODEL_CARD, SUMMARY, read_config
from mmpareto.training.schema import Summary
from mmpareto.training.settings import whole_arguments
from mmpareto.validation import read_checked

# Settings that a reader of the card needs; config.json has all.
SHOWN = (
    "encoder", "fusion", "blocks", "pretrained", "epochs", "batch_size", "optimizer", "learning_rate", "momentum",
    "weight_decay", "scheduler", "amp", "random_seed",
)  # fmt: skip
EPOCHS = {
    "last": "last epoch",
    "best_val": "best on the validation set",
    "best_test": "best on the test set: chosen on the data that it is tested on, as in the papers; optimistic",
}
# Names in metrics.jsonl → titles.
PERCENT = {
    "acc": "accuracy",
    "exact_match": "exact match",
    "macro_f1": "macro-F1",
    "map": "mAP",
    "auroc": "AUROC",
}
NUMBERS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "correlation": "correlation"}


def write_model_card(folder: Path) -> Path:
    """Write model_card.md of a finished run, from its config.json and summary.json; return its path.

    Raises:
        InputError: a file is missing or damaged, or the card cannot be written.
    """
    config, path = read_config(folder), folder / SUMMARY
    summary = read_checked(path, Summary, "train the run again")
    try:
        text = model_card(folder, config, summary)
        write_text(folder / MODEL_CARD, text)
    except OSError as error:
        raise InputError(f"cannot write the model card of {folder}: {error.filename}: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} or {CONFIG} is damaged ({type(error).__name__}: {error}); train the run again."
        ) from error
    return folder / MODEL_CARD


def add_model_card(folder: Path) -> None:
    """Write the model card of a finished run that has none, such as one from before there were cards, if possible."""
    if (folder / CONFIG).is_file() and (folder / SUMMARY).is_file() and not (folder / MODEL_CARD).exists():
        with contextlib.suppress(InputError):  # the folder may be read-only, or the run another version's
            write_model_card(folder)


def model_card(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Arguments:
        folder: of the run.
        config, summary: the content of config.json and summary.json.
    """
    arguments = whole_arguments(config)
    sections = [
        f"# {summary.get('name', folder.name)}",
        _purpose(arguments, config["data"], summary),
        "## Data",
        _data(arguments, config["data"]),
        "## Training",
        _training(arguments, config, config["data"]),
        "## Results",
        _results(arguments, summary),
        "## Limits",
        _limits(arguments, config["data"], summary),
        "## Use",
        _use(folder, arguments),
    ]
    return "\n\n".join(sections) + "\n"


def _modalities(summary: Mapping[str, Any]) -> list[str]:
    return [key.removeprefix("acc_") for key in summary["last"] if key.startswith("acc_")]


def _title(arguments: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    return str((data.get("prepared") or {}).get("title") or DATASETS[arguments["dataset"]].title)


def _purpose(arguments: Mapping[str, Any], data: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    further = objective_details(arguments["objective"])
    method = label(arguments["method"], arguments["variant"], arguments["options"], further)
    kind = method_class(arguments["method"])
    source = f" ({kind.source})" if kind and kind.source else ""
    prepared = data.get("prepared") or {}
    heads, title = _joined(_modalities(summary)), _title(arguments, data)
    goal = f"the tasks {heads} from {_joined(prepared['modalities'])}" if "tasks" in prepared else f"from {heads}"
    return f"A network that predicts {goal}, trained on {title} with the method {method}{source}."


def _data(arguments: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    builder, prepared = DATASETS[arguments["dataset"]], data.get("prepared") or {}
    clips = data.get("clips", {})
    rows = {
        "data set": _title(arguments, data),
        "page": builder.download.page,
        "licence": builder.download.terms if builder.download.page else "not recorded: someone's own data",
        "samples": ", ".join(f"{count:,} {part}" for part, count in clips.items() if count),
        "classes": ", ".join((prepared.get("samples") or {}).get("train", {})),
        "split": prepared.get("split", "not recorded"),
        "fingerprint": f"`{data['fingerprint']}` (SHA-256 of the prepared folder's lists, record and checksums)",
    }
    return _table(("", ""), [row for row in rows.items() if row[1]])


def _training(arguments: Mapping[str, Any], config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    versions = config.get("versions", {})
    used = dict(arguments) | _required(arguments, data)
    rows = {
        "method": label(arguments["method"], arguments["variant"], arguments["options"], default_variant=True),
        "objective": arguments["objective"],
        "recipe": arguments.get("recipe", ""),
        "protocol": arguments["protocol"],
        **{name: used[name] for name in SHOWN if used.get(name) is not None},
    }
    if arguments.get("optimizer", "sgd") != "sgd":
        rows.pop("momentum", None)  # without effect
    if files := arguments.get("pretrained"):  # without their folders, which are one machine's
        rows["pretrained"] = ", ".join(Path(file).name for file in ([files] if isinstance(files, str) else files))
    rows["code"] = f"commit {config.get('git_commit') or 'not recorded'}, PyTorch {versions.get('torch', '?')}"
    return _table(("", ""), ((name, value_text(value)) for name, value in rows.items())) + (
        "\n\nconfig.json has all settings."
    )


def _required(arguments: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the network that method, encoders or tasks decide, whatever the settings say; None for no part."""
    kind = method_class(arguments["method"])
    required = {name: value for name, value in (kind.network if kind else {}).items() if name in SHOWN}
    general, named = split(arguments.get("encoder") or ())
    for name in (general, *named.values()):
        if name is not None and name in ENCODERS and hasattr(ENCODERS[name], "fusion"):
            required["fusion"] = ENCODERS[name].fusion
    if is_contrastive(arguments) or "tasks" in (data.get("prepared") or {}):
        required["fusion"] = None
    return required


def _results(arguments: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """One line per way to choose the epoch, on the test set."""
    last, modalities = summary["last"], _modalities(summary)
    percent = [key for key in PERCENT if key in last]
    numbers = [key for key in NUMBERS if key in last]
    titles = ["epoch", *(f"{PERCENT[key]}, %" for key in percent), *(NUMBERS[key] for key in numbers)]
    titles += [f"accuracy of {name}, %" for name in modalities]
    lines = []
    for entry, words in EPOCHS.items():
        line = summary.get(entry)
        if line is None:
            lines.append((f"{words}: none ({summary.get(f'{entry}_reason', 'not recorded')})", *["–"] * len(titles)))
            continue
        cells = [str(line["epoch"]), *(_percent(line.get(key)) for key in percent)]
        cells += [_number(line.get(key)) for key in numbers]
        lines.append((words, *cells, *(_percent(line.get(f"acc_{name}")) for name in modalities)))
    best = "validation" if arguments["protocol"] == "validation" else "test"
    notes = ["On the test set.", f"best.pt has the weights of the epoch that was best on the {best} set."]
    if is_contrastive(arguments):
        notes.append(f"The network was {summary.get('unimodal_note', 'pre-trained without labels')}.")
    elif probe := summary.get("probe"):
        notes.append(
            "The method trains no unimodal heads: the accuracies of single modalities are those of linear probes on "
            f"the frozen encoders, fitted to {probe['samples']:,} training samples."
        )
    elif "unimodal_note" in summary:
        notes.append("The method trains no unimodal heads, and the accuracies of single modalities were not measured.")
    return " ".join(notes) + "\n\n" + _table(("epoch chosen", *titles), lines)


def _limits(arguments: Mapping[str, Any], data: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    banner, test = DATASETS[arguments["dataset"]].banner, data.get("clips", {}).get("test")
    limits = [banner.strip()] if banner else []
    accuracy = summary["last"].get("acc")
    if test and accuracy is not None and "per_class_accuracy" in summary["last"]:
        low, high = _wilson_interval(accuracy, test)
        limits.append(
            f"The accuracies are of one run, with one seed, on {test:,} test samples. The draw of these samples alone "
            f"gives the last epoch's accuracy of {100 * accuracy:.1f}% a 95% interval from {100 * low:.1f} to "
            f"{100 * high:.1f}% (Wilson)."
        )
    limits += [
        "It was tested on data of the same origin as its training data only; recordings, people, languages or devices "
        "that these lack have not been tested.",
        "The probabilities are not calibrated unless `evaluate.py --temperature` fitted a temperature.",
        "The data set's licence above holds for the data, and may restrict the use of a model trained on it.",
    ]
    return "\n".join(f"- {' '.join(limit.split())}" for limit in limits)


def _wilson_interval(fraction: float, samples: int) -> tuple[float, float]:
    """The 95% interval of a fraction; unlike the normal approximation, it has a width at 0 and 1, too."""
    z = 1.96
    centre = fraction + z * z / (2 * samples)
    margin = z * math.sqrt(fraction * (1 - fraction) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return (centre - margin) / scale, (centre + margin) / scale


def _use(folder: Path, arguments: Mapping[str, Any]) -> str:
    clips = issubclass(DATASETS[arguments["dataset"]], ClipDatasetBuilder)
    sample = '"clip.mp4"' if clips else "{modality: array, …}"
    return "\n".join(
        [
            "```python",
            "import mmpareto  # in this repository: pip install '.[train]'",
            "",
            f'trained = mmpareto.load("{folder}")',
            f"trained.predict({sample})  # head → class → probability",
            "```",
            "",
            f"`python code/evaluate.py {folder}` evaluates it, `python code/export.py {folder} --to onnx` exports it.",
        ]
    )


def _table(titles: Any, rows: Any) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", r"\|")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _joined(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
