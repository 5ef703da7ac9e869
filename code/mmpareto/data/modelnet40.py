"""ModelNet40: shapes of 40 kinds (Wu et al., CVPR 2015), seen from the front and from the rear.

The modalities are two of the twelve views a shape of MVCNN (Su et al., ICCV 2015): the first and the seventh, half a
turn further. They are taken from MVCNN's pictures, or rendered from the meshes in the same setup (see `rendering`).
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
from mmpareto.data.preparation.prepared_folder import DatasetInfo
from mmpareto.data.preparation.report import Report
from mmpareto.data.preparation.splits import PARTS, Split
from mmpareto.errors import InputError
from mmpareto.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

    from mmpareto.data.loading.sources import Source

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
LISTABLE = re.compile(r'[^,"\s][^,"\r\n]*')  # a name that a list of `sample,class` lines can hold

Skipped = dict[str, dict[str, str]]


class ModelNet40(DatasetBuilder):
    """12,311 shapes; two modalities, "front" and "rear", an image each."""

    name = "modelnet40"
    title = "ModelNet40"
    download = DownloadInfo(
        size="12,311 shapes of 40 classes, 9,843 for training and 2,468 for testing; meshes 2 GB zipped, views 1.6 GB",
        terms='"the original authors hold the copyright of the CAD models", which are from the Internet; the set'
        ' "is provided for the convenience of academic research only"',
        page=f"meshes: {MESH_PAGE} (ModelNet40.zip); MVCNN's views: {IMAGE_PAGE} (shaded images)",
        raw="<class>/{train,test}/<shape>.off, or MVCNN's views, which are used where both are there:\n"
        "<class>/{train,test}/<shape>.obj.shaded_v001.png … v012.png, or <shape>.001.png … .012.png;\n"
        "or a folder that holds such a folder",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py modelnet40`; their values are the arguments of `prepare`."""
        parser.add_argument(
            "--raw",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder of the class folders, or one above: meshes ({MESH_PAGE}) or MVCNN's views ({IMAGE_PAGE})",
        )
        parser.add_argument(
            "--from",
            dest="kind",
            choices=(IMAGES, MESHES),
            help="take MVCNN's views, or render OFF meshes (default: the views where they are there)",
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
    ) -> Report:
        """Write front/<shape>.jpg and rear/<shape>.jpg; the split is that of the folders train and test.

        Arguments:
            raw: the folder of the class folders, or one above it.
            out: the prepared folder.
            kind: "images" or "off"; the images where both are there.
            image_size: side of rendered views, in pixels.
            seed: goes into the record; nothing here is random.
            workers: parallel processes; all cores by default.

        Raises:
            InputError: `raw` holds neither kind, the views are not twelve a shape, there is nothing to train or to test
                on, or as `sample_preparation.prepare_samples`.
        """
        try:
            kind, folder = _raw_folder(raw, kind)
            found = scan_images(folder) if kind == IMAGES else scan_meshes(folder)
        except OSError as error:
            raise InputError(f"the raw folder {error.filename} cannot be read: {error.strerror}.") from error
        for part in PARTS:
            if not found.names[part]:
                raise InputError(f"{folder} holds no shape in <class>/{part}; both parts are needed.")
        making = RenderedViews(image_size) if kind == MESHES else CopiedViews()
        return sample_preparation.prepare_samples(
            found.shapes,
            _split(found.names),
            DatasetInfo(cls.name, cls.title, False, found.classes),
            making,
            out=out,
            seed=seed,
            workers=workers,
            found=sum(len(names) for names in found.names.values()) + found.nameless,
            skipped=found.skipped,
        )

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, Source]":
        """The front and the rear view."""
        from mmpareto.data.loading.sources import ImageSource

        for view in VIEWS:
            there = {path.name for path in (folder / view).glob("*.jpg")}
            absent = [name for name in names if f"{name}.jpg" not in there]
            if absent:
                raise InputError(
                    f"{len(absent)} of the {len(names)} shapes of {folder / split}.csv are not in {folder / view}, the"
                    f" first is {absent[0]}; prepare them with `python code/prepare.py {cls.name} --raw DIR`."
                )
        files = {view: [folder / view / f"{name}.jpg" for name in names] for view in VIEWS}
        return {view: ImageSource(files[view], options, (folder, f"{split}-{view}")) for view in VIEWS}


