"""Pictures, drawn without a display: of runs, of methods, of data.

Every figure of `code/figures.py` is one function

    def draw_<name>(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str

that reads the runs' folders, draws, writes by `files.save(figure, out)` (PNG and PDF), and returns the text to print
above the names of these two files ("" for none). `out` has no suffix, or ".png". `options` holds the figure's own
flags, which its entry in `entries.py` lists as the arguments of `add_argument`; each is there, with its default. What
cannot be drawn is an `InputError` that names the run and what to do.

Beside it stands `<name>_figure(…) -> Figure`, which draws and writes nothing, for reports and tests. It makes its
figure by `style.new_figure` under `with style.paper():`, takes colours and lines from `style.lines(labels)`, and ends
in `style.finish(figure, title, notes, banner)`, which makes room for the title, the notes and the data set's banner.
"""
