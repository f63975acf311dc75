"""The functions of the page for programs, such as `gradio_client`; docs/serve.md describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from ovseg.errors import OvsegError
from ovseg.serve.corrections import Corrected
from ovseg.serve.exports import links
from ovseg.serve.service import Service
from ovseg.serve.work import Job, Work

Result = TypeVar("Result")


def summary(answer: Corrected, photo: str, side: str) -> dict[str, Any]:
    """Return an answer as JSON values: the report of ``ovseg segment``, and where its files are."""
    return {"photo": photo, "side": side, **answer.current.to_json(), "downloads": links(answer.current, photo, side)}


def add_api(service: Service, work: Work, quick: Work) -> None:
    """Add the functions to a page that is being built."""

    def asked(worker: Work, task: Callable[[Job], Result], owner: str = "") -> Result:
        try:
            return worker.call(task, owner)
        except OvsegError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def segment(photo: str, words: str, model: str = "", background: str = "", side: str = "A") -> dict[str, Any]:
        """Label the photograph by words; new words take no new look at it."""
        answer = asked(work, lambda job: service.segment(photo, words, model, background, side, job.say), photo)
        return summary(answer, photo, side)

    def why(photo: str, row: float, column: float, side: str = "A") -> dict[str, Any]:
        """Say why the pixel in this row and column has its label."""
        return asked(quick, lambda _: service.why(photo, int(row), int(column), side))

    def compare(photo: str) -> dict[str, Any]:
        """Say which share of the pixels has another name in answer B than in A."""
        found = asked(quick, lambda _: service.changed(photo))
        return {"share": found}

    def correct(photo: str, row: float, column: float, name: str, side: str = "A") -> dict[str, Any]:
        """Give the connected region of a pixel another name; an empty one is no class."""
        answer = asked(quick, lambda _: service.correct(photo, int(row), int(column), name, side))
        return summary(answer, photo, side)

    def undo(photo: str, side: str = "A") -> dict[str, Any]:
        """Take the last correction back."""
        return summary(asked(quick, lambda _: service.undo(photo, side)), photo, side)

    def models() -> list[str]:
        """List the models of this page, the default first."""
        return list(service.models.names)

    for function in (segment, why, compare, correct, undo, models):
        gr.api(function, api_name=function.__name__, concurrency_limit=None)
