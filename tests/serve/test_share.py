"""The public address, with a double of Gradio's tunnel on this machine: nothing here reaches another one."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx
import pytest

from ovseg.errors import EnvironmentProblem
from ovseg.serve import share
from tests.serve.conftest import ROOT, encoded, make_photo, running

NAME = "0123456789abcdef.gradio.live"
# What stands for `frpc`: it listens where the server of the tunnel would be, and passes on what comes.
FRPC = f"""#!{sys.executable}
import argparse, socket, threading
known = argparse.ArgumentParser()
for flag in ("-l", "-i", "--server_addr"):
    known.add_argument(flag)
own = known.parse_known_args()[0]
host, port = own.server_addr.split(":")
server = socket.create_server((host, int(port)))
print("start proxy success: https://{NAME}", flush=True)
def passes(one, other):
    try:
        while part := one.recv(65536):
            other.sendall(part)
    except OSError:  # one side has hung up; so does this one, or the other side would wait for ever
        pass
    try:
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass
while True:
    come, _ = server.accept()
    there = socket.create_connection((own.i, int(own.l)))
    for pair in ((come, there), (there, come)):
        threading.Thread(target=passes, args=pair, daemon=True).start()
"""


@pytest.fixture
def tunnel(tmp_path, monkeypatch):
    """Address of the double's server, for processes that are started meanwhile."""
    from gradio.tunneling import BINARY_FILENAME

    program = tmp_path / "gradio/frpc" / BINARY_FILENAME
    program.parent.mkdir(parents=True)
    program.write_text(FRPC)
    program.chmod(0o755)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("GRADIO_SHARE_SERVER_ADDRESS", address)
    return address


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.slow
def test_a_public_address_has_a_token_and_all_limits(tunnel, tmp_path):
    with running("--share", "--max-megabytes", "1", folder=tmp_path) as page:
        public = page.process.stdout.readline().split()[0]
        assert public.startswith(f"https://{NAME}/?token=") and len(public.partition("token=")[2]) >= 20
        secret = public.partition("token=")[2]
        with httpx.Client(base_url=f"http://{tunnel}", headers={"Host": NAME}, timeout=60) as outside:
            assert outside.get("/").status_code == 401 and outside.get("/health").status_code == 401
            assert outside.get("/health", headers={"Host": "evil.example"}).status_code == 421
            come = {"Authorization": f"Bearer {secret}"}
            assert outside.get("/health", headers=come).json()["status"] == "ok"
            opened = outside.post("/photo", content=encoded(make_photo(96, 72)), headers=come)
            assert opened.status_code == 200 and opened.json()["width"] == 96
            assert outside.post("/photo", content=bytes(1_000_001), headers=come).status_code == 413
            assert outside.get("/gradio_api/file=/etc/passwd", headers=come).status_code == 404
            with httpx.Client(base_url=f"http://{tunnel}", headers={"Host": NAME}, timeout=60) as browser:
                assert browser.get("/", params={"token": secret}).status_code == 303
                assert browser.get("/config").status_code == 200
        assert httpx.get(f"{page.address}/health").status_code == 401  # at this machine's own address, too
        page.process.terminate()
        assert page.process.wait(60) == 0
        told = page.process.communicate()[1]
        assert told.count("--share asks api.gradio.app for a public address") == 1 and secret not in told
    assert not (tmp_path / ".gradio").exists()


@pytest.mark.slow
def test_without_a_network_it_is_one_line(tmp_path):
    """Before a model is loaded; the address of the hub's tunnels leads nowhere here."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    proxies = {name: nowhere for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")}
    environment = {**os.environ, **proxies, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("GRADIO_SHARE_SERVER_ADDRESS", None)
    call = [sys.executable, "-m", "ovseg.cli", "serve", "--port", "0", "--model", "mini", "--share"]
    found = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    lines = found.stderr.splitlines()
    assert found.returncode == 2 and not found.stdout and len(lines) == 2, found
    assert lines[0].startswith("warning: --share asks api.gradio.app")
    assert lines[1].startswith("error: --share got no public address (") and "it needs the network" in lines[1]
    assert not list(tmp_path.iterdir())


def test_whatever_the_tunnel_says_is_one_line(monkeypatch, tmp_path):
    def broken(*_):
        raise ValueError("Could not create share URL.\nlogin to\nserver failed")

    monkeypatch.setattr(share.networking, "setup_tunnel", broken)
    with pytest.raises(EnvironmentProblem, match=r"URL\. login to server failed\); it needs the network") as error:
        share.open_tunnel("127.0.0.1", 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("host", "wanted"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.2", "127.0.0.2")])
def test_the_tunnel_ends_where_the_page_listens(host, wanted, monkeypatch):
    asked = []
    monkeypatch.setattr(share.networking, "setup_tunnel", lambda *given: asked.append(given) or "https://x.y/")
    assert share.open_tunnel(host, 7) == "https://x.y" and asked[0][:2] == (wanted, 7)
    assert share.host_of("https://X.y") == "x.y"
