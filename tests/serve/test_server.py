"""The page as a process, asked over HTTP and by `gradio_client`."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

import ovseg
from tests.serve.conftest import ROOT, encoded, make_photo, running

WORDS = "sky|blue sky, grass, sand"


@pytest.fixture(scope="module")
def client(page):
    return Client(page.address, verbose=False)


@pytest.fixture
def photo(page, jpeg):
    answer = httpx.post(f"{page.address}/photo", params={"name": "my photo.jpg"}, content=jpeg)
    assert answer.status_code == 200
    return answer.json()["session"]


def test_health(page):
    answer = httpx.get(f"{page.address}/health")
    assert answer.status_code == 200 and answer.json() == {"status": "ok", "version": ovseg.__version__}


def test_the_way_of_the_documentation(client, page, photo, jpeg, tmp_path):
    """Open, ask, ask why, compare, correct, undo, download; the numbers are those of the library."""
    assert client.predict(api_name="/models") == ["mini", "sclip/mini"]
    answer = client.predict(photo, WORDS, api_name="/segment")
    (tmp_path / "p.jpg").write_bytes(jpeg)
    wanted = ovseg.load("mini")(tmp_path / "p.jpg", WORDS)
    assert answer["classes"] == json.loads(json.dumps(wanted.to_json()["classes"]))
    why = client.predict(photo, 10, 20, api_name="/why")
    assert why["label"] == wanted.classes[wanted.labels[10, 20]].name and why["top"][0]["word"]
    client.predict(photo, "cloud, grass", "sclip/mini", "words", "B", api_name="/segment")
    assert 0 <= client.predict(photo, api_name="/compare")["share"] <= 1
    changed = client.predict(photo, 10, 20, "a wall", api_name="/correct")
    assert any(own["name"] == "a wall" and own["area"] for own in changed["classes"])
    assert client.predict(photo, api_name="/undo")["classes"] == answer["classes"]
    for own in answer["downloads"]:
        found = httpx.get(f"{page.address}/{own['href']}")
        assert found.status_code == 200 and found.content
        assert "my_photo" in found.headers["content-disposition"] and "no-store" in found.headers["cache-control"]


def test_mistakes_are_the_lines_of_the_library(client, photo):
    for arguments, line in (
        ((photo, "cat, cat"), "duplicate names: 'cat'"),
        ((photo, WORDS, "mimi"), "unknown model 'mimi'; did you mean mini"),
        (("nobody", WORDS), "not here any more"),
        ((photo, WORDS, "mini", "", "C"), "expected one of A, B"),
    ):
        with pytest.raises(AppError, match=line):
            client.predict(*arguments, api_name="/segment")


def test_values_of_other_kinds_are_refused_by_name(client, page, photo):
    for name, data, line in (
        ("segment", [photo, 7, "", "", "A"], "words is 7; expected a text"),
        ("segment", [photo, [WORDS], "", "", "A"], "expected a text"),
        ("segment", [photo, None, None, None, "A"], "there are no words"),
        ("segment", [{"a": 1}, WORDS, "", "", "A"], "photo is {'a': 1}; expected a text"),
        ("why", [photo, None, 3, "A"], "row is None; expected a whole number"),
        ("why", [photo, 1.5, 3, "A"], "row is 1.5; expected a whole number"),
        ("why", [photo, 1, "3", "A"], "column is '3'; expected a whole number"),
        ("why", [photo, True, 3, "A"], "row is True; expected a whole number"),
        ("why", [photo, 10**400, 3, "A"], "expected rows below"),
        ("correct", [photo, 1, 1, ["x"], "A"], "name is ['x']; expected a text"),
        ("compare", [None], "not here any more"),
        ("undo", [photo, 5], "side is 5; expected a text"),
    ):
        client.predict(photo, WORDS, api_name="/segment")
        asked = httpx.post(f"{page.address}/gradio_api/call/{name}", json={"data": data}).json()["event_id"]
        with httpx.stream("GET", f"{page.address}/gradio_api/call/{name}/{asked}", timeout=60) as told:
            assert line in "".join(told.iter_lines()), (name, data)


def test_a_name_is_taken_as_it_is(page, jpeg):
    for name in ("50%20off.jpg", "100%.jpg", "a+b.jpg", "r\u00e9sum\u00e9 \u200f\u05e9\u05dc.jpg"):
        answer = httpx.post(f"{page.address}/photo", params={"name": name}, content=jpeg)
        assert answer.json()["name"] == name


def test_pixels_that_are_not_there(client, photo):
    client.predict(photo, WORDS, api_name="/segment")
    with pytest.raises(AppError, match="expected rows below 72, columns below 96"):
        client.predict(photo, 72, 0, api_name="/why")


def test_plain_http_without_a_client(page, photo):
    """What docs/serve.md shows for curl."""
    asked = httpx.post(f"{page.address}/gradio_api/call/segment", json={"data": [photo, WORDS, "", "", "A"]})
    with httpx.stream("GET", f"{page.address}/gradio_api/call/segment/{asked.json()['event_id']}", timeout=60) as told:
        lines = list(told.iter_lines())
    data = next(line for line in lines if line.startswith("data: ["))
    assert json.loads(data.removeprefix("data: "))[0]["classes"]


@pytest.mark.slow
def test_a_token_is_asked_for_everywhere(jpeg):
    with running("--token", "tell nobody") as page:
        for path in ("/", "/health", "/config", "/gradio_api/info", "/photo/x", "/gradio_api/file=/etc/passwd"):
            assert httpx.get(page.address + path).status_code == 401
        assert httpx.post(f"{page.address}/photo", content=jpeg).status_code == 401
        headers = {"Authorization": "Bearer tell nobody"}
        assert httpx.get(f"{page.address}/health", headers=headers).status_code == 200
        own = httpx.post(f"{page.address}/photo", content=jpeg, headers=headers).json()["session"]
        client = Client(page.address, headers=headers, verbose=False)
        assert client.predict(own, WORDS, api_name="/segment")["classes"]
        with httpx.Client(base_url=page.address, follow_redirects=True) as browser:
            assert browser.get("/", params={"token": "tell nobody"}).status_code == 200
            assert browser.get("/config").status_code == 200


@pytest.mark.slow
def test_sigterm_answers_what_is_running():
    """A request that is being computed when the signal comes is answered, and then the process ends with 0."""
    with running("--max-words", "5000") as page:
        large = encoded(make_photo(1600, 1200))
        own = httpx.post(f"{page.address}/photo", content=large, timeout=60).json()["session"]
        client, found = Client(page.address, verbose=False), []
        words = ", ".join(f"thing {i} of many" for i in range(3000))
        asked = threading.Thread(target=lambda: found.append(client.predict(own, words, api_name="/segment")))
        asked.start()
        time.sleep(1.0)
        assert not found, "the request was answered before the signal came; make it larger"
        page.process.send_signal(signal.SIGTERM)
        asked.join(120)
        assert found and len(found[0]["classes"]) == 3000
        assert page.process.wait(30) == 0
        assert "what was running is answered" in page.process.communicate()[1]


@pytest.mark.slow
def test_without_a_model_it_is_the_best_that_is_here_and_the_embedded_one():
    """Here none for photographs is installed; the line says so, and nothing is asked of a network."""
    with running("--model", "auto") as page:
        assert Client(page.address, verbose=False).predict(api_name="/models") == ["mini"]
        page.process.terminate()
        assert page.process.wait(60) == 0
        told = page.process.communicate()[1]
        assert "model: mini (no model for photographs is installed and" in told
        assert "; for photographs run `ovseg" in told


@pytest.mark.slow
def test_an_empty_token_is_none(page):
    """It is that of a variable that was never set: who gives one wants to be safe."""
    call = [sys.executable, "-m", "ovseg.cli", "serve", "--port", "0", "--model", "mini", "--token"]
    for token in ("", "  "):
        found = subprocess.run([*call, token], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr == "error: --token is empty; expected a secret: give one, or leave --token out\n"


def test_a_busy_port_and_an_open_door_are_said(page):
    port = page.address.rpartition(":")[2]
    call = [sys.executable, "-m", "ovseg.cli", "serve", "--host", "0.0.0.0", "--port", port]
    # Before any model is loaded.
    busy = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert busy.returncode == 2 and "opens the page to other machines; anybody there can use it" in busy.stderr
    assert f"error: cannot listen at 0.0.0.0:{port} (" in busy.stderr and "Traceback" not in busy.stderr


def test_the_photograph_comes_back_as_it_is_drawn(page, photo):
    found = httpx.get(f"{page.address}/photo/{photo}")
    assert found.headers["content-type"] == "image/jpeg"
    assert np.asarray(Image.open(io.BytesIO(found.content))).shape == (72, 96, 3)
