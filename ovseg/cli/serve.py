"""Open a web page: photographs and words in a browser, for one user or many; see docs/serve.md.

The page listens to this machine alone unless --host says otherwise. Photographs stay in memory, and are dropped after a
while; nothing outside the page's own files is handed out. It works without a network. SIGTERM and ctrl-C answer what is
running, then end.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.serve.limits import Limits

EXAMPLES = """\
examples:
  ovseg serve
  ovseg serve --port 8080 --model mini --models sclip/mini,runs/mine
  ovseg serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg serve``."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at; 0 takes a free one (default: 7860)")
    parser.add_argument("--token", help="a secret that everything asks for (default: none)")
    parser.add_argument(
        "--share",
        action="store_true",
        help="ask Gradio's makers for a public address of the page, with a token made if none is given (default: off)",
    )
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
    from ovseg.serve.models import Models
    from ovseg.serve.server import listen, serve
    from ovseg.serve.service import Service
    from ovseg.system.device import few_arenas
    from ovseg.zoo import load, resolve
    from ovseg.zoo.aliases import AUTO

    limits, token = _limits(args), _token(args)
    others = [name.strip() for name in args.models.split(",") if name.strip()]
    for name in (args.model, *others):
        if name != AUTO:
            resolve(name)  # mistakes come now, weights at the first request
    hosts = _hosts(args, token)
    few_arenas()
    sock = listen(args.host, args.port)
    public = _shared(args.host, sock.getsockname()[1], hosts) if args.share else ""
    names = list(dict.fromkeys(name for one in (args.model, *others) for name in _named(one)))
    models = Models(names, limits.models, lambda name: load(name, args.device, args.dtype))
    models.get(models.names[0])
    told = "" if not token else "?token=..." if args.token else f"?token={token}"  # that which was given is known

    def ready(address: str) -> None:
        print(f"{address}{told}  (ctrl-C ends it)", flush=True)
        if public:
            print(f"{public}/{told}  (for everybody who has this address)", flush=True)

    serve(Service(models, limits), sock, token, hosts, ready)
    print("ended; what was running is answered", file=sys.stderr)
    return 0


def _limits(args: argparse.Namespace) -> Limits:
    from ovseg.serve.limits import Limits

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
    return Limits(**{key: value for key, value in named.items() if value is not None})


def _token(args: argparse.Namespace) -> str:
    """Return the token, which a public address always has; an empty one is that of a variable that was never set."""
    from ovseg.errors import ConfigError

    if args.token is None:
        return secrets.token_urlsafe(16) if args.share else ""
    if not args.token.strip():
        raise ConfigError("--token is empty; expected a secret: give one, or leave --token out")
    return str(args.token).strip()


def _hosts(args: argparse.Namespace, token: str) -> list[str] | None:
    """Return the names that the page answers to, None for all, and warn where others than this machine come in."""
    if _is_loopback(args.host):
        return [args.host]
    told = f"--host {args.host} opens the page to other machines"
    told += ", and sends everything in the clear" if token else "; anybody there can use it: give a --token"
    print(f"warning: {told}", file=sys.stderr)
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _shared(host: str, port: int, hosts: list[str] | None) -> str:
    """Return the public address of the page, and let its name in; see `open_tunnel`."""
    from ovseg.serve.share import WHAT, host_of, open_tunnel

    print(f"warning: {WHAT}", file=sys.stderr)
    address = open_tunnel(host, port)
    if hosts is not None:
        hosts.append(host_of(address))
    return address


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
