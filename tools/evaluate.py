r"""Evaluate models on Scenes and compare them: the table of docs/mini.md, from stored runs.

    python tools/evaluate.py --data data/scenes --splits val,novel,photo --models clip/mini,sclip/mini,mini
    python tools/evaluate.py --data data/scenes --splits val --models mini --distractors 12
    python tools/evaluate.py --data data/scenes --all-training-free --markdown table.md --plot table.png
    python tools/evaluate.py --data data/scenes --all --protocol common --distractors 12 --limit 40 \
        --output runs/scenes --into docs/mini.md

It is `ovseg eval` for every model and split, and `ovseg compare` for every split. With --output the runs are kept: the
same command goes on where it was killed, and only writes its tables again when all is done. Without --distractors every
image is labelled with all names of the data set. With N of them it gets the classes it shows and N others, drawn anew
for each image from a fixed seed.

IoUs are those of the whole split, one confusion matrix for all images: with --distractors a class also pays for the
images in which it was a distractor. The column "by image" is the mean over images of the mean IoU of the things that
the image shows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from ovseg.cli.progress import progress
from ovseg.errors import ConfigError, InputError, OvsegError
from ovseg.evaluation.reports.compare import compare
from ovseg.evaluation.reports.compare_report import write_comparison
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.reports.result import value
from ovseg.evaluation.runs.claim import FRESH, RESUME
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, evaluate
from ovseg.recalibration import list_recalibrations
from ovseg.system import terminal
from ovseg.system.files import atomic_write
from ovseg.zoo import list_models

COLUMNS = {
    "miou_present": "present",
    "miou_all": "all",
    "foreground_miou": "things",
    "things_per_image": "by image",
    "pixel_accuracy": "pixels",
    "pq": "PQ",
    "ap": "AP",
}
BLOCK = "scenes"
"""Name of the block in a Markdown file that --into rewrites."""


def model_names(args: argparse.Namespace) -> list[str]:
    """Return the models that are asked for: by name, every training-free method, or with these every model at hand."""
    methods = [f"{method.lower()}/{args.clip}" for method in list_recalibrations()]
    if args.all:
        return [*methods, *(card.name for card in list_models() if card.installed)]
    return methods if args.all_training_free else args.models.split(",")


def make_jobs(args: argparse.Namespace, folder: Path) -> list[Job]:
    """Return a job for each model and split; missing or broken splits are errors.

    Raises:
        InputError: A split is missing or broken.
    """
    changes = {"MODEL": {"PROTOCOL": {"SHORT_SIDE": args.short_side}}} if args.short_side else {}
    common = {"protocol": args.protocol, "device": args.device, "distractors": args.distractors, "limit": args.limit}
    splits = args.splits.split(",")
    for split in splits:
        try:
            Plan(str(args.data / split)).open_dataset()
        except InputError as error:
            raise InputError(f"{error}; make it with `ovseg datasets scenes`") from error
    return [
        Job(Plan(str(args.data / split), model, overrides=changes, **common), folder / model.replace("/", "-") / split)
        for model in model_names(args)
        for split in splits
    ]


def row(job: Job, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a run for the tables; AP is None for models that tell no objects."""
    return {
        "model": job.plan.model,
        "split": Path(job.plan.dataset).name,
        "images": summary["counts"]["evaluated"],
        **{name: entry["value"] for name, entry in summary["metrics"]["semantic"].items()},
        "things_per_image": value(summary, "image", "things_miou"),
        "pq": value(summary, "panoptic", "pq"),
        "ap": value(summary, "instance", "ap"),
        "ms_per_image": round(1000 * summary["timing"]["seconds_per_image"]),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the results as a table for the terminal."""
    view = Table(
        title="mIoU: present, all, thing classes, things by image; pixel accuracy; PQ; AP", title_justify="left"
    )
    for column in ("model", "split", *COLUMNS.values(), "classes", "ms"):
        view.add_column(column, justify="left" if column in ("model", "split") else "right")
    for row in rows:
        scores = ["-" if row[c] is None else f"{100 * row[c]:.1f}" for c in COLUMNS]
        classes = f"{row['present']} / {row['total']}"
        view.add_row(row["model"], row["split"], *scores, classes, str(row["ms_per_image"]))
    return view


def by_model(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the rows by model and split, the best model of the first split first."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], {})[row["split"]] = row
    first = rows[0]["split"]
    return dict(sorted(found.items(), key=lambda item: -item[1][first]["miou_present"]))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return one Markdown row per model, one column per split: mIoU over present classes / of things by image."""
    splits = list(dict.fromkeys(row["split"] for row in rows))
    lines = ["| model | " + " | ".join(splits) + " | ms / image |", "|---|" + "---|" * (len(splits) + 1)]
    for model, own in by_model(rows).items():
        cells = [f"{100 * own[s]['miou_present']:.1f} / {100 * own[s]['things_per_image']:.1f}" for s in splits]
        lines.append(f"| {model} | " + " | ".join(cells) + f" | {own[splits[0]]['ms_per_image']} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the mIoU over present classes as bars, one group per model and one colour per split, with the time."""
    from matplotlib.figure import Figure

    models, splits = by_model(rows), list(dict.fromkeys(row["split"] for row in rows))
    figure = Figure(figsize=(8, 1 + 0.42 * len(models)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(splits)
    for place, (split, colour) in enumerate(zip(splits, ("#0072b2", "#e69f00", "#009e73", "#cc79a7"), strict=False)):
        values = [100 * own[split]["miou_present"] for own in models.values()]
        axes.barh([i + place * height for i in range(len(models))], values, height, label=split, color=colour)
    times = [own[splits[0]]["ms_per_image"] for own in models.values()]
    middle = [i + height * (len(splits) - 1) / 2 for i in range(len(models))]
    axes.set_yticks(middle, [f"{model}  ({ms:,} ms)" for model, ms in zip(models, times, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel("mIoU over present classes, percent")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110, format="png")


def conditions(args: argparse.Namespace, summary: dict[str, Any]) -> str:
    """Say in a sentence under what the numbers were taken."""
    words = "all words" if args.distractors is None else f"its own classes and {args.distractors} others"
    return (
        f"{summary['counts']['images']} images of each split, each labelled with {words}; protocol "
        f"{summary['protocol']}, {summary['device']}, {summary['precision']}, ovseg {summary['versions']['ovseg']}, "
        f"torch {summary['versions']['torch']}."
    )


def replace_block(path: Path, name: str, text: str) -> None:
    """Put a text between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->`` of a Markdown file.

    Raises:
        InputError: The file cannot be read or lacks the two lines.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); expected a Markdown file") from error
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(content)) != 1:
        raise InputError(f"'{path}' lacks the lines '{begin}' and '{end}'; expected them once, put them in its place")
    with atomic_write(path) as temporary:
        temporary.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", content), encoding="utf-8")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/scenes"), help="folder of `ovseg datasets scenes`")
    parser.add_argument("--splits", default="val,novel,photo")
    parser.add_argument("--models", default="mini", help="comma separated model names")
    parser.add_argument(
        "--all-training-free", action="store_true", help="every training-free method on the CLIP of --clip"
    )
    parser.add_argument("--all", action="store_true", help="these, and every model whose weights are on this machine")
    parser.add_argument("--clip", default="mini", help="card, folder or ARCHITECTURE/TAG for --all-training-free")
    parser.add_argument("--distractors", type=int, help="label with an image's own classes and this many others")
    parser.add_argument("--limit", type=int, help="only the first images of each split")
    parser.add_argument("--short-side", type=int, help="network size in place of the model's own")
    parser.add_argument("--protocol", default="", help="settings of a benchmark, or common (default: the model's own)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="on this machine, one for each GPU")
    parser.add_argument("--output", type=Path, help="keep runs, reports and a comparison of each split in this folder")
    parser.add_argument("--fresh", action="store_true", help="start the runs in --output anew")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--markdown", type=Path, help="write a Markdown table here")
    parser.add_argument("--into", type=Path, help=f"write the table between the '{BLOCK}' marks of this Markdown file")
    parser.add_argument("--plot", type=Path, help="draw the table here, as a PNG")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}; expected at least 1")
    return args


def run(args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Evaluate every model on every split; with --output also compare them.

    Returns:
        A row and the whole result of each run; none in all processes of torchrun but the first.
    """
    jobs = make_jobs(args, folder)
    with progress() as report:
        runs = evaluate(jobs, args.processes, report, FRESH if args.fresh else RESUME) or []
    summaries = [finish([one]) for one in runs]
    rows = [row(job, summary) for job, summary in zip(jobs, summaries, strict=False)]
    for split in args.splits.split(",") if args.output and len({one["model"] for one in rows}) > 1 else ():
        folders = [job.folder for job in jobs if Path(job.plan.dataset).name == split]
        write_comparison(folder / f"compare-{split}", *compare(folders))
    return rows, summaries


def write_tables(args: argparse.Namespace, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write what was asked for."""
    if args.plot:
        with atomic_write(args.plot) as temporary:
            plot(rows, temporary)
    for path, text in ((args.json, json.dumps(rows, indent=1)), (args.markdown, markdown(rows))):
        if path:
            with atomic_write(path) as temporary:
                temporary.write_text(text)
    if args.into:
        replace_block(args.into, BLOCK, f"{conditions(args, summary)}\n\n{markdown(rows)}")


def main(argv: list[str] | None = None) -> int:
    """Evaluate every model on every split and print one table.

    Returns:
        0, or 1 when images could not be evaluated.
    """
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        rows, summaries = run(args, args.output or Path(scratch))
    if rows:
        terminal.console().print(table(rows))
        write_tables(args, rows, summaries[0])
    failed = [one for summary in summaries for one in summary["failed"]]
    for one in failed:
        print(f"error: {one['image']}: {one['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OvsegError as error:
        sys.exit(f"error: {error}")
