"""Evaluation with stated rules: streaming evaluators that merge exactly; Detectron2's interface in its own module."""

from ovseg.evaluation.instance import InstanceEvaluator, InstanceMasks, InstanceResult, true_instances
from ovseg.evaluation.panoptic import PanopticEvaluator, PanopticResult, Quality
from ovseg.evaluation.segments import from_labels, from_panoptic_seg
from ovseg.evaluation.semantic import SemanticEvaluator, SemanticResult

__all__ = [
    "InstanceEvaluator",
    "InstanceMasks",
    "InstanceResult",
    "PanopticEvaluator",
    "PanopticResult",
    "Quality",
    "SemanticEvaluator",
    "SemanticResult",
    "from_labels",
    "from_panoptic_seg",
    "true_instances",
]
