"""What the page can do, without the page: open a photograph, ask, ask why, compare, correct, export."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from ovseg.config import examples_root
from ovseg.contract import CLASS_SCORES
from ovseg.data.images import read_image
from ovseg.errors import InputError, one_of
from ovseg.labelling.why import TOP, Why
from ovseg.result.segmentation import Segmentation
from ovseg.segmenter import EncodedImage, Segmenter
from ovseg.serve.corrections import Corrected
from ovseg.serve.drawing import data_url, difference, numbers, photo_jpeg, side_of
from ovseg.serve.exports import Download, export, links, plain_name
from ovseg.serve.limits import Limits
from ovseg.serve.models import Models
from ovseg.serve.sessions import Session, Sessions
from ovseg.serve.words import typed_background, typed_vocabulary

Say = Callable[[str], None]
SIDES = ("A", "B")
CLICKS = 64
"""At most, for one thing."""
_LOOK = 0.2  # seconds between two looks at whether a request is still wanted
_HEAT = 2**22  # numbers of all classes' maps from which one is drawn
_HEAT_SIDE = 256


@cache
def examples() -> dict[str, str]:
    """Return the words of each example photograph by the name of its file; none where they are not installed."""
    listed = examples_root() / "examples.json"
    return dict(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else {}


def _quiet(line: str) -> None:
    """Tell nobody."""


class Service:
    """All of it, for many users at once. A request is an argument; what is kept of it is its session's."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits, self.sessions = models, limits, Sessions(limits)

    def open(self, content: bytes, name: str) -> Session:
        """Read a photograph and keep it, in memory alone.

        Args:
            content: Of an image file of any kind that `ovseg segment` reads.
            name: What it is called; a path in it is left out.

        Raises:
            InputError: It is too large, or no image.
        """
        if len(content) > self.limits.bytes:
            raise InputError(
                f"the file has {len(content) / 1e6:.1f} MB; this page takes {self.limits.megabytes:g} MB: shrink it"
            )
        stream = io.BytesIO(content)
        stream.name = name.replace("\\", "/").rpartition("/")[2][:100] or "photo"
        return self.sessions.open(read_image(stream, max_pixels=self.limits.pixels))

    def open_example(self, name: str) -> Session:
        """Open one of the example photographs.

        Raises:
            InputError: There is none of this name.
        """
        if name not in examples():
            raise InputError(f"there is no example '{name[:100]}'; expected one of {', '.join(examples()) or 'none'}")
        return self.open((examples_root() / name).read_bytes(), name)

    def segment(
        self, session: str, words: str, model: str = "", background: str = "", side: str = "A", say: Say = _quiet
    ) -> Corrected:
        """Answer for a photograph; new words take no new look at it.

        Args:
            session: Name of the photograph's session.
            words: As `typed_vocabulary` takes them.
            model: One of the page's; empty is the first.
            background: As `typed_background` takes it.
            side: ``A``, or ``B`` to compare with.
            say: Gets what is being done.

        Raises:
            OvsegError: Something of it cannot be used.
        """
        one_of("side", side, SIDES)
        start = time.perf_counter()
        vocabulary, policy = typed_vocabulary(words, self.limits), typed_background(background, self.limits)
        own = self.sessions.get(session)
        name = model or self.models.names[0]
        say(f"loading the model {name}" if name not in self.models.loaded else "reading the words")
        segmenter = self._model(name)
        request = segmenter.words(vocabulary, policy)
        while not own.lock.acquire(timeout=_LOOK):
            say("waiting for another answer for this photograph")
        try:
            before = own.encoded.get(name)
            encoded = self._encoded(own, name, segmenter, say)
            say("labelling")
            result = encoded.answer(request)
            seconds, asked = time.perf_counter() - start, (words.strip(), background.strip())
            found = Corrected(name, asked, request, result, seconds, encoded is before)
            with own.changing:
                own.sides[side] = found
        finally:
            own.lock.release()
        self.sessions.tidy()
        return found

    def _model(self, name: str) -> Segmenter:
        """Return a model; what others have seen that made room for it goes with them."""
        found = self.models.get(name)
        self.sessions.forget(self.models.loaded)
        return found

    def _encoded(self, own: Session, name: str, segmenter: Segmenter, say: Say) -> EncodedImage:
        """Return what a model has seen of a photograph, at the first time by looking; a session is locked for it."""
        encoded = own.encoded.get(name)
        if encoded is None or encoded.segmenter is not segmenter:
            say("looking at the photograph")
            encoded = segmenter.encode(own.photo)
        others = [(other, one) for other, one in own.encoded.items() if other != name]
        own.encoded = dict([*others[1 - len(SIDES) :], (name, encoded)])  # the one used last at the end
        return encoded

    def why(self, session: str, row: int, column: int, side: str = "A", turn: int | None = None) -> dict[str, Any]:
        """Say why a pixel has its label.

        Returns:
            ``label`` and ``score`` of the map, 0..1, ``corrected``, ``top`` (name, the word that spoke for it, score
            and colour of the best classes), ``margin`` between the first two, ``background`` (the best word of no
            class) and a ``remark`` where the map does not say what scores highest. The scores of words are raw, see
            `Evidence`.

        Raises:
            InputError: There is no such photograph, answer (see `Session.side`) or pixel.
        """
        answer, segmenter, encoded = self._looked(session, side, turn)
        size, words, now = answer.result.labels.shape, answer.words, answer.current
        found = segmenter.model.explain(encoded.encoded, encoded.index, (size[0], size[1]), words, (row, column))
        label, own = int(now.labels[row, column]), int(answer.result.labels[row, column])
        said = Why.of(found, words, (row, column), own, float(now.scores[row, column])).to_json()
        return {**said, "label": now.classes[label].name if label >= 0 else "", "corrected": label != own}

    def point(
        self, session: str, clicks: Sequence[tuple[int, int, bool]], side: str = "A", turn: int | None = None
    ) -> dict[str, Any]:
        """Find what somebody clicks at; the photograph is not looked at again.

        Args:
            session: Name of the photograph's session.
            clicks: Row, column and whether the thing is there.
            side: By the words of this answer.
            turn: As in `Session.side`.

        Returns:
            ``mask``, a picture whose red is 1 inside, the best ``names`` with their scores, ``area`` in pixels and
            ``seconds``.

        Raises:
            InputError: There is no such photograph, answer or pixel, or there are too many clicks.
        """
        if len(clicks) > CLICKS:
            raise InputError(f"got {len(clicks)} clicks; expected at most {CLICKS} for one thing")
        answer, _, encoded = self._looked(session, side, turn)
        points, away = ([(row, column) for row, column, own in clicks if own is kind] for kind in (True, False))
        found = encoded.segment_at(points, classes=answer.words, away=away)
        return {
            "mask": numbers(found.mask.astype(np.int32)),
            "names": [list(one) for one in found.names[:TOP]],
            "area": int(found.mask.sum()),
            "seconds": found.seconds,
        }

    def heat(self, session: str, class_id: int, side: str = "A", turn: int | None = None) -> dict[str, Any]:
        """Draw the scores of one class, at as many pixels as the maps of all classes may have.

        Returns:
            ``map``, a grey picture whose white is ``most``, the highest score.

        Raises:
            InputError: There is no such photograph, answer or class.
        """
        answer, segmenter, encoded = self._looked(session, side, turn)
        words, (height, width) = answer.words, answer.result.labels.shape
        if not 0 <= class_id < len(words.vocabulary):
            raise InputError(f"class {class_id} is none of the model's answer, which has {len(words.vocabulary)}")
        factor = min(1.0, _HEAT_SIDE / max(height, width), (_HEAT / len(words.vocabulary) / (height * width)) ** 0.5)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        found = segmenter.model.answer(encoded.encoded, encoded.index, size, words, frozenset({CLASS_SCORES}))
        if found.class_scores is None:
            raise InputError(f"{answer.model} gives no scores of classes; choose another model")
        scores = found.class_scores[class_id].float().cpu().numpy()
        most = float(scores.max())
        return {"map": data_url(np.rint(255 * scores / max(most, 1e-9)).astype(np.uint8)), "most": most}

    def correct(
        self, session: str, row: int, column: int, name: str, side: str = "A", turn: int | None = None
    ) -> Corrected:
        """Give the connected region of a pixel another name; see `Corrected.correct`."""
        self.limits.check_text(name)
        return self._changed(session, side, turn, lambda answer: answer.correct(row, column, name))

    def undo(self, session: str, side: str = "A", turn: int | None = None) -> Corrected:
        """Take the last correction back; see `Corrected.undo`."""
        return self._changed(session, side, turn, Corrected.undo)

    def shown(self, session: str) -> dict[str, Any]:
        """Return all that the page shows of a photograph, as JSON values."""
        own = self.sessions.get(session)
        height, width = own.photo.pixels.shape[:2]
        sides = {
            side: {
                **side_of(answer.current),
                "turn": answer.turn,
                "model": answer.model,
                "words": answer.asked[0],
                "background": answer.asked[1],
                "policy": answer.words.background.policy,
                "corrections": len(answer.corrections),
                "downloads": links(answer.current, own.name, side),
            }
            for side, answer in sorted(list(own.sides.items()))
        }
        return {
            "session": own.name,
            "name": own.photo.name,
            "notes": list(own.photo.notes),
            "width": width,
            "height": height,
            "photo": f"photo/{own.name}",
            "sides": sides,
            "difference": difference(*self._both(own)) if len(sides) == len(SIDES) else None,
        }

    def changed(self, session: str) -> float:
        """Return the share of the pixels that have another name in answer B than in A, 0..1.

        Raises:
            InputError: There are no two answers.
        """
        return float(difference(*self._both(self.sessions.get(session)))["share"])

    @staticmethod
    def _both(own: Session) -> tuple[Segmentation, Segmentation]:
        return own.side("A").current, own.side("B").current

    def leave_side(self, session: str, side: str) -> None:
        """Forget an answer, where there is one."""
        own = self.sessions.get(session)
        with own.changing:
            own.sides.pop(side, None)

    def photo(self, session: str) -> bytes:
        """Return the photograph as a JPEG, as it is drawn."""
        return photo_jpeg(self.sessions.get(session).photo.pixels)

    def download(self, session: str, side: str, chosen: str, option: str = "") -> Download:
        """Write an answer, with its corrections, in one of the output formats; see `export`."""
        own = self.sessions.get(session)
        return export(own.side(side).current, plain_name(own.photo.name), chosen, option)

    def _looked(self, session: str, side: str, turn: int | None) -> tuple[Corrected, Segmenter, EncodedImage]:
        """Return an answer, its model, and what that has seen; nobody waits here for a look that others have begun."""
        own = self.sessions.get(session)
        answer = own.side(side, turn)
        segmenter = self._model(answer.model)
        encoded = own.encoded.get(answer.model)
        if encoded is not None and encoded.segmenter is segmenter:
            return answer, segmenter, encoded
        if not own.lock.acquire(blocking=False):
            raise InputError("another answer for this photograph is on its way; ask again when it is there")
        try:
            return answer, segmenter, self._encoded(own, answer.model, segmenter, _quiet)
        finally:
            own.lock.release()

    def _changed(
        self, session: str, side: str, turn: int | None, change: Callable[[Corrected], Corrected]
    ) -> Corrected:
        own = self.sessions.get(session)
        with own.changing:
            found = own.sides[side] = change(own.side(side, turn))
        return found
