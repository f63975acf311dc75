"""Label whole folders, archives and videos by your words, as a job that can be killed at any moment and goes on.

INPUT is a folder (with all below it), an image, a list (.txt, a path in each line), a pattern in quotes, a .tar archive
of images as webdataset has them, or a video. Results are named after the paths of the images and never move, whatever
is added later. The folder gets the files of --formats, review/index.html (to look them through, opens without a
server), images.jsonl (what each image shows), failed.jsonl (what could not be labelled, and why) and run.json (what
made it, and how long it took). The same command goes on where it was; where words, options, weights or images have
changed meanwhile it is refused in one line that says what, and --fresh starts anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.cli.formats import add_format_arguments, cleaning_options, format_options
from ovseg.cli.process import typed

if TYPE_CHECKING:
    from ovseg.cli.progress import Report
    from ovseg.jobs.label.estimate import Estimate
    from ovseg.jobs.label.plan import LabelPlan
    from ovseg.jobs.label.run import Labelled

EXAMPLES = """\
examples:
  ovseg label photos/ --classes "cat, sofa|couch, wall" --model mini --output labels
  ovseg label photos/ --classes words.txt --model mini --formats dataset --output mydata --dry-run
  ovseg label shards/*.tar --classes words.txt --model mini --formats coco-semantic,voc --processes 2 --output labels
  ovseg label clip.mp4 --every 25 --classes "road, car, sky" --model mini --formats overlay,labels --output frames
  ovseg label list.txt "more/**/*.jpg" --classes words.txt --model mini --keep-tree --output labels
  ovseg label photos/ --classes words.txt --model mini --output labels --retry-failed
  ovseg label photos/ --classes words.txt --model mini --output labels --ray

