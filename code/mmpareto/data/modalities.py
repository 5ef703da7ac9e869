"""Gaussian modalities: a made-up set of 2 to 8 modalities whose difficulty and redundancy are chosen.

The model is known, and with it the best accuracy that any method can reach, from each modality alone and from all of
them together. Classes y = 1 … C are equally frequent. A latent vector z has D = s + n·(d − s) informative directions:

    z | y ~ N(μ_y, I)                       class means μ_yj ~ N(0, 1), drawn once per set
    u_k = z[S_k] + τ_k·ε_k,  ε_k ~ N(0, I)  what modality k observes of its d directions S_k, with noise of its own
    x_k = Q_k (u_k, v_k)                    its input (F,): mixed with F − d directions v_k ~ N(0, (1 + τ_k²) I) without
                                            information by a rotation Q_k, drawn once per set

Difficulty is τ_k, the standard deviation of the modality's own noise, where that of a class is 1: the signal-to-noise
ratio of modality k is 1/(1 + τ_k²). Redundancy is r = s/d, the share of a modality's informative directions that all
modalities observe; each of the other d − s directions is observed by one modality only.

All classes have the same covariance, so the Bayes rule is a linear discriminant. A direction that the modalities K
observe is known, from the mean of their u weighted by 1/τ_k², up to noise of variance

    σ_j² = 1 + 1 / Σ_{k ∈ K} τ_k⁻²          (1 if any τ_k is 0)

and the Bayes rule chooses the class with the smallest Σ_j (t_j − μ_yj)²/σ_j², t_j being that mean. Hence:

- With r = 0, modalities have disjoint information: their squared Mahalanobis distances between classes add up.
- With r = 1, a further modality adds nothing but another look at the same z: n modalities are worth one with difficulty
  (Σ τ_k⁻²)^(−1/2), and the accuracy is bounded by that of z itself, difficulty 0.
- Accuracy falls with every τ_k.

The first n modalities of a set with more modalities are those of the set with n, and so are its labels.
"""

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.feature_arrays import Labels
from mmpareto.data.features import FeatureArrays, OwnArrays, write_prepared
from mmpareto.data.preparation.prepared_folder import DatasetInfo
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.array_files import ArrayFile
from mmpareto.errors import InputError

FEWEST, MOST = 2, 8  # modalities
CLASSES, INFORMATIVE, FEATURES = 10, 8, 32  # C, d, F
DIFFICULTY, REDUNDANCY, SAMPLES = (1.0, 2.0), 0.5, 1000
DRAWS = 100_000  # for the Bayes accuracies: their standard error is at most 0.16 points
VERSION = 1  # increased whenever a seed gives other samples than before
# Random streams, after the seed; the number of the modality (from 0) follows where there is one.
_SHARED, _OWN, _ROTATION, _LABELS, _LATENT, _NOISE, _BAYES = range(7)


class Design(NamedTuple):
    """The model of a set; see the module's docstring.

    Attributes:
        names: n names of the modalities.
        means: (C, D) class means μ of the latent directions: s shared ones, then those of each modality.
        directions: n index arrays S_k, each (d,).
        difficulty: (n,) τ.
        rotations: n orthogonal matrices Q_k, each (F, F).
    """

    names: tuple[str, ...]
    means: np.ndarray
    directions: tuple[np.ndarray, ...]
    difficulty: np.ndarray
    rotations: tuple[np.ndarray, ...]

    def variances(self, modalities: Sequence[int]) -> np.ndarray:
        """(D,) σ_j² of the latent directions as these modalities observe them; infinite where none does."""
        precision = np.zeros(self.means.shape[1])
        with np.errstate(divide="ignore"):  # difficulty 0 is an infinite precision, and no precision infinite variance
            for k in modalities:
                precision[self.directions[k]] += 1 / self.difficulty[k] ** 2
            return 1 + 1 / precision


