"""A public address: a tunnel of Gradio's makers from one of their servers to this machine."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from gradio import networking

from ovseg.errors import EnvironmentProblem
from ovseg.system.cache_dir import cache_dir

WHAT = (
    "--share asks api.gradio.app for a public address of this page, which is good for a week at most; all that is "
    "sent passes a server of Gradio's makers, whose tunnel program (frpc) is downloaded at the first time"
)


def open_tunnel(host: str, port: int) -> str:
    """Return the public address that leads here while this process lives.

    Args:
        host: Address that is listened at.
        port: Likewise.

    Raises:
        EnvironmentProblem: There is none to be had, as without a network.
    """
    folder = cache_dir() / "gradio"
    folder.mkdir(exist_ok=True)
    networking.CERTIFICATE_PATH = str(folder / "certificate.pem")  # Gradio would write it into the folder of the user
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        return networking.setup_tunnel(own, port, secrets.token_urlsafe(32), None, None).rstrip("/")
    except Exception as error:  # of the network, of the program, of the server: whatever comes, there is no address
        causes = [error, *filter(None, [error.__cause__])]
        reason = "; ".join(" ".join(str(one).split()) or type(one).__name__ for one in causes)
        raise EnvironmentProblem(
            f"--share got no public address ({reason[:300]}); it needs the network: leave it out, or take "
            "`ssh -R` to a machine of yours"
        ) from error


def host_of(address: str) -> str:
    """Return the name of the machine in an address, as a browser sends it."""
    return urlsplit(address).netloc.lower()
