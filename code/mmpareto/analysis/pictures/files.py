"""A figure into files: PNG for screens and slides, PDF for papers; the same data give the same bytes."""

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmpareto.errors import InputError
from mmpareto.files import atomic_path

PRINT_DPI = 300  # what journals ask of pictures with lines and text is 300 to 600
OTHER_FORMATS = (".svg", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp")
# Without date and version, a file differs only where the figure does. Fonts as TrueType: many journals refuse Type 3.
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
EMBEDDED_FONTS = {"pdf.fonttype": 42}


def save(figure: Figure, out: Path, dpi: int = PRINT_DPI) -> list[Path]:
    """Write `figure` as PNG and as PDF, each whole; the two paths.

    Arguments:
        out: the name of both without suffix; a ".png" or ".pdf" at its end does not count.
        dpi: of the PNG, and of pixels inside the PDF.

    Raises:
        InputError: `out` has the suffix of another format, is a folder, or cannot be written.
    """
    FigureCanvasAgg(figure)
    paths = names(out)
    with matplotlib.rc_context(EMBEDDED_FONTS):  # type: ignore[arg-type]  # its stub wants literal keys
        for path in paths:
            kind = path.suffix[1:]
            try:
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format=kind, dpi=dpi, metadata=METADATA[kind])
            except OSError as error:
                raise InputError(
                    f"{path} cannot be written ({error.strerror or error}): give another --out."
                ) from error
    return paths


def names(out: Path) -> list[Path]:
    """The PNG's and the PDF's path; see `save`."""
    if out.suffix.lower() in OTHER_FORMATS:
        raise InputError(f"--out {out}: figures are written as PNG and PDF; give a name that ends in .png.")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: give the name of a file in it.")
    bare = out.with_suffix("") if out.suffix.lower() in (".png", ".pdf") else out
    return [bare.with_name(f"{bare.name}{suffix}") for suffix in (".png", ".pdf")]
