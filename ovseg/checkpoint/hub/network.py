"""Whether there is a network to be used, and how requests go out: through proxies, with the user's certificates."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import os
import ssl
import threading
import urllib.error
import urllib.request
from typing import Any

from ovseg.checkpoint.hub.source import endpoint

PATIENCE = 1.5
"""Seconds in which a network has to answer, name look-up and all, to be taken for alive; two, less what busy machines
add."""

_OFFLINE = ("OVSEG_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_TRUE = ("1", "on", "yes", "true")
_FOUND: dict[tuple[str, ...], bool] = {}  # kept for the process
_ONE_AT_A_TIME = threading.Lock()


def is_true(variable: str) -> bool:
    """Tell whether an environment variable says yes: 1, on, yes or true."""
    return os.environ.get(variable, "").strip().lower() in _TRUE


def offline() -> str:
    """Return why the network is not to be used, such as ``OVSEG_OFFLINE=1 is set``; empty where it may be."""
    return next((f"{name}={os.environ[name]} is set" for name in _OFFLINE if is_true(name)), "")


def reachable() -> bool:
    """Tell whether the hub answers, in at most two seconds; the first answer is kept for the process.

    A network that is switched off by `offline` does not answer. What counts is any answer of the hub, through the
    proxies that the environment names, so that names that are never looked up, connections that are swallowed and
    proxies that lead nowhere cost the same two seconds once. Threads that ask meanwhile wait for the one answer.
    """
    if offline():
        return False
    proxies = (os.environ.get(name, os.environ.get(name.upper(), "")) for name in _PROXIES)
    key = (endpoint(), *proxies)
    with _ONE_AT_A_TIME:
        if key not in _FOUND:
            _FOUND[key] = _answers(key[0])
        return _FOUND[key]


def _answers(address: str) -> bool:
    """Ask in a thread of its own: a look-up of a name obeys no time limit."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(address)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers and answers[0])


def _ask(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        with opener().open(request, timeout=PATIENCE):
            return True
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code not in (502, 503, 504)  # said by a proxy, or by a hub that is down
    except (OSError, http.client.HTTPException, ValueError):
        return False


class _KeepsRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to the caller, who has to see their headers and must not send a token to another host."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        """Follow none."""
        return


def opener() -> urllib.request.OpenerDirector:
    """Make what opens URLs: with the proxies that the environment names now, and without following redirects."""
    return urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=_context(os.environ.get("SSL_CERT_FILE", ""))), _KeepsRedirects()
    )


@functools.cache  # reading the lists takes longer than many a request
def _context(_named: str) -> ssl.SSLContext:
    """Trust whom the system trusts (``SSL_CERT_FILE`` names others), and certifi's list where that is installed.

    Python as it comes from python.org for macOS trusts nobody by itself.
    """
    context = ssl.create_default_context()
    if importlib.util.find_spec("certifi"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
