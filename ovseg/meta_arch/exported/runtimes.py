"""What runs the graph of a file: ONNX Runtime, a program of `torch.export`, or a package that was compiled ahead."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ovseg.errors import EnvironmentProblem, WeightsError
from ovseg.meta_arch.exported.card import IMAGE, NAMING, FileCard, entry_of, load_onnx


class Runtime(Protocol):
    """Runs the two parts of a graph.

    Attributes:
        name: Of what runs it, with its version.
    """

    name: str

    def see(self, image: Tensor) -> list[Tensor]:
        """Return the outputs that know no words (`FileCard.seen`) of an image as the graph takes it."""
        ...

    def naming(self, seen: Sequence[Tensor], words: Mapping[str, Tensor], shape: tuple[int, ...]) -> list[Tensor]:
        """Return the outputs that words give (`FileCard.named`), by the other inputs of the graph.

        Args:
            seen: What `see` gave.
            words: The other inputs of the graph, by their names.
            shape: Of the image that was seen.
        """
        ...


def open_runtime(path: Path, card: FileCard) -> Runtime:
    """Return what runs a file.

    Raises:
        EnvironmentProblem: A package is missing, or PyTorch is too old for the file.
        WeightsError: The graph is damaged.
    """
    if card.format == "onnx":
        return OnnxFile(path, card)
    return TorchFile(path, card)


class OnnxFile:
    """Runs an ONNX file by ONNX Runtime, on the CPU.

    The graph is one, and both its parts are cut out of it, so that a second question costs no second pass.
    """

    def __init__(self, path: Path, card: FileCard) -> None:
        """Open both parts; see `open_runtime`."""
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise EnvironmentProblem(f"{error}, which runs '{path}'; pip install 'ovseg[export]'") from error
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._seen, self._named = list(card.seen), list(card.named)
        self._path = path
        self._pixels = torch.uint8 if card.photo else torch.float32
        whole = load_onnx(path)
        try:
            self._see = _session(whole, [IMAGE], self._seen)
            self._naming = _session(whole, [*self._seen, *card.inputs], self._named)
        except Exception as error:  # those of ONNX Runtime share no base
            reason = " ".join(str(error).split())
            raise WeightsError(f"{self.name} cannot run '{path}' ({reason[:200]}); export the model anew") from error
        self._takes = {one.name for one in self._naming.get_inputs()}

    def see(self, image: Tensor) -> list[Tensor]:
        """Run the part that knows no words; see `Runtime`."""
        return self._run(self._see, self._seen, {IMAGE: image})

    def naming(self, seen: Sequence[Tensor], words: Mapping[str, Tensor], shape: tuple[int, ...]) -> list[Tensor]:
        """Run the part that words come into; see `Runtime`. Graphs for all sizes read lengths off the image there."""
        image = torch.zeros(shape, dtype=self._pixels)
        given = {**dict(zip(self._seen, seen, strict=True)), **words, IMAGE: image}
        return self._run(self._naming, self._named, {key: one for key, one in given.items() if key in self._takes})

    def _run(self, session: Any, outputs: list[str], given: Mapping[str, Tensor]) -> list[Tensor]:
        try:
            found = session.run(outputs, {name: value.numpy() for name, value in given.items()})
        except Exception as error:  # those of ONNX Runtime share no base
            reason = " ".join(str(error).split())
            raise WeightsError(f"{self.name} cannot run '{self._path}' ({reason[-300:]}); export it anew") from error
        return [torch.from_numpy(one) for one in found]


def _session(whole: Any, inputs: list[str], outputs: list[str]) -> Any:
    """Open the part of an ONNX model between inputs and outputs."""
    import onnxruntime
    from onnx.utils import Extractor

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    part = Extractor(whole).extract_model(inputs, outputs)
    return onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])


class TorchFile:
    """Runs a program of `torch.export`, or what was compiled of it, on the CPU."""

    def __init__(self, path: Path, card: FileCard) -> None:
        """Open the program and the one that names; see `open_runtime`."""
        self.name = f"torch {torch.__version__}"
        self._count, self._named = len(card.seen), len(card.named)
        self._inputs = card.inputs[1:]
        width = int(card.settings["joint"])
        rows = torch.zeros(2, card.prompts, width) if card.prompts else torch.zeros(2, width)
        one = {"text_embeddings": rows, "query_to_class": torch.arange(2)}
        self._dummy = [*one.values(), *([torch.zeros(2, dtype=torch.bool)] if len(self._inputs) > 2 else [])]
        try:
            with zipfile.ZipFile(path) as archive:
                naming = io.BytesIO(archive.read(entry_of(archive, NAMING)))
            self._words = torch.export.load(naming).module()
            if card.format == "aoti":
                from torch._inductor import aoti_load_package

                self._whole: Any = aoti_load_package(str(path))
            else:
                self._whole = torch.export.load(str(path)).module()
        except Exception as error:  # of all kinds: zip, JSON, pickles, versions of operators
            reason = " ".join(str(error).split())
            raise WeightsError(
                f"{self.name} cannot read '{path}' ({reason[:200]}); export the model anew with this PyTorch"
            ) from error

    def see(self, image: Tensor) -> list[Tensor]:
        """Run the program with two words that say nothing; see `Runtime`."""
        return self.run(image, *self._dummy)[: self._count]

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Run the whole program on the inputs of `FileCard.inputs`; gives all outputs."""
        with torch.inference_mode():
            return list(self._whole(*inputs))

    def naming(self, seen: Sequence[Tensor], words: Mapping[str, Tensor], shape: tuple[int, ...]) -> list[Tensor]:
        """Run the program that names; see `Runtime`."""
        with torch.inference_mode():
            return list(self._words(*seen, *(words[name] for name in self._inputs)))[: self._named]