# --- what the raw folder holds ---


class PictureError(InputError):
    """A picture that cannot be used; `reason` is the kind of failure, for counting."""

    reason = "unreadable file"


class Shape(NamedTuple):
    """A shape as it is distributed: its mesh, or its front and its rear view."""

    name: str
    label: str
    files: tuple[Path, ...]


@dataclasses.dataclass
class Found:
    """What a raw folder holds.

    Attributes:
        shapes: those that can be prepared, in order of class, part and name.
        names: part → shape → class, of all shapes.
        skipped: kind of reason → shape or file → sentence.
        nameless: files whose names are not of the form.
    """

    shapes: list[Shape] = dataclasses.field(default_factory=list)
    names: dict[str, dict[str, str]] = dataclasses.field(default_factory=lambda: {part: {} for part in PARTS})
    skipped: Skipped = dataclasses.field(default_factory=dict)
    nameless: int = 0

    def skip(self, kind: str, name: str, why: str) -> None:
        """Note why a shape or a file is left out."""
        self.skipped.setdefault(kind, {})[name] = f"{name}: {why}"

    def skip_file(self, path: Path, form: str) -> None:
        """Note that a file's name says not of which shape it is."""
        self.nameless += 1
        self.skip("name not of the form", f"{path.parent.parent.name}/{path.parent.name}/{path.name}", f"is not {form}")

    def add(self, part: str, shape: Shape) -> bool:
        """Take a shape in; False where another one has its name, which is what its files are called."""
        if any(shape.name in names for names in self.names.values()):
            self.skip("name there twice", shape.name, f"the one in {shape.label}/{part} is left out")
            return False
        self.names[part][shape.name] = shape.label
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that there are."""
        there = {label for names in self.names.values() for label in names.values()}
        return tuple(label for label in SHAPES if label in there)


def scan_meshes(folder: Path) -> Found:
    """The meshes of `folder`/<class>/{train,test}."""
    found = Found()
    for label, part, path in _files(folder, SUFFIXES[MESHES]):
        if not LISTABLE.fullmatch(path.stem):
            found.skip_file(path, "<shape>.off without a comma or a quotation mark")
            continue
        shape = Shape(path.stem, label, (path,))
        if found.add(part, shape):
            found.shapes.append(shape)
    return found


def scan_images(folder: Path) -> Found:
    """The front and rear views of `folder`/<class>/{train,test}, found by the numbers in their names.

    Numbers begin at the smallest one that occurs anywhere: some copies count from 0, others from 1.

    Raises:
        InputError: the numbers span more than twelve.
    """
    found = Found()
    views: dict[tuple[str, str, str], dict[int, Path]] = defaultdict(dict)
    for label, part, path in _files(folder, SUFFIXES[IMAGES]):
        form = IMAGE_NAME.fullmatch(path.name)
        if form is None or not LISTABLE.fullmatch(form["shape"]):
            found.skip_file(path, "<shape>.obj.shaded_v<number>.png or <shape>.<number>.png")
        else:
            views[label, part, form["shape"]][int(form["number"])] = path
    numbers = {number for paths in views.values() for number in paths}
    first, last = min(numbers, default=0), max(numbers, default=0)
    if last - first >= VIEW_COUNT:
        raise InputError(
            f"the views in {folder} are numbered {first} to {last}; twelve a shape, 30° apart, are expected"
            f" ({IMAGE_PAGE})."
        )
    for (label, part, name), paths in views.items():
        wanted = {view: first + number for view, number in VIEWS.items()}
        shape = Shape(name, label, tuple(paths[number] for number in wanted.values() if number in paths))
        if not found.add(part, shape):
            continue
        absent = [f"{view} view ({number:03d})" for view, number in wanted.items() if number not in paths]
        if absent:
            found.skip("view missing", name, f"there is no {' and no '.join(absent)} in {folder / label / part}")
        else:
            found.shapes.append(shape)
    return found


def _raw_folder(raw: Path, kind: str | None) -> tuple[str, Path]:
    """The kind of the raw files, and the folder of the class folders: `raw`, or one just inside."""
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} is not there; meshes: {MESH_PAGE}, views: {IMAGE_PAGE}.")
    inside = sorted(path for path in raw.iterdir() if path.is_dir())
    for wanted in (IMAGES, MESHES) if kind is None else (kind,):
        for folder in (raw, *inside):
            if next(_files(folder, SUFFIXES[wanted]), None) is not None:
                return wanted, folder
    suffixes = " or ".join(SUFFIXES.values()) if kind is None else SUFFIXES[kind]
    raise InputError(
        f"the raw folder {raw} does not hold <class>/train/*{suffixes}, as in airplane/train;"
        f" meshes: {MESH_PAGE}, views: {IMAGE_PAGE}."
    )


def _files(folder: Path, suffix: str) -> Iterator[tuple[str, str, Path]]:
    """(class, part, file) of the files of a suffix, in order."""
    for label in SHAPES:
        for part in PARTS:
            place = folder / label / part
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if path.name.lower().endswith(suffix) and not path.name.startswith("."):  # ._x.off: left by macOS
                    yield label, part, path


def _split(names: Mapping[str, Mapping[str, str]]) -> Split:
    """The split of the folders, official if every class has as many shapes as were distributed."""
    tally = {part: Counter(names[part].values()) for part in PARTS}
    counts = {label: tuple(tally[part][label] for part in PARTS) for label in SHAPES}
    absent = [label for label, there in counts.items() if not any(there)]
    other = [label for label, there in counts.items() if any(there) and there != SHAPES[label]]
    checks = []
    if absent:
        checks.append(f"{len(absent)} of the {len(SHAPES)} classes are not there: {', '.join(absent)}")
    if other:
        example = " and ".join(
            f"{n} ({official})" for n, official in zip(counts[other[0]], SHAPES[other[0]], strict=True)
        )
        checks.append(
            f"{len(other)} classes have other numbers of shapes, as {other[0]} for training and test: {example}"
        )
    sentence = "that of the folders train and test, not the official one of 9,843 and 2,468 shapes of 40 classes"
    official = not checks
    return Split(
        list(names["train"]), list(names["test"]), "official split" if official else sentence, official, checks
    )


# --- what is made of a shape ---


class _Views:
    """front/<shape>.jpg and rear/<shape>.jpg; `record` says how they are made."""

    folders = tuple(VIEWS)

    def is_done(self, sample: Shape, out: Path) -> bool:
        """Whether both are there."""
        return all(_view_path(out, view, sample).exists() for view in VIEWS)

    def make(self, sample: Shape, out: Path) -> None:
        """Write both, when both could be made.

        Raises:
            InputError: a file of the shape is missing or damaged.
        """
        from mmpareto.data.raw.media import encode_jpeg

        pictures = [encode_jpeg(picture) for picture in self.pictures(sample)]
        for view, picture in zip(VIEWS, pictures, strict=True):
            with atomic_path(_view_path(out, view, sample)) as temporary:
                temporary.write_bytes(picture)

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """Nothing beside the record."""
        return {}

    def pictures(self, sample: Shape) -> "list[np.ndarray]":
        """The views as uint8 (height, width, 3), RGB."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class CopiedViews(_Views):
    """MVCNN's pictures, at their own size."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Where the views come from."""
        return {"from": IMAGES}

    def pictures(self, sample: Shape) -> "list[np.ndarray]":
        """The views as uint8 (height, width, 3), RGB."""
        return [_read_picture(path) for path in sample.files]


@dataclasses.dataclass(frozen=True)
class RenderedViews(_Views):
    """Pictures of the mesh.

    Arguments:
        image_size: their side, in pixels.
    """

    image_size: int

    @property
    def record(self) -> Mapping[str, Any]:
        """Where the views come from, and their size."""
        return {"from": MESHES, "image_size": self.image_size}

    def pictures(self, sample: Shape) -> "list[np.ndarray]":
        """The views as uint8 (size, size, 3), RGB."""
        from mmpareto.data.generated.rendering import render
        from mmpareto.data.raw.off_files import read_off

        azimuths = [VIEW_STEP * number for number in VIEWS.values()]
        views = render(read_off(sample.files[0]), azimuths, self.image_size)
        return [view[:, :, None].repeat(3, axis=2) for view in views]


def _view_path(out: Path, view: str, sample: Shape) -> Path:
    return out / view / f"{sample.name}.jpg"


def _read_picture(path: Path) -> "np.ndarray":
    """A PNG file as uint8 (height, width, 3), RGB; what is transparent is white, like MVCNN's background."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path} is not a readable image ({error}).") from error
