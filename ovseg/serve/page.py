"""The page itself: its fields and buttons, and what they do. What is drawn is drawn by the scripts of `static`."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ovseg.errors import OvsegError
from ovseg.serve.api import add_api, place
from ovseg.serve.arguments import clicks_of, text_of, whole_of
from ovseg.serve.service import SIDES, Service, examples
from ovseg.serve.work import Work
from ovseg.vocabulary import list_presets

STATIC = Path(__file__).with_name("static")
_STATES = 32
"""Of tabs and calls that Gradio keeps, with a copy of the page each, 10,000 if it is let; nothing here is in them."""
_STORED = "() => [sessionStorage.getItem('ovseg') || localStorage.getItem('ovseg') || '']"
_FORGET = "(name) => { if (!name) for (const one of [sessionStorage, localStorage]) one.removeItem('ovseg'); }"
_BACKGROUNDS = [
    ("as the model does", ""),
    ("none: every pixel gets a class", "none"),
    ("words: everyday surroundings compete", "words"),
    ("threshold:0.3", "threshold:0.3"),
]


def static(name: str) -> str:
    """Return one of the files that are part of the page."""
    return (STATIC / name).read_text(encoding="utf-8")


def page_style() -> str:
    """Return the style sheet of the page."""
    return static("page.css")


def page_theme() -> Any:
    """Return the colours and fonts of Gradio's parts; all fonts are those of the reader's machine."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    # Letters that are told from their ground by 4.5 to 1 at least, as WCAG asks.
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )


