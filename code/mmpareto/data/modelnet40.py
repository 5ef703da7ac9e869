"""ModelNet40: shapes of 40 classes (Wu et al., CVPR 2015), seen from the front and from the rear.

The modalities are the first and the seventh, half a turn apart, of MVCNN's twelve views of a shape (Su et al., ICCV
2015). They are copied from MVCNN's images, or rendered from the meshes in the same setup (see `rendering`).
"""

import argparse
import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmpareto import cli
from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.preparation import sample_preparation
from mmpareto.data.preparation.prepared_folder import DatasetInfo, write_remarks
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import PARTS, Split
from mmpareto.errors import InputError, one_line
from mmpareto.files import atomic_path, open_regular

if TYPE_CHECKING:
    import numpy as np

    from mmpareto.data.loading.sources import ModalitySource

# Class → shapes for training and for testing, as distributed: 9,843 and 2,468 in all.
SHAPES = {
    "airplane": (626, 100), "bathtub": (106, 50), "bed": (515, 100), "bench": (173, 20), "bookshelf": (572, 100),
    "bottle": (335, 100), "bowl": (64, 20), "car": (197, 100), "chair": (889, 100), "cone": (167, 20),
    "cup": (79, 20), "curtain": (138, 20), "desk": (200, 86), "door": (109, 20), "dresser": (200, 86),
    "flower_pot": (149, 20), "glass_box": (171, 100), "guitar": (155, 100), "keyboard": (145, 20), "lamp": (124, 20),
    "laptop": (149, 20), "mantel": (284, 100), "monitor": (465, 100), "night_stand": (200, 86), "person": (88, 20),
    "piano": (231, 100), "plant": (240, 100), "radio": (104, 20), "range_hood": (115, 100), "sink": (128, 20),
    "sofa": (680, 100), "stairs": (124, 20), "stool": (90, 20), "table": (392, 100), "tent": (163, 20),
    "toilet": (344, 100), "tv_stand": (267, 100), "vase": (475, 100), "wardrobe": (87, 20), "xbox": (103, 20),
}  # fmt: skip
VIEWS = {"front": 0, "rear": 6}  # of the twelve, 30° apart
VIEW_COUNT, VIEW_STEP = 12, 30.0
IMAGES, MESHES = "images", "off"
SUFFIXES = {IMAGES: ".png", MESHES: ".off"}
MESH_PAGE = "https://modelnet.cs.princeton.edu"
IMAGE_PAGE = "https://github.com/jongchyisu/mvcnn_pytorch"

# airplane_0001.obj.shaded_v001.png, or airplane_0001.001.png
IMAGE_NAME = re.compile(r"(?P<shape>.+?)(?:\.obj)?(?:[._]shaded_v|\.)(?P<number>\d{1,4})\.png", re.IGNORECASE)
LISTABLE = re.compile(r'[^,"\s][^,"\r\n]*')  # a name that fits into a list of `sample,class` lines


