"""Labels and scores of the streamed operator against softmax and argmax over whole upsampled maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ConfigError
from ovseg.labelling import scores as postprocess
from ovseg.labelling.scores import ScoreRule, segment_map
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.class_argmax import class_argmax, plain_class_argmax
from ovseg.ops.windows import plan_windows

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "queries": st.integers(1, 70),
        "grid": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "size": st.tuples(st.integers(1, 40), st.integers(1, 60)),
        "windows": st.booleans(),
        "scale": st.sampled_from([1.0, 40.0, 400.0]),
        "softmax": st.booleans(),
        "compete": st.sampled_from(["all", "some", "none"]),
        "dtype": st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
        "layout": st.sampled_from(["contiguous", "channels last", "strided"]),
    }
)


def make(case):
    """Return the arguments of the operator."""
    torch.manual_seed(case["seed"])
    if case["windows"]:
        rows, columns = plan_windows((48, 56), 8, 24, 16).matrices(case["size"])  # up to eight patches a pixel
    else:
        rows, columns = (bilinear_matrix(*axis).float() for axis in zip(case["grid"], case["size"], strict=True))
    shape = (case["queries"], rows.shape[1], columns.shape[1])
    logits = torch.randn(shape).mul(0.2).to(case["dtype"])
    if case["layout"] == "channels last":
        logits = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    elif case["layout"] == "strided":
        logits = torch.stack([logits, logits], -1)[..., 0]
    classes = torch.randint(-1, 12, shape[:1])
    compete = {"all": torch.ones(shape[0]), "some": torch.rand(shape[0]) > 0.4, "none": torch.zeros(shape[0])}
    return logits, rows, columns, classes, compete[case["compete"]].bool(), case["scale"], case["softmax"]


def check_literal(found, logits, rows, columns, classes, competes, scale, softmax):
    """Compare with the definition in double precision: the class has the largest value, up to rounding."""
    labels, scores = found
    assert labels.dtype == torch.int32 and scores.dtype == torch.float32
    assert labels.shape == scores.shape == (len(rows), len(columns))
    maps = (rows.double() @ logits.double() @ columns.double().mT) * scale
    values = maps.softmax(0) if softmax else maps
    if not competes.any():
        assert (labels == -1).all() and (scores == (0 if softmax else -torch.inf)).all()
        return
    values, own = values[competes], classes[competes]
    torch.testing.assert_close(scores.double(), values.amax(0), atol=1e-5, rtol=2e-4 if softmax else 1e-5)
    of_label = values.masked_fill(own[:, None, None] != labels, -torch.inf).amax(0)
    torch.testing.assert_close(of_label, values.amax(0), atol=1e-5, rtol=2e-4)


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_the_plain_form_is_the_definition(case):
    arguments = make(case)
    check_literal(plain_class_argmax(*arguments), *arguments)


def test_of_few_equal_queries_the_first_wins():
    """Also where a later one is larger elsewhere."""
    logits, both = torch.tensor([[[1.0, 0.0]], [[1.0, 5.0]]]), torch.ones(2).bool()
    labels, _ = plain_class_argmax(logits, torch.eye(1), torch.eye(2), torch.arange(2), both, 1.0, True)
    assert labels.tolist() == [[0, 1]]


@pytest.mark.usefixtures("kernels")
class TestKernels:
    """The compiled form; the fixture has loaded it, so the public function takes it."""

    @settings(max_examples=200, deadline=None)
    @given(CASES)
    def test_is_the_definition(self, case):
        arguments = make(case)
        check_literal(class_argmax(*arguments), *arguments)

    def test_equals_the_plain_form_on_many_classes(self):
        torch.manual_seed(0)
        rows, columns = bilinear_matrix(12, 108).float(), bilinear_matrix(16, 192).float()
        logits, classes = torch.randn(847, 12, 16) * 0.1, torch.arange(847)
        for scale in (1.0, 100.0):
            labels, scores = class_argmax(logits, rows, columns, classes, scale=scale)
            expected, wanted = plain_class_argmax(logits, rows, columns, classes, torch.ones(847).bool(), scale, True)
            assert (labels == expected).float().mean() >= 0.9999
            torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)

    def test_of_equal_queries_the_first_wins(self):
        logits = torch.zeros(40, 3, 3)
        logits[[7, 30, 39]] = 1.0
        labels, scores = class_argmax(logits, torch.eye(3), torch.eye(3), torch.arange(40))
        assert (labels == 7).all()
        torch.testing.assert_close(scores, torch.full((3, 3), 1 / (3 + 37 / torch.e)))

    def test_losers_of_the_sum_may_be_far_above_the_winner(self):
        logits = torch.tensor([1.0, 500.0, 0.0]).view(3, 1, 1)
        competes = torch.tensor([True, False, True])
        labels, scores = class_argmax(logits, torch.ones(2, 1), torch.ones(2, 1), torch.arange(3), competes)
        assert (labels == 0).all() and (scores < 1e-30).all()

    def test_extreme_scores_stay_finite(self):
        logits = torch.tensor([-3e38, 3e38, 0.0, -torch.inf]).view(4, 1, 1).expand(4, 2, 2)
        labels, scores = class_argmax(logits, torch.eye(2), torch.eye(2), torch.arange(4), scale=100.0)
        assert (labels == 1).all() and (scores == 1).all()

    def test_wrong_calls_of_the_operator_itself_are_errors(self):
        logits, eye, classes, all_of = torch.zeros(2, 3, 3), torch.eye(3), torch.arange(2), torch.ones(2).bool()
        call = torch.ops.ovseg.class_argmax
        with pytest.raises(RuntimeError, match=r"matrices are \(H, h\) and \(W, w\)"):
            call(logits, torch.eye(4), eye, classes, all_of, 1.0, True)
        with pytest.raises(RuntimeError, match=r"logits are \(T, h, w\)"):
            call(logits[:0], eye, eye, classes[:0], all_of[:0], 1.0, True)
        with pytest.raises(RuntimeError, match="a class and a bool for each query"):
            call(logits, eye, eye, classes, torch.ones(2), 1.0, True)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_an_empty_output(size, form, request):
    if form == "compiled":
        request.getfixturevalue("kernels")
    rows, columns = torch.zeros(size[0], 2), torch.zeros(size[1], 2)
    arguments = torch.ones(3, 2, 2), rows, columns, torch.arange(3), torch.ones(3).bool(), 1.0, True
    call = plain_class_argmax if form == "plain" else class_argmax
    assert [tuple(found.shape) for found in call(*arguments)] == [size, size]


def test_the_rules_of_operators():
    arguments = make({**EXAMPLE, "layout": "channels last"})
    torch.library.opcheck(torch.ops.ovseg.class_argmax.default, arguments)


def test_compiles_and_exports_as_one_graph():
    arguments = make(EXAMPLE)
    expected = class_argmax(*arguments)
    compiled = torch.compile(class_argmax, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(*arguments), expected, strict=True):
        torch.testing.assert_close(found, wanted)

    class Labels(torch.nn.Module):
        def forward(self, logits, rows, columns, classes, competes):
            return class_argmax(logits, rows, columns, classes, competes, 40.0)

    torch.testing.assert_close(class_argmax(*arguments), expected)  # tracing has left nothing in its module
    program = torch.export.export(Labels(), arguments[:5])
    assert "ovseg.class_argmax" in program.graph_module.code
    for found, wanted in zip(program.module()(*arguments[:5]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


EXAMPLE = {
    "seed": 1,
    "queries": 9,
    "grid": (4, 5),
    "size": (21, 30),
    "windows": False,
    "scale": 40.0,
    "softmax": True,
    "compete": "some",
    "dtype": torch.float32,
    "layout": "contiguous",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 3)}, r"got|expected \(T, h, w\), \(H, h\) and \(W, w\)"),
        ({"logits": torch.zeros(0, 3, 3)}, "with at least one query"),
        ({"rows": torch.zeros(5, 4)}, r"scores \(2, 3, 3\) with matrices \(5, 4\) and \(3, 3\)"),
        ({"query_to_class": torch.arange(3)}, r"got 2 queries and \(3,\) classes"),
        ({"competes": torch.ones(1).bool()}, r"got 2 queries and \(2,\), \(1,\) classes or choices"),
        ({"competes": torch.ones(2)}, "expected floating scores and matrices, whole classes and bool choices"),
        ({"logits": torch.zeros(2, 3, 3).long()}, "dtypes are int64"),
        ({"scale": 0.0}, "scale is 0.0"),
    ],
)
def test_mistakes(change, message):
    right = {"logits": torch.zeros(2, 3, 3), "rows": torch.eye(3), "columns": torch.eye(3)}
    with pytest.raises(ConfigError, match=message):
        class_argmax(**{**right, "query_to_class": torch.arange(2), **change})


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", [{"area_threshold": 0.1}, {"prob_threshold": 0.05}, {"softmax": False}])
def test_the_labels_of_images_are_those_of_the_plain_form(options, monkeypatch):
    torch.manual_seed(0)
    matrices, rule = plan_windows((48, 56), 8, 24, 16).matrices((97, 130)), ScoreRule(40.0, **options)
    scores, classes = torch.randn(60, matrices[0].shape[1], matrices[1].shape[1]) * 0.05, torch.arange(60) // 2 - 1
    labels, best = segment_map(scores, *matrices, classes, rule)
    monkeypatch.setattr(postprocess, "class_argmax", plain_class_argmax)
    expected, wanted = segment_map(scores, *matrices, classes, rule)
    assert (labels == expected).float().mean() >= 0.9999
    torch.testing.assert_close(best, wanted, atol=1e-5, rtol=0)
