"""Plots of runs, of methods and of data, drawn without a display.

Every plot of `code/figures.py` is one function

    def draw_<name>(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str

that draws, writes the PNG and the PDF by `style.save(figure, out)`, and returns the text that is printed above their
names ("" for none). `out` has no suffix, or ".png". `options` has the plot's own flags, which its entry in `entries.py`
declares. What cannot be drawn raises an `InputError` that names the run and what to do.

Beside it, `<name>_plot(…) -> Figure` draws and writes nothing, for reports and tests. It creates its figure by
`style.new_figure` under `with style.paper():`, takes colours and lines from `style.lines(labels)`, and ends in
`style.finish(figure, title, notes, banner)`, which makes room for title, notes and the data set's banner. Plots of
several runs take `groups.group_runs(runs)`: one line per group, a mean over seeds.
"""
