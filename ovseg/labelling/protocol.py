"""The protocol of an evaluation: what papers set per benchmark, apart from sizes and how scores become labels."""

from __future__ import annotations

from dataclasses import dataclass

from ovseg.errors import ConfigError, one_of
from ovseg.ops.windows import WindowPlan, check_windows, plan_windows


@dataclass(frozen=True)
class Protocol:
    """What papers set per benchmark, apart from the size rule and the score rule.

    Attributes:
        window, stride: Sliding windows in pixels; window 0 is the whole image.
        padding: ``none``, ``corner`` or ``even``; see `ovseg.ops.windows.plan_windows`.
        resize: How scores of a whole image come to the output, ``once`` or ``twice``; likewise. Originals differ, so
            the config of a method says it.
        corners: Whether the outermost patches of a window lie on its outermost pixels; likewise (Talk2DINO).
        pamr_at: Where the rule's PAMR runs: ``output``, at the size of the photograph (NACLIP), ``network``, at the
            size of the network input, which costs the same for photographs of all sizes, or ``window``, in each window
            before they are averaged (Talk2DINO).
        pad_multiple: Pixels to whose multiple windows are padded; 0 is the patch.
        image_engineering: Share of the unflipped views in ITACLIP's ensemble of views; 0 encodes the image alone.
        region_rule: What regions do to labels: ``none``, ``vote`` (the label most of its pixels have) or ``mean`` (the
            best mean score). The regions are those of the method, or of the region generator.
        crf_steps: Rounds of the dense CRF at the size of the network input; 0 is off.
        crf_smoothness, crf_appearance: Its terms; see `ovseg.refinement.dense_crf`.

    Raises:
        ConfigError: Windows cannot be laid out so, or an option is another word.
    """

    window: int
    stride: int
    padding: str
    resize: str = "once"
    corners: bool = False
    pamr_at: str = "output"
    pad_multiple: int = 0
    image_engineering: float = 0.0
    region_rule: str = "none"
    crf_steps: int = 0
    crf_smoothness: tuple[float, ...] = (3.0, 3.0)
    crf_appearance: tuple[float, ...] = (50.0, 5.0, 10.0)

    def __post_init__(self) -> None:
        """Check the values; for those of windows see `check`."""
        one_of("pamr_at", self.pamr_at, ("output", "network", "window"))
        one_of("region_rule", self.region_rule, ("none", "vote", "mean"))
        if not 0 <= self.image_engineering <= 1:
            raise ConfigError(f"image_engineering is {self.image_engineering}; expected a share between 0 and 1")

    def check(self, patch: int) -> None:
        """Refuse windows that do not fit a model with patches of so many pixels.

        Raises:
            ConfigError: They cannot be laid out so.
        """
        check_windows(patch, self.window, self.stride, self.padding, self.pad_multiple, self.resize)

    def plan(self, size: tuple[int, int], patch: int) -> WindowPlan:
        """Plan the windows of a network input of ``size`` (height, width)."""
        own = (self.window, self.stride, self.padding, self.pad_multiple, self.resize, self.corners)
        return plan_windows(size, patch, *own)