exit codes: 0 all images are labelled, 1 some could not be (failed.jsonl), 2 a mistake in what was asked for
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg label``."""
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="folders, images, lists, patterns, .tar archives, videos")
    add("--classes", type=typed, required=True, help="'cat|kitten, sofa', a file, or a preset; see docs/words.md")
    add("--model", required=True, help="a name of `ovseg models`, a folder, or a config; a job has no default")
    add("--output", required=True, metavar="DIR", help="folder of the job, for one process at a time")
    add_format_arguments(parser, default="labels")
    add("--keep-tree", action="store_true", help="results keep the suffix of their image: a.jpg.labels.png, always")
    add("--every", type=int, default=1, metavar="N", help="every N-th frame of videos (default: 1, all)")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--bands", metavar="R,G,B", help="bands that are red, green and blue, from 1; or one for grey (default: 1,2,3)")
    add("--max-pixels", type=int, metavar="N", help="refuse larger images (default: 178956970)")
    job = parser.add_argument_group("job")
    job.add_argument(
        "--processes", type=int, metavar="N", help="on this machine (default: 1), or actors of the cluster"
    )
    job.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="work on a Ray cluster (default address: $RAY_ADDRESS, else one of this machine alone); inputs lie on "
        "paths that all machines share, --output too, or at s3://, gs://, ...",
    )
    begin = job.add_mutually_exclusive_group()
    begin.add_argument("--retry-failed", action="store_true", help="try images again that could not be labelled")
    begin.add_argument("--fresh", action="store_true", help="delete what a job wrote into --output, and start anew")
    job.add_argument("--dry-run", action="store_true", help="say what would be done, how long and how large; no more")
    job.add_argument("--json", action="store_true", help="print one JSON line at the end, and nothing else")
    job.add_argument("--quiet", action="store_true", help="print errors alone (and what --json prints)")
    model = parser.add_argument_group("model")
    model.add_argument("--protocol", default="", help="settings of a benchmark, or common (default: the model's)")
    model.add_argument("--background", type=typed, help="none | threshold:0.4 | words | 'sky, wall' (default: model's)")
    model.add_argument("--templates", help="name of a template set (default: that of the model)")
    model.add_argument("--device", default="auto", help="auto | cpu | cuda | mps")
    model.add_argument("--dtype", default="auto", help="auto | fp32 | bf16 | fp16")


def run(args: argparse.Namespace) -> int:
    """Label, and say how it went; images that fail are named in failed.jsonl, and the exit code is 1."""
    from ovseg.checkpoint.hub import quietly
    from ovseg.cli.progress import progress
    from ovseg.errors import InputError, at_least
    from ovseg.jobs.label.estimate import estimate
    from ovseg.jobs.label.here import Here
    from ovseg.jobs.label.mirror import is_remote
    from ovseg.jobs.label.run import label

    plan = _plan(args)
    limit = None if args.limit is None else at_least("--limit", args.limit, 1)
    begin = {"fresh": args.fresh, "retry": args.retry_failed, "limit": limit}
    if is_remote(args.output) and (args.ray is None or args.dry_run):
        raise InputError(f"--output '{args.output}' is no folder of this machine; expected one, or --ray")
    with quietly(args.quiet), progress(args.quiet or args.json) as report:
        if args.dry_run:
            return _tell_estimate(estimate(plan, Path(args.output), report, **begin), plan, args)
        if args.ray is None:
            runner = Here(1 if args.processes is None else args.processes)
            done = label(plan, Path(args.output), runner, report, **begin)
        else:
            done = _on_cluster(plan, args, report, begin)
    _tell(done, args)
    return 1 if done.failed else 0


def _on_cluster(plan: LabelPlan, args: argparse.Namespace, report: Report, begin: dict[str, Any]) -> Labelled:
    """Label by Ray; where the results are remote, this machine holds the log of the job meanwhile."""
    from ovseg.jobs.label.cluster import Cluster
    from ovseg.jobs.label.mirror import Mirror, is_remote, mirrored
    from ovseg.jobs.label.run import label

    if not is_remote(args.output):
        return label(plan, Path(args.output), Cluster(args.ray, args.processes), report, **begin)
    plan.check()
    mirror = Mirror(args.output)
    runner = Cluster(args.ray, args.processes, mirror)
    with mirrored(mirror, begin["fresh"]) as folder:
        return label(plan, folder, runner, report, **begin)


def _plan(args: argparse.Namespace) -> LabelPlan:
    from ovseg.data.arrays import check_bands
    from ovseg.data.decoding import MAX_PIXELS
    from ovseg.jobs.label.plan import LabelPlan
    from ovseg.result.cleaning import Cleaning
    from ovseg.vocabulary import Vocabulary

    return LabelPlan(
        inputs=tuple(args.inputs),
        classes=Vocabulary.parse(args.classes),
        model=args.model,
        protocol=args.protocol,
        background=args.background,
        templates=args.templates,
        formats=tuple(name.strip() for name in args.formats.split(",")),
        options=format_options(args),
        cleaning=Cleaning(**cleaning_options(args)),
        every=args.every,
        keep_tree=args.keep_tree,
        bands=None if args.bands is None else check_bands(args.bands.split(",")),
        max_pixels=MAX_PIXELS if args.max_pixels is None else args.max_pixels,
        device=args.device,
        dtype=args.dtype,
    )


def _tell(done: Labelled, args: argparse.Namespace) -> None:
    from ovseg.system.terminal import one_line

    failed, labelled = done.failed, len(done.rows) - len(done.failed)
    fresh = len(done.rows) - done.before
    rate = fresh / done.seconds if fresh else 0.0
    if args.json:
        counts = {"images": done.total, "labelled": labelled, "failed": len(failed), "before": done.before}
        times = {"seconds": round(done.seconds, 3), "images_per_second": round(rate, 3)}
        print(json.dumps({"output": args.output, **counts, **times, "notes": done.notes}))
    _notes(done.notes, args)
    for row in failed[:_NAMED]:
        print(f"error: {one_line(row['error'])}", file=sys.stderr)
    if len(failed) > _NAMED:
        print(f"error: and {len(failed) - _NAMED} more; {args.output}/failed.jsonl has all", file=sys.stderr)
    if args.quiet or args.json:
        return
    before = f", {done.before} of them before" if done.before else ""
    bad = f", {len(failed)} failed (try them again with --retry-failed)" if failed else ""
    speed = f" in {done.seconds:.1f} s ({rate:.1f} images/s)" if fresh else ""
    print(
        f"{labelled} of {done.total} images labelled{before}{speed}{bad}; {args.output.rstrip('/')}/review/index.html"
    )


_NAMED = 5  # images that are named; failed.jsonl has all


def _notes(notes: list[str], args: argparse.Namespace) -> None:
    from ovseg.system.terminal import one_line

    if not (args.quiet or args.json):
        for line in notes:
            print(f"note: {one_line(line)}", file=sys.stderr)


def _tell_estimate(found: Estimate, plan: LabelPlan, args: argparse.Namespace) -> int:
    from ovseg.system.terminal import one_line

    if args.json:
        print(json.dumps({**dataclasses.asdict(found), "formats": list(plan.formats)}))
        return 0
    _notes(found.notes, args)
    for line in found.problems[:_NAMED]:
        print(f"error: {one_line(line)}", file=sys.stderr)
    print(f"{found.images} images, {found.done} of them done; {found.missing} would be labelled with {plan.model}")
    print(f"formats: {', '.join(plan.formats)}; {len(plan.classes)} classes; into {args.output}")
    if found.tried:
        minutes = f"{int(found.seconds) // 3600}:{int(found.seconds) // 60 % 60:02d}:{int(found.seconds) % 60:02d}"
        size = found.bytes / 2**20
        print(f"about {minutes} in one process and {size:.1f} MiB, measured on {found.tried} images")
    return 0
