"""Open a web page: photographs and words in a browser, for one user or many; see docs/serve.md.

The page listens to this machine alone unless --host says otherwise. Photographs stay in memory, and are dropped after a
while; nothing outside the page's own files is handed out. It works without a network. SIGTERM and ctrl-C answer what is
running, then end.
"""

from __future__ import annotations

import argparse
import os
import sys

EXAMPLES = """\
examples:
  ovseg serve
  ovseg serve --port 8080 --model mini --models sclip/mini,runs/mine
  ovseg serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
"""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg serve``."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at; 0 takes a free one (default: 7860)")
    parser.add_argument("--token", default="", help="a secret that everything asks for (default: none)")
    parser.add_argument(
        "--model", default="auto", help="the model that is chosen at first (default: auto, with mini beside it)"
    )
    parser.add_argument(
        "--models", default="", metavar="NAMES", help="other models to choose from, with commas (default: none)"
    )
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | mps")
    parser.add_argument("--dtype", default="auto", help="auto | fp32 | bf16 | fp16")
    group = parser.add_argument_group("limits")
    for flag, kind, text in (
        ("--max-megabytes", float, "of an uploaded photograph (default: 32)"),
        ("--max-pixels", int, "of a photograph (default: 50000000)"),
        ("--max-words", int, "in a list (default: 1000)"),
        ("--workers", int, "requests that are computed at once (default: 2)"),
        ("--queue", int, "requests that may wait (default: 32)"),
        ("--seconds", float, "that a request may take (default: 120)"),
        ("--memory", float, "megabytes of photographs and answers that are kept (default: 1024)"),
        ("--keep", float, "minutes for which they are kept (default: 120)"),
    ):
        group.add_argument(flag, type=kind, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from ovseg.errors import EnvironmentProblem

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"the page needs a package ({error}): run `pip install 'ovseg[web]'`") from error
    from ovseg.serve.limits import Limits
    from ovseg.serve.models import Models
    from ovseg.serve.server import listen, serve
    from ovseg.serve.service import Service
    from ovseg.system.device import few_arenas
    from ovseg.zoo import load, resolve
    from ovseg.zoo.aliases import AUTO

    named = {
        "megabytes": args.max_megabytes,
        "pixels": args.max_pixels,
        "words": args.max_words,
        "workers": args.workers,
        "waiting": args.queue,
        "seconds": args.seconds,
        "memory": args.memory,
        "keep": args.keep,
    }
    limits = Limits(**{key: value for key, value in named.items() if value is not None})
    others = [name.strip() for name in args.models.split(",") if name.strip()]
    for name in (args.model, *others):
        if name != AUTO:
            resolve(name)  # mistakes come now, weights at the first request
    hosts = [args.host] if args.host in LOOPBACK else None
    if hosts is None and not args.token:
        print(f"warning: {_open(args.host)}; anybody there can use it: give a --token", file=sys.stderr)
    elif hosts is None:
        print(f"warning: {_open(args.host)}, and sends everything in the clear", file=sys.stderr)
    few_arenas()
    sock = listen(args.host, args.port)
    names = list(dict.fromkeys(name for one in (args.model, *others) for name in _named(one)))
    models = Models(names, limits.models, lambda name: load(name, args.device, args.dtype))
    models.get(models.names[0])

    def ready(address: str) -> None:
        print(f"{address}{'?token=...' if args.token else ''}  (ctrl-C ends it)", flush=True)

    serve(Service(models, limits), sock, args.token, hosts, ready)
    print("ended; what was running is answered", file=sys.stderr)
    return 0


def _named(model: str) -> tuple[str, ...]:
    """Return the models that a name stands for: ``auto`` is what it chooses now, and the embedded one beside it."""
    from ovseg.zoo.aliases import AUTO, FALLBACK
    from ovseg.zoo.auto import choose

    if model != AUTO:
        return (model,)
    choice = choose()
    mend = f"; for photographs {choice.mend}" if choice.mend else ""
    print(f"model: {choice.name} ({choice.why}{mend})", file=sys.stderr)
    return choice.name, FALLBACK


def _open(host: str) -> str:
    return f"--host {host} opens the page to other machines"