def design(modalities: int, difficulty: Sequence[float], redundancy: float, seed: int) -> Design:
    """Return the model of a set.

    Arguments:
        modalities: n, from 2 to 8.
        difficulty: τ of the modalities, ≥ 0; fewer than n values are repeated in turn.
        redundancy: r, from 0 to 1; r·d is rounded to a whole number of directions.
        seed: ≥ 0.

    Raises:
        InputError: a value is out of range.
    """
    if not FEWEST <= modalities <= MOST:
        raise InputError(f"--modalities must be from {FEWEST} to {MOST}, not {modalities}.")
    if not 1 <= len(difficulty) <= modalities:
        raise InputError(
            f"--difficulty has {len(difficulty)} values for {modalities} modalities; give one per modality, or fewer, "
            "which are repeated in turn."
        )
    if wrong := [value for value in difficulty if not 0 <= value < float("inf")]:
        raise InputError(f"--difficulty must be at least 0, and finite, not {wrong[0]:g}.")
    if not 0 <= redundancy <= 1:
        raise InputError(f"--redundancy must be from 0 to 1, not {redundancy:g}.")
    if seed < 0:
        raise InputError(f"--seed must be at least 0, not {seed}.")
    shared, own = (count := round(redundancy * INFORMATIVE)), INFORMATIVE - count
    means = [_random(seed, _SHARED).standard_normal((CLASSES, INFORMATIVE))[:, :shared]]
    means += [_random(seed, _OWN, k).standard_normal((CLASSES, INFORMATIVE))[:, shared:] for k in range(modalities)]
    return Design(
        names=tuple(f"m{k + 1}" for k in range(modalities)),
        means=np.concatenate(means, axis=1),
        directions=tuple(
            np.r_[np.arange(shared), shared + k * own + np.arange(own)].astype(int) for k in range(modalities)
        ),
        difficulty=np.array([*itertools.islice(itertools.cycle(difficulty), modalities)], float),
        rotations=tuple(
            np.linalg.qr(_random(seed, _ROTATION, k).standard_normal((FEATURES, FEATURES)))[0]
            for k in range(modalities)
        ),
    )


def draw(model: Design, labels: np.ndarray, seed: int, part: int = 0) -> dict[str, np.ndarray]:
    """Return modality → inputs (N, F), float32, of samples with these labels (N,).

    Arguments:
        part: number of a part of the data set, which has samples of its own.
    """
    latent = np.zeros((len(labels), model.means.shape[1]))
    shared = np.intersect1d(model.directions[0], model.directions[1])
    latent[:, shared] = _random(seed, _LATENT, part).standard_normal((len(labels), len(shared)))
    inputs = {}
    for k, (name, directions, tau, rotation) in enumerate(
        zip(model.names, model.directions, model.difficulty, model.rotations, strict=True)
    ):
        random = _random(seed, _NOISE, part, k)
        own = directions[len(shared) :]
        latent[:, own] = random.standard_normal((len(labels), len(own)))
        observed = np.sqrt(1 + tau**2) * random.standard_normal((len(labels), FEATURES))
        noise = random.standard_normal((len(labels), INFORMATIVE))
        observed[:, :INFORMATIVE] = (model.means[labels] + latent)[:, directions] + tau * noise
        inputs[name] = (observed @ rotation.T).astype(np.float32)
    return inputs


def bayes_accuracy(means: np.ndarray, variances: np.ndarray, seed: int = 0, draws: int = DRAWS) -> float:
    """Return the accuracy of the Bayes rule, by Monte Carlo with equally many draws per class.

    Arguments:
        means: (C, D) class means.
        variances: (D,) of all classes; infinite where a direction is not observed.
    """
    known = np.isfinite(variances)
    whitened = means[:, known] / np.sqrt(variances[known])
    labels = np.arange(draws) % len(means)
    observed = whitened[labels] + _random(seed, _BAYES).standard_normal((draws, known.sum()))
    scores = observed @ whitened.T - 0.5 * (whitened**2).sum(axis=1)
    return float((scores.argmax(axis=1) == labels).mean())


def bayes_accuracies(model: Design) -> dict[str, float]:
    """Return the best possible accuracy, as a fraction: "joint" of all modalities together, and of each one alone."""
    together = {"joint": [*range(len(model.names))]}
    observed = together | {name: [k] for k, name in enumerate(model.names)}
    return {name: bayes_accuracy(model.means, model.variances(which)) for name, which in observed.items()}


def _random(*stream: int) -> np.random.Generator:
    return np.random.default_rng([VERSION, *stream])