class ModelNet40(DatasetBuilder):
    """12,311 shapes; two modalities, "front" and "rear", each one image."""

    name = "modelnet40"
    title = "ModelNet40"
    modalities = ("front", "rear")
    download = DownloadInfo(
        size="12,311 shapes of 40 classes, 9,843 for training and 2,468 for testing; meshes 2 GB zipped, views 1.6 GB",
        terms='"the original authors hold the copyright of the CAD models", which are from the Internet; the set'
        ' "is provided for the convenience of academic research only"',
        page=f"meshes: {MESH_PAGE} (ModelNet40.zip); MVCNN's views: {IMAGE_PAGE} (shaded images)",
        raw="<class>/{train,test}/<shape>.off, or MVCNN's views, which are preferred to meshes:\n"
        "<class>/{train,test}/<shape>.obj.shaded_v001.png … v012.png, or <shape>.001.png … .012.png;\n"
        "or a folder that contains such a folder",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py modelnet40`; their values are the arguments of `prepare`."""
        parser.add_argument(
            "--raw",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder of the class folders, or its parent: meshes ({MESH_PAGE}) or MVCNN's views ({IMAGE_PAGE})",
        )
        parser.add_argument(
            "--from",
            dest="kind",
            choices=(IMAGES, MESHES),
            help="copy MVCNN's views, or render OFF meshes (default: the views if there are any)",
        )
        parser.add_argument(
            "--image_size",
            type=cli.at_least(1),
            default=224,
            help="side of rendered views, in pixels; MVCNN's keep their size (default: %(default)s)",
        )
        sample_preparation.add_arguments(parser)

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        kind: str | None = None,
        image_size: int = 224,
        seed: int = 0,
        workers: int | None = None,
    ) -> PreparationReport:
        """Write front/<shape>.jpg and rear/<shape>.jpg; the split is that of the folders train and test.

        Arguments:
            raw: the folder of the class folders, or its parent.
            out: the prepared folder.
            kind: "images" or "off"; by default images if there are any.
            image_size: side of rendered views, in pixels.
            seed: recorded only; nothing is random here.
            workers: parallel processes; one per available core by default.

        Raises:
            InputError: `raw` holds neither kind, or more than twelve views per shape; a part of the split is empty; or
                as `sample_preparation.prepare_samples`.
        """
        try:
            kind, folder = _raw_folder(raw, kind)
            scan = _scan_images(folder) if kind == IMAGES else _scan_meshes(folder)
        except OSError as error:
            raise InputError(f"the raw folder {error.filename} cannot be read: {error.strerror}.") from error
        for part in PARTS:
            if not scan.labels[part]:
                raise InputError(f"{folder} holds no shape in <class>/{part}; both parts are needed.")
        return sample_preparation.prepare_samples(
            scan.shapes,
            _split(scan.labels),
            DatasetInfo(cls.name, cls.title, False, scan.classes),
            ViewBuilder(image_size if kind == MESHES else None),
            out=out,
            seed=seed,
            workers=workers,
            found=sum(map(len, scan.labels.values())) + scan.misnamed,
            skipped=scan.skipped,
        )

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of the front and the rear view."""
        from mmpareto.data.loading.sources import ImageSource

        for view in VIEWS:
            existing = {path.name for path in (folder / view).glob("*.jpg")}
            missing = [name for name in names if f"{name}.jpg" not in existing]
            if missing:
                raise InputError(
                    f"{len(missing)} of the {len(names)} shapes of {folder / split}.csv are not in {folder / view}, the"
                    f" first is {missing[0]}; prepare them with `python code/prepare.py {cls.name} --raw DIR`."
                )
        files = {view: [folder / view / f"{name}.jpg" for name in names] for view in VIEWS}
        return {view: ImageSource(files[view], options, (folder, f"{split}-{view}")) for view in VIEWS}


# --- the raw folder ---


class Shape(NamedTuple):
    """A raw shape: its mesh, or its front and its rear view."""

    name: str
    label: str
    files: tuple[Path, ...]


@dataclasses.dataclass
class _Scan:
    """Content of a raw folder.

    Attributes:
        shapes: those that can be prepared, in order of class, part and name.
        labels: part → shape → class, of all shapes.
        skipped: reason → shape or file → sentence.
        misnamed: number of files that are not named after a shape.
    """

    shapes: list[Shape] = dataclasses.field(default_factory=list)
    labels: dict[str, dict[str, str]] = dataclasses.field(default_factory=lambda: {part: {} for part in PARTS})
    skipped: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    misnamed: int = 0

    def skip(self, reason: str, name: str, why: str) -> None:
        """Record why a shape or a file is left out."""
        self.skipped.setdefault(reason, {})[name] = f"{name}: {why}"

    def skip_misnamed(self, path: Path, form: str) -> None:
        """Record a file whose name does not have the form <shape>…."""
        self.misnamed += 1
        self.skip("name not of the form", "/".join(path.parts[-3:]), f"is not {form}")

    def add(self, part: str, shape: Shape, problem: str | None = None) -> None:
        """Record a shape, unless another one has its name, which is that of its prepared files, too."""
        if any(shape.name in labels for labels in self.labels.values()):
            self.skip("duplicate name", shape.name, f"the one in {shape.label}/{part} is left out")
            return
        self.labels[part][shape.name] = shape.label
        if problem is None:
            self.shapes.append(shape)
        else:
            self.skip("view missing", shape.name, problem)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the shapes."""
        used = {label for labels in self.labels.values() for label in labels.values()}
        return tuple(label for label in SHAPES if label in used)


def _scan_meshes(folder: Path) -> _Scan:
    """Find the meshes of `folder`/<class>/{train,test}."""
    scan = _Scan()
    for label, part, path in _files(folder, SUFFIXES[MESHES]):
        if LISTABLE.fullmatch(path.stem):
            scan.add(part, Shape(path.stem, label, (path,)))
        else:
            scan.skip_misnamed(path, "<shape>.off without a comma or a quotation mark")
    return scan


def _scan_images(folder: Path) -> _Scan:
    """Find the front and rear views of `folder`/<class>/{train,test} by the numbers in their names.

    Numbers start at the smallest one in the whole folder: some copies count from 0, others from 1.

    Raises:
        InputError: the numbers span more than twelve.
    """
    scan = _Scan()
    views: dict[tuple[str, str, str], dict[int, Path]] = defaultdict(dict)
    for label, part, path in _files(folder, SUFFIXES[IMAGES]):
        match = IMAGE_NAME.fullmatch(path.name)
        if match and LISTABLE.fullmatch(match["shape"]):
            views[label, part, match["shape"]][int(match["number"])] = path
        else:
            scan.skip_misnamed(path, "<shape>.obj.shaded_v<number>.png or <shape>.<number>.png")
    numbers = {number for paths in views.values() for number in paths}
    first, last = min(numbers, default=0), max(numbers, default=0)
    if last - first >= VIEW_COUNT:
        raise InputError(
            f"the views in {folder} are numbered {first} to {last}; expected are twelve per shape, 30° apart"
            f" ({IMAGE_PAGE})."
        )
    for (label, part, name), paths in views.items():
        wanted = {view: first + number for view, number in VIEWS.items()}
        missing = [f"{view} view ({number:03d})" for view, number in wanted.items() if number not in paths]
        files = tuple(paths[number] for number in wanted.values() if number in paths)
        problem = f"there is no {' and no '.join(missing)} in {folder / label / part}" if missing else None
        scan.add(part, Shape(name, label, files), problem)
    return scan


def _raw_folder(raw: Path, kind: str | None) -> tuple[str, Path]:
    """Return the kind of the raw files, and the folder of the class folders: `raw` or one of its subfolders."""
    pages = f"meshes: {MESH_PAGE}, views: {IMAGE_PAGE}"
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} does not exist; {pages}.")
    kinds = (IMAGES, MESHES) if kind is None else (kind,)
    for wanted in kinds:
        for folder in (raw, *sorted(path for path in raw.iterdir() if path.is_dir())):
            if next(_files(folder, SUFFIXES[wanted]), None) is not None:
                return wanted, folder
    suffixes = " or ".join(SUFFIXES[wanted] for wanted in kinds)
    raise InputError(f"the raw folder {raw} holds no <class>/train/*{suffixes}, as in airplane/train; {pages}.")


def _files(folder: Path, suffix: str) -> Iterator[tuple[str, str, Path]]:
    """Yield (class, part, file) for the files with a suffix, in order."""
    for label in SHAPES:
        for part in PARTS:
            subfolder = folder / label / part
            for path in sorted(subfolder.iterdir()) if subfolder.is_dir() else ():
                if path.name.lower().endswith(suffix) and not path.name.startswith("."):  # macOS leaves ._x.off
                    yield label, part, path


def _split(labels: Mapping[str, Mapping[str, str]]) -> Split:
    """Return the split of the folders, official if each class has as many shapes as in the distributed set."""
    tally = {part: Counter(labels[part].values()) for part in PARTS}
    counts = {label: tuple(tally[part][label] for part in PARTS) for label in SHAPES}
    missing = [label for label, count in counts.items() if not any(count)]
    other = [label for label, count in counts.items() if any(count) and count != SHAPES[label]]
    checks = []
    if missing:
        checks.append(f"{len(missing)} of the {len(SHAPES)} classes are missing: {', '.join(missing)}")
    if other:
        (train, test), (all_train, all_test) = counts[other[0]], SHAPES[other[0]]
        checks.append(
            f"{len(other)} classes have other numbers of shapes, such as {other[0]} for training and test:"
            f" {train} ({all_train}) and {test} ({all_test})"
        )
    sentence = "that of the folders train and test, not the official one of 9,843 and 2,468 shapes of 40 classes"
    official = not checks
    return Split([*labels["train"]], [*labels["test"]], "official split" if official else sentence, official, checks)


# --- the prepared files ---


class ImageError(InputError):
    """An image that cannot be used; `reason` is the kind of failure, for counting."""

    reason = "unreadable file"


@dataclasses.dataclass(frozen=True)
class ViewBuilder:
    """Writes front/<shape>.jpg and rear/<shape>.jpg.

    Arguments:
        image_size: side of views rendered from meshes, in pixels; None copies MVCNN's images at their own size.
    """

    image_size: int | None
    folders = tuple(VIEWS)

    @property
    def record(self) -> Mapping[str, Any]:
        """Origin of the views, and the size of rendered ones."""
        return {"from": IMAGES} if self.image_size is None else {"from": MESHES, "image_size": self.image_size}

    def is_done(self, sample: Shape, out: Path) -> bool:
        """Return whether both views exist."""
        return all(_view_path(out, view, sample).exists() for view in VIEWS)

    def build(self, sample: Shape, out: Path) -> None:
        """Write both views, or none.

        Raises:
            InputError: a file of the shape is missing or damaged.
        """
        from mmpareto.data.raw.media import encode_jpeg
        from mmpareto.data.raw.remarks import CONSTANT_PICTURES, is_constant

        if self.image_size is None:
            images = [_read_image(path) for path in sample.files]
        else:
            images = _rendered(sample.files[0], self.image_size)
        write_remarks(out, sample.name, [CONSTANT_PICTURES] if any(map(is_constant, images)) else [])
        for view, content in zip(VIEWS, [encode_jpeg(image) for image in images], strict=True):
            with atomic_path(_view_path(out, view, sample)) as temporary:
                temporary.write_bytes(content)

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """No further entries of prepared.json."""
        return {}


def _view_path(out: Path, view: str, sample: Shape) -> Path:
    return out / view / f"{sample.name}.jpg"


def _rendered(path: Path, size: int) -> "list[np.ndarray]":
    """Render the views of a mesh as uint8 (size, size, 3), RGB."""
    from mmpareto.data.generated.rendering import render
    from mmpareto.data.raw.off_files import read_off

    views = render(read_off(path), [VIEW_STEP * number for number in VIEWS.values()], size)
    return [view[:, :, None].repeat(3, axis=2) for view in views]


def _read_image(path: Path) -> "np.ndarray":
    """Read a PNG file as uint8 (height, width, 3), RGB; transparent pixels become white, like MVCNN's background."""
    import numpy as np
    from PIL import Image

    from mmpareto.data.raw.limits import check_pixels

    try:
        with open_regular(path) as file, Image.open(file) as image:
            check_pixels(*image.size)
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # damaged files cause many kinds
        raise ImageError(f"{path} is not a readable image ({one_line(error)}).") from error
