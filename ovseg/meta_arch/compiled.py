"""What of a model is compiled, or captured as a CUDA graph: the network that knows no words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ovseg.errors import ConfigError
from ovseg.ops.build import find_compiler
from ovseg.system.device import is_cpu


class Compiled:
    """A model whose `network` may be compiled.

    Attributes:
        clip: Its CLIP.
        not_compiled: Why the network of this kind is not compiled; empty where it is.
    """

    clip: Any
    not_compiled: str = ""
    _compiled: Callable[..., Any] | None = None

    def compile_network(self, backend: str = "inductor") -> None:
        """Compile what `see` runs (`network`), as one graph; words stay free to change.

        Args:
            backend: Of `torch.compile`.

        Raises:
            ConfigError: It cannot be compiled; the message says why.
        """
        if self.not_compiled:
            raise ConfigError(f"{type(self).__name__} is not compiled: {self.not_compiled}; leave compile out")
        if backend == "inductor" and is_cpu(self.clip.device) and find_compiler() is None:
            raise ConfigError("there is no C++ compiler to compile with; install g++ or clang++, or leave compile out")
        self._compiled = torch.compile(self.network, fullgraph=True, backend=backend)

    def run_network(self, *inputs: Any) -> Any:
        """Run `network`, compiled where it was.

        Raises:
            ConfigError: It could not be compiled, which PyTorch finds out at the first images.
        """
        if self._compiled is None:
            return self.network(*inputs)
        from torch._dynamo.exc import TorchDynamoException  # with `torch.compile` it is there, and else costs a second

        try:
            return self._compiled(*inputs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise ConfigError(
                f"{type(self).__name__} cannot be compiled here ({reason[:200]}); leave compile out"
            ) from error

    def network(self, *inputs: Any) -> Any:
        """Run what of `see` may be compiled, and captured as a CUDA graph: no value is read."""
        raise NotImplementedError
