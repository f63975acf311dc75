"""Evaluation: Detectron2 dataset evaluators with stated rules."""

from ovseg.evaluation.semantic import SemanticEvaluator, SemanticResult

__all__ = ["SemanticEvaluator", "SemanticResult"]
