"""Evaluate a model on a data set: every number with its rule, and a report in one file.

The folder gets result.json (all numbers, rules, settings, versions, hashes), per_class.csv, report.html (to open in a
browser, also without a network), labels/ (16-bit PNGs of what was predicted) and images.jsonl (what was measured on
each image, for `ovseg compare`); run.json and data.jsonl hold what made them, by content: weights, settings, words,
images, labels. A run that was killed goes on where it was when the same command is given again, with equal numbers;
images that failed are tried again. Where anything that makes numbers has changed meanwhile, it is refused in one line
that says what; --fresh then starts anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg.evaluation.runs.plan import Plan
    from ovseg.evaluation.runs.run import Run

EXAMPLES = """\
examples:
  ovseg eval --model sclip/ViT-B-16/openai --dataset voc20_val --output runs/sclip-voc20
  ovseg eval --model mini --dataset data/scenes/val --distractors 12 --protocol common --output runs/mini
  ovseg eval --model fast --dataset mydata --vocabulary words.txt --novel "cup, leaf" --processes 2 --output runs/mine
  ovseg eval --dataset mydata --predictions labels/ --output runs/theirs
  ovseg eval --model best --dataset phrasecut_val --background words --output runs/phrases
  ovseg eval --model fast --dataset mydata --corruptions fog,blur:1-3 --typos 1,2 --openness 10,100 --output runs/robust
  torchrun --nproc-per-node 8 -m ovseg.cli eval --model san-vit-b-16 --dataset ade150_val --output runs/san

a data set is a name that training knows (below --root or $DETECTRON2_DATASETS), or a folder:
  images/a.jpg + labels/a.png + classes.txt, or images/ and a COCO JSON file (DIR:FILE.json chooses one of several)

exit codes: 0 all images were evaluated, 1 some could not be (they are named), 2 a mistake in what was asked for
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg eval``."""
    add = parser.add_argument
    add("--dataset", required=True, metavar="D", help="a name or a folder")
    add("--root", default="", metavar="DIR", help="folder of the named data sets (default: $DETECTRON2_DATASETS)")
    add("--model", default="", help="as for `ovseg segment`, but by a name; needed without --predictions")
    add(
        "--predictions",
        default="",
        metavar="DIR",
        help="evaluate saved .labels.png, .png or .npz instead, named by the path of their image below the images",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the run")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--fresh", action="store_true", help="delete what a run has written into --output, and start anew"
    )
    begin.add_argument(
        "--adopt",
        action="store_true",
        help="go on with a run of an earlier version, which did not keep what made it: compare what can be compared",
    )
    add("--tasks", default="", help="semantic,panoptic,instance or prompt,referring (default: all that fit the labels)")
    add("--limit", type=int, metavar="N", help="only the first images")
    add("--processes", type=int, default=1, metavar="N", help="on this machine, one for each GPU (default: 1)")
    add("--boundary", action="store_true", help="measure Boundary IoU too")
    add("--novel", default="", metavar="WORDS", help="classes that the training has not seen, names or a file")
    add("--seed", type=int, default=0, help="of distractors, corruptions and what is random in a model (default: 0)")
    words = parser.add_argument_group("words")
    words.add_argument("--vocabulary", default="", help="in place of the data set's own: names, a file, or a preset")
    words.add_argument(
        "--rename", default="", metavar="OLD=NEW,..", help="names for classes of the data set, or a file"
    )
    words.add_argument(
        "--distractors", type=int, metavar="N", help="label each image with its own classes and N others, not with all"
    )
    words.add_argument("--background", help="none | threshold:0.4 | words | 'sky, wall' (default: that of the model)")
    words.add_argument("--templates", help="name of a template set (default: that of the model)")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--protocol", default="", help="settings and words of a benchmark, or common (default: the model's)"
    )
    model.add_argument("--device", default="auto", help="auto | cpu | cuda | mps")
    model.add_argument("--dtype", default="auto", help="auto | fp32 | bf16 | fp16")
    robust = parser.add_argument_group("robustness: each condition is a run of its own; means and drops in the report")
    robust.add_argument("--corruptions", default="", metavar="LIST", help="all, or such as fog,noise:1-3,snow:5")
    robust.add_argument("--typos", default="", metavar="N", help="mistakes in each name, such as 1,2")
    robust.add_argument("--paraphrases", default="", metavar="N", help="other wordings, such as 1-5")
    robust.add_argument("--openness", default="", metavar="N", help="names added to the vocabulary, such as 10,100")
    robust.add_argument("--typographic", default="", metavar="N", help="wrong words written on the photo, 1-5")


def run(args: argparse.Namespace) -> int:
    """Evaluate, write and print; images that fail are named, the others are done, and the exit code is 1."""
    import dataclasses

    from ovseg.cli.progress import progress
    from ovseg.evaluation.reports.finish import finish
    from ovseg.evaluation.robustness import conditions
    from ovseg.evaluation.runs.claim import ADOPT, FRESH, RESUME
    from ovseg.evaluation.runs.run import Job, evaluate

    tests = conditions(args.corruptions, args.typos, args.paraphrases, args.openness, args.typographic, seed=args.seed)
    plan = _plan(args)
    jobs = [Job(plan, args.output)]
    for condition in tests[1:]:
        own = dataclasses.replace(plan, condition=condition)
        jobs.append(Job(own, args.output / "robustness" / condition.key))
    with progress() as report:
        runs = evaluate(jobs, args.processes, report, FRESH if args.fresh else ADOPT if args.adopt else RESUME)
    if runs is None:  # torchrun: the first process writes
        return 0
    summary = finish(runs)
    _print(summary, [*filter(None, map(_done_before, runs)), *summary["notes"]], args.output)
    return 1 if summary["failed"] else 0


def _plan(args: argparse.Namespace) -> Plan:
    import dataclasses

    from ovseg.evaluation.runs.plan import Plan

    names = [entry.name for entry in dataclasses.fields(Plan) if entry.name not in ("tasks", "overrides", "condition")]
    tasks = tuple(filter(None, (task.strip() for task in args.tasks.split(","))))
    return Plan(**{name: getattr(args, name) for name in names}, tasks=tasks)


def _done_before(run: Run) -> str:
    """Say what was not evaluated in this call; empty where all was."""
    if not run.before:
        return ""
    of, made = len(run.dataset.records), "by the same weights, settings and words on the same data"
    made += ", as far as that could be compared" if run.notes else ""
    if run.before == of:
        return f"'{run.folder}' holds the finished run, made {made}: these are its numbers, nothing was evaluated anew"
    return f"{run.before} of {of} images of '{run.folder}' were evaluated before, {made}"


def _print(summary: dict[str, Any], notes: list[str], folder: Path) -> None:
    import sys

    from ovseg.evaluation.reports.page import percent
    from ovseg.evaluation.reports.report import TILES
    from ovseg.evaluation.reports.result import value
    from ovseg.system.terminal import one_line

    counts = summary["counts"]
    names = {"present": counts.get("classes_present", 0), "all": counts["classes_all"]}
    for task, name, text in TILES:
        number = value(summary, task, name)
        if number is not None:
            print(f"{percent(number):>6}  {text.format(**names)}")
    for line in notes:
        print(f"note: {one_line(line)}", file=sys.stderr)
    for line in summary["warnings"]:
        print(f"warning: {one_line(line)}", file=sys.stderr)
    for one in summary["failed"]:
        print(f"error: {one_line(one['image'])}: {one_line(one['error'])}", file=sys.stderr)
    print(f"{counts['evaluated']} of {counts['images']} images evaluated; {folder / 'report.html'}")