def build_page(service: Service, work: Work, quick: Work) -> Any:
    """Build the page.

    Args:
        service: What it does.
        work: Runs what takes long.
        quick: Runs what is quick.
    """
    with gr.Blocks(title="ovseg", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(static("head.html"), apply_default_css=False, js_on_load=None)
        session = gr.Textbox(visible=False)
        with gr.Row(elem_id="ov-columns"):
            with gr.Column(scale=4, min_width=300, elem_id="ov-ask"):
                drop = gr.HTML(
                    json.dumps({"examples": list(examples()), "bytes": service.limits.bytes}),
                    html_template=static("drop.html"),
                    js_on_load=static("drop.js"),
                    apply_default_css=False,
                )
                fields, second = _fields(service)
                with gr.Row(elem_id="ov-buttons"):
                    go = gr.Button("Segment", variant="primary", elem_id="ov-go")
                    stop = gr.Button("Stop", elem_id="ov-stop")
                status = gr.HTML(_status(""), elem_id="ov-status", apply_default_css=False, js_on_load=None)
            with gr.Column(scale=8, min_width=300, elem_id="ov-answer"):
                viewer = gr.HTML(
                    "",
                    html_template=static("viewer.html"),
                    js_on_load=static("drawing.js") + static("points.js") + static("viewer.js"),
                    server_functions=_answers(service, quick),
                    apply_default_css=False,
                )
        _connect(page, service, work, (session, drop, fields, second, go, stop, status, viewer))
        add_api(service, work, quick)
    page.queue(max_size=10 * service.limits.waiting, default_concurrency_limit=None)
    page.state_session_capacity = _STATES
    return page


def _fields(service: Service) -> tuple[list[Any], Any]:
    """Make the fields: words, model and background of A; whether to compare; those of B. And what holds the latter."""
    words = gr.Textbox(
        label="Words",
        info="A comma between classes, | between synonyms: cat|kitten, red chair, window. A pasted list will do, too.",
        placeholder="cat|kitten, red chair, window",
        lines=3,
        max_lines=12,
        elem_id="ov-words",
    )
    preset = gr.Dropdown(
        [("own words", ""), *((name, name) for name in list_presets())],
        value="",
        label="Or the classes of a benchmark",
        elem_id="ov-preset",
    )
    preset.input(lambda name: name, preset, words, api_visibility="private", show_progress="hidden")
    words.input(None, None, preset, js="() => ''", api_visibility="private", show_progress="hidden")
    model, background = _choices(service, "")
    with gr.Accordion("Compare with another answer (A/B)", open=False, elem_id="ov-compare") as second:
        compare = gr.Checkbox(label="Answer twice, and show where the two differ", elem_id="ov-twice")
        other = gr.Textbox(
            label="Words of B", info="Empty: the same words.", lines=2, max_lines=8, elem_id="ov-words-b"
        )
        model_b, background_b = _choices(service, "-b")
    return [words, model, background, compare, other, model_b, background_b], second


def _choices(service: Service, suffix: str) -> tuple[Any, Any]:
    of = " of B" if suffix else ""
    names = list(service.models.names)
    model = gr.Dropdown(names, value=names[0], label=f"Model{of}", elem_id=f"ov-model{suffix}")
    background = gr.Dropdown(
        _BACKGROUNDS,
        value="",
        label=f"Background{of}",
        info="What shows none of the words. Words of your own will do: sky, wall.",
        allow_custom_value=True,
        elem_id=f"ov-background{suffix}",
    )
    return model, background


def _connect(page: Any, service: Service, work: Work, parts: tuple[Any, ...]) -> None:
    """Say what happens when something is pressed."""
    session, drop, fields, second, go, stop, status, viewer = parts
    private = {"api_visibility": "private", "show_progress": "hidden"}

    def opened(event: gr.EventData) -> tuple[Any, ...]:
        """Show a photograph that has come in; an example brings its words along."""
        try:
            name, ask = text_of("session", _told_by(event, "session")), text_of("ask", _told_by(event, "ask"))
            return name, ask or gr.skip(), _shown(service, name), _status("")
        except OvsegError as error:
            return gr.skip(), gr.skip(), gr.skip(), _status(str(error), wrong=True)

    def failed(event: gr.EventData) -> str:
        return _status(str(_told_by(event, "line")), wrong=True)

    def run(name: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from _run(service, work, name, values)

    def halt(name: str) -> Any:
        return gr.skip() if work.halt(name) else _status("nothing is running")  # what is stopped says so itself

    def restore(name: str) -> tuple[Any, ...]:
        return _restored(service, name, len(fields))

    coming = drop.opened(opened, None, [session, fields[0], viewer, status], **private)
    drop.failed(failed, None, status, **private)
    asked = [session, *fields]
    running = coming.success(run, asked, [viewer, status], **private)
    pressed = gr.on([go.click, fields[0].submit], run, asked, [viewer, status], **private)
    stop.click(halt, session, status, **private)
    there = page.load(restore, session, [session, viewer, status, second, *fields], js=_STORED, **private)
    there.then(None, session, None, js=_FORGET, **private)
    drop.opened(None, None, None, cancels=[running, pressed, there], **private)  # what concerns the photograph before


def _told_by(event: gr.EventData, name: str) -> Any:
    """Return a value that a script of the page sent with an event."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def _run(service: Service, work: Work, name: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Answer once or twice, and tell meanwhile what is being done; what goes wrong is a line, too."""
    if not name:
        yield gr.skip(), _status("open a photograph first: drop one, or choose an example", wrong=True)
        return
    words, model, background, twice, words_b, model_b, background_b = values
    try:
        words, words_b = text_of("words", words), text_of("words of B", words_b)
        if not words.strip():
            yield gr.skip(), _status("type the words to look for, then press Segment")
            return
        asks = {"A": (words, text_of("model", model), text_of("background", background))}
        if twice:
            own = words_b if words_b.strip() else words
            asks["B"] = own, text_of("model of B", model_b), text_of("background of B", background_b)
        for side in SIDES:
            if side not in asks:
                service.leave_side(name, side)
                continue
            steps = work.watch(lambda job, side=side: service.segment(name, *asks[side], side, job.say), name)  # type: ignore[misc]
            for line in steps:
                yield gr.skip(), _status(f"{side}: {line}" if twice else line, busy=True)
        shown = _shown(service, name), _status(_told(service, name))
    except OvsegError as error:
        yield gr.skip(), _status(str(error), wrong=True)
        return
    yield shown


def _told(service: Service, name: str) -> str:
    """Say in a line how the answers came to be."""
    sides = service.sessions.get(name).sides
    seconds = sum(own.seconds for own in sides.values())
    again = all(own.seen_before for own in sides.values())
    return f"done in {seconds:.2f} seconds" + ("; the photograph was not looked at again" if again else "")


def _restored(service: Service, name: str, count: int) -> tuple[Any, ...]:
    """Return what the page showed before it was loaded anew, where that is still here."""
    nothing = (gr.skip(),) * (count + 1)
    if not name:
        return gr.skip(), gr.skip(), gr.skip(), *nothing
    try:
        shown = service.shown(name)
    except OvsegError as error:
        return "", "", _status(str(error)), *nothing
    first, other = (shown["sides"].get(side) for side in SIDES)
    fields = [gr.skip()] * count
    if first:
        fields[:3] = first["words"], first["model"], first["background"]
    if other:
        fields[3:] = True, other["words"], other["model"], other["background"]
    second = gr.update(open=True) if other else gr.skip()
    return name, json.dumps(shown), _status("this is where you were"), second, *fields


def _shown(service: Service, name: str) -> str:
    return json.dumps(service.shown(name))


def _answers(service: Service, quick: Work) -> list[Callable[[Any], Any]]:
    """Return what the viewer's script asks for by itself; what goes wrong is an answer, too."""

    def told(asked: Any, task: Callable[[Callable[[str], Any], str, str, int], Any]) -> Any:
        def checked() -> Any:
            sent = asked.get if isinstance(asked, dict) else {}.get
            own, side = text_of("session", sent("session")), text_of("side", sent("side"))
            return task(sent, own, side, whole_of("turn", sent("turn")))

        try:
            return quick.call(lambda _: checked())
        except OvsegError as error:
            return {"error": str(error)}

    def why(asked: Any) -> Any:
        return told(
            asked, lambda sent, own, side, turn: service.why(own, *place(sent("row"), sent("column")), side, turn)
        )

    def point(asked: Any) -> Any:
        return told(asked, lambda sent, own, side, turn: service.point(own, clicks_of(sent("clicks")), side, turn))

    def heat(asked: Any) -> Any:
        return told(
            asked, lambda sent, own, side, turn: service.heat(own, whole_of("class", sent("class")), side, turn)
        )

    def correct(asked: Any) -> Any:
        def task(sent: Callable[[str], Any], own: str, side: str, turn: int) -> Any:
            service.correct(own, *place(sent("row"), sent("column")), text_of("name", sent("name")), side, turn)
            return service.shown(own)

        return told(asked, task)

    def undo(asked: Any) -> Any:
        def task(_: Callable[[str], Any], own: str, side: str, turn: int) -> Any:
            service.undo(own, side, turn)
            return service.shown(own)

        return told(asked, task)

    return [why, point, heat, correct, undo]


def _status(line: str, wrong: bool = False, busy: bool = False) -> str:
    """Return the line below the buttons; what users typed is text in it."""
    kind = "wrong" if wrong else "busy" if busy else "calm"
    return f'<p class="ov-line {kind}" role="{"alert" if wrong else "status"}">{html.escape(line)}</p>'
