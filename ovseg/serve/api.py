"""The functions of the page for programs, such as `gradio_client`; docs/serve.md describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from ovseg.errors import OvsegError
from ovseg.serve.arguments import text_of, whole_of
from ovseg.serve.corrections import Corrected
from ovseg.serve.exports import links
from ovseg.serve.service import Service
from ovseg.serve.work import Job, Work

Result = TypeVar("Result")


def summary(answer: Corrected, photo: str, side: str) -> dict[str, Any]:
    """Return an answer as JSON values: the report of ``ovseg segment``, and where its files are."""
    return {"photo": photo, "side": side, **answer.current.to_json(), "downloads": links(answer.current, photo, side)}


def place(row: Any, column: Any) -> tuple[int, int]:
    """Return a pixel as it was sent.

    Raises:
        InputError: It is none.
    """
    return whole_of("row", row), whole_of("column", column)


def add_api(service: Service, work: Work, quick: Work) -> None:
    """Add the functions to a page that is being built."""

    def asked(worker: Work, task: Callable[[Job], Result], owner: str = "") -> Result:
        try:
            return worker.call(task, owner)
        except OvsegError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def segment(photo: str, words: str, model: str = "", background: str = "", side: str = "A") -> dict[str, Any]:
        """Label the photograph by words; new words take no new look at it."""

        def task(job: Job) -> Corrected:
            asks = text_of("words", words), text_of("model", model), text_of("background", background)
            return service.segment(text_of("photo", photo), *asks, text_of("side", side), job.say)

        return summary(asked(work, task, photo), photo, side)

    def why(photo: str, row: float, column: float, side: str = "A") -> dict[str, Any]:
        """Say why the pixel in this row and column has its label."""

        def task(_: Job) -> dict[str, Any]:
            return service.why(text_of("photo", photo), *place(row, column), text_of("side", side))

        return asked(quick, task)

    def compare(photo: str) -> dict[str, Any]:
        """Say which share of the pixels has another name in answer B than in A."""
        found = asked(quick, lambda _: service.changed(text_of("photo", photo)))
        return {"share": found}

    def correct(photo: str, row: float, column: float, name: str, side: str = "A") -> dict[str, Any]:
        """Give the connected region of a pixel another name; an empty one is no class."""

        def task(_: Job) -> Corrected:
            own, new = text_of("photo", photo), text_of("name", name)
            return service.correct(own, *place(row, column), new, text_of("side", side))

        return summary(asked(quick, task), photo, side)

    def undo(photo: str, side: str = "A") -> dict[str, Any]:
        """Take the last correction back."""
        answer = asked(quick, lambda _: service.undo(text_of("photo", photo), text_of("side", side)))
        return summary(answer, photo, side)

    def models() -> list[str]:
        """List the models of this page, the default first."""
        return list(service.models.names)

    for function in (segment, why, compare, correct, undo, models):
        gr.api(function, api_name=function.__name__, concurrency_limit=None)
