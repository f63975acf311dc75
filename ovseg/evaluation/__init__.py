"""Evaluation with stated rules: streaming evaluators that merge exactly; Detectron2's interface in its own module."""

from ovseg.evaluation.metrics.instance import InstanceEvaluator, InstanceRecord, InstanceResult
from ovseg.evaluation.metrics.instance_masks import InstanceMasks, true_instances
from ovseg.evaluation.metrics.panoptic import PanopticEvaluator, PanopticRecord, PanopticResult, Quality
from ovseg.evaluation.metrics.prompts import (
    PromptEvaluator,
    PromptRecord,
    PromptResult,
    ReferringEvaluator,
    ReferringRecord,
    ReferringResult,
)
from ovseg.evaluation.metrics.segments import from_ids, from_labels, from_panoptic
from ovseg.evaluation.metrics.semantic import SemanticEvaluator, SemanticRecord, SemanticResult
from ovseg.evaluation.metrics.state import Evaluator, Record, load_states, save_states

__all__ = [
    "Evaluator",
    "InstanceEvaluator",
    "InstanceMasks",
    "InstanceRecord",
    "InstanceResult",
    "PanopticEvaluator",
    "PanopticRecord",
    "PanopticResult",
    "PromptEvaluator",
    "PromptRecord",
    "PromptResult",
    "Quality",
    "Record",
    "ReferringEvaluator",
    "ReferringRecord",
    "ReferringResult",
    "SemanticEvaluator",
    "SemanticRecord",
    "SemanticResult",
    "from_ids",
    "from_labels",
    "from_panoptic",
    "load_states",
    "save_states",
    "true_instances",
]
