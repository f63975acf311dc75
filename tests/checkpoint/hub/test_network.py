"""Whether there is a network: asked in two seconds at most, once, whatever is the matter with it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from ovseg.checkpoint.hub import Source, fetch, network, offline, reachable
from ovseg.errors import DownloadError
from tests.hub_double import HubDouble, no_network


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the network, and nothing forbids it."""
    for variable in ("OVSEG_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setattr(network, "_FOUND", {})


def seconds_until(answer: bool) -> float:
    start = time.monotonic()
    assert reachable() is answer
    first = time.monotonic() - start
    start = time.monotonic()
    assert reachable() is answer and time.monotonic() - start < 0.05  # remembered
    return first


@pytest.mark.parametrize("variable", ["OVSEG_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline(monkeypatch, variable):
    assert offline() == ""
    for text in ("0", "", "no", "false"):
        monkeypatch.setenv(variable, text)
        assert offline() == ""
    for text in ("1", "yes", "True", "ON"):
        monkeypatch.setenv(variable, text)
        assert offline() == f"{variable}={text} is set"
    with HubDouble() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert not reachable() and not hub.requests
        monkeypatch.delenv(variable)
        assert reachable()  # what is forbidden was not remembered as dead


def test_a_hub_that_answers_is_asked_once(monkeypatch):
    with HubDouble() as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/")
        found = list[bool]()
        threads = [threading.Thread(target=lambda: found.append(reachable())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 8 and hub.asked() == ["/"]


def test_a_hub_that_is_down_is_not_reachable(monkeypatch):
    with HubDouble() as hub:
        hub.later = [(503, None)]
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert not reachable()


def test_a_refused_connection(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert seconds_until(False) < 1


def test_a_name_that_nobody_knows(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    assert seconds_until(False) < 2


def test_a_name_look_up_that_hangs(monkeypatch):
    over = threading.Event()

    def hang(*_args: object, **_options: object) -> None:
        over.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert 1 < seconds_until(False) < 2
    over.set()


def test_connections_that_are_swallowed(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and never says a word
        monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{server.getsockname()[1]}")
        assert 1 < seconds_until(False) < 2


def test_a_server_that_drips(monkeypatch):
    """Each byte comes within the time limit of a socket, the whole never."""

    def drip() -> None:
        peer, _ = server.accept()
        with peer:
            for _ in range(20):
                peer.sendall(b"H")
                time.sleep(0.3)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert 1 < seconds_until(False) < 2


def test_a_dead_network_costs_a_program_two_seconds_and_its_end_is_not_held_up(tmp_path):
    code = "import socket, time\nsocket.getaddrinfo = lambda *a, **o: time.sleep(60)\n"
    code += "from ovseg.checkpoint.hub import reachable\nprint(reachable())"
    with HubDouble() as hub:
        environment = hub.environment(tmp_path, HF_ENDPOINT="https://nowhere.invalid")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and done.stderr == "" and time.monotonic() - start < 10


def test_proxies_are_used_and_no_proxy_is_honoured(monkeypatch, tmp_path):
    with HubDouble() as proxy:
        proxy.use(monkeypatch, tmp_path)
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint)
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        assert reachable()  # by the proxy alone: nobody knows that name
        with pytest.raises(DownloadError, match=r"http://hub\.invalid has no repository 'a/b'"):
            fetch(Source("a/b", "c.bin"))
        assert proxy.asked("HEAD")[-1].endswith("/a/b/resolve/main/c.bin")
        monkeypatch.setenv("NO_PROXY", "hub.invalid")
        asked = len(proxy.requests)
        assert not reachable()
        with pytest.raises(
            DownloadError, match=r"hub\.invalid does not answer \(.*\); check the network and HTTP_PROXY"
        ):
            fetch(Source("a/b", "c.bin"))
        assert len(proxy.requests) == asked


def test_a_proxy_that_leads_nowhere(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert seconds_until(False) < 1
    with HubDouble() as proxy:  # knows no CONNECT
        monkeypatch.setenv("HTTPS_PROXY", proxy.endpoint)
        assert not reachable()


def test_certificates_that_nobody_knows_are_said(monkeypatch, tmp_path):
    import ssl

    def fail(*_args: object, **_options: object) -> None:
        raise ssl.SSLCertVerificationError("self-signed certificate in certificate chain")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", fail)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"self-signed.*; a proxy may sign .* name its file as SSL_CERT_FILE"):
            fetch(Source("a/b", "c.bin"))


def test_tests_cannot_leave_this_machine():
    with no_network(), pytest.raises(OSError, match="the network is off in tests"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="the network is off in tests"):
        socket.getaddrinfo("huggingface.co", 443)