class GaussianModalities(FeatureArrays):
    """2 to 8 made-up vectors per sample, of chosen difficulty and redundancy; for trying the software, not methods."""

    name = "modalities"
    title = "Gaussian modalities"
    made_here = True
    banner = (
        "SYNTHETIC DATA: Gaussian vectors, drawn by this program. "
        "A result on it shows that the software works and says nothing about any method."
    )
    download = DownloadInfo(
        size=f"{FEWEST} to {MOST} modalities (--modalities), vectors of {FEATURES} numbers, {CLASSES} classes; "
        f"{SAMPLES} samples for training\nand as many for testing (--samples)",
        terms="made here, by this program",
        page="made by `python code/prepare.py modalities`",
        raw="none",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py modalities`; their values are the arguments of `prepare`."""
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
        parser.add_argument(
            "--modalities",
            type=int,
            default=FEWEST,
            metavar="N",
            help=f"number of modalities, from {FEWEST} to {MOST} (default: %(default)s)",
        )
        parser.add_argument(
            "--difficulty",
            type=float,
            nargs="+",
            default=DIFFICULTY,
            metavar="D",
            help="standard deviation of a modality's own noise, where that of a class is 1: one value per modality, or "
            "fewer, which are repeated in turn (default: 1 2)",
        )
        parser.add_argument(
            "--redundancy",
            type=float,
            default=REDUNDANCY,
            metavar="R",
            help="share of a modality's information that all modalities have, from 0 to 1 (default: %(default)s)",
        )
        parser.add_argument(
            "--samples",
            type=int,
            default=SAMPLES,
            metavar="N",
            help="samples for training, and as many for testing (default: %(default)s)",
        )
        parser.add_argument("--seed", type=int, default=0, help="of means, rotations and samples (default: 0)")

    @classmethod
    def prepare(  # type: ignore[override]  # made, not read
        cls,
        *,
        out: Path,
        modalities: int = FEWEST,
        difficulty: Sequence[float] = DIFFICULTY,
        redundancy: float = REDUNDANCY,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> PreparationReport:
        """Draw a set and prepare it in `out`, standardised by the training set's statistics.

        prepared.json has `bayes_accuracies` under "bayes_accuracy".

        Arguments:
            out: the prepared folder.
            modalities, difficulty, redundancy, seed: see `design`.
            samples: for training, and as many for testing; at least one per class.

        Raises:
            InputError: a value is out of range, `out` holds something else, another process is preparing it, or it
                cannot be written.
        """
        started = time.monotonic()
        model = design(modalities, difficulty, redundancy, seed)
        if samples < CLASSES:
            raise InputError(f"--samples must be at least {CLASSES}, one per class, not {samples}.")
        labels = {part: _random(seed, _LABELS, part).permutation(np.arange(samples) % CLASSES) for part in (0, 1)}
        parts = [draw(model, labels[part], seed, part) for part in (0, 1)]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in model.names}
        bayes = bayes_accuracies(model)
        origin = {
            "version": VERSION,
            "modalities": modalities,
            "difficulty": model.difficulty.tolist(),
            "redundancy": redundancy,
            "samples": samples,
            "seed": seed,
        }
        sentence = "drawn as two parts of equal size"
        record = {"dataset": cls.name, "task": "classification", "split": sentence, "origin": origin}
        info = DatasetInfo(cls.name, cls.title, True, tuple(map(str, range(CLASSES))))
        names = [f"{index:0{len(str(2 * samples - 1))}d}" for index in range(2 * samples)]
        own = OwnArrays(
            ArrayFile(out, {name: partial(np.asarray, array) for name, array in arrays.items()}),
            Labels("classification", [*info.classes], [*labels[0].tolist(), *labels[1].tolist()]),
            names,
            None,
            dict.fromkeys(model.names, 0),
            [*_notes(model, redundancy, bayes)],
        )
        split = Split(names[:samples], names[samples:], sentence)
        entries = {"bayes_accuracy": bayes}
        return write_prepared(out, own, split, info, record, entries, standardise=True, started=started)


def _notes(model: Design, redundancy: float, bayes: Mapping[str, float]) -> list[str]:
    """Lines of the report."""
    lines = [f"redundancy       {redundancy:g}", f"Bayes accuracy   {bayes['joint']:.1%} from all modalities together"]
    for name, tau in zip(model.names, model.difficulty, strict=True):
        lines.append(f"  {name}: difficulty {tau:g}, {bayes[name]:.1%} alone")
    return lines
