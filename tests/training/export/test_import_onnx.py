"""An ONNX file of another library becomes a policy of the store, or is refused with the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from daemon.models.graph_check import check_graph
from strategies.kit.contract import Spec
from strategies.option_scalper import SPEC
from strategies.registry import strategy
from training.export.export import onnx_bytes, session_of
from training.export.import_onnx import ImportOnnxError, import_onnx

WIDTH = 20 * 23
WEIGHTS = np.random.default_rng(1).normal(size=(WIDTH, 6)).astype(np.float32)


def write_model(
    path: Path, *, shape: tuple[int | str, ...] = ("n", 20, 23), last: str = "", rows: int = -1, more: bool = False
) -> Path:
    """A linear policy: `features` to `scores`; `rows` fixes the batch inside, `last` is what follows ("A+B")."""
    first = [
        helper.make_node("Reshape", ["features", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["sums" if last else "scores"]),
    ]
    names = ["sums", *(f"after {number}" for number in range(last.count("+"))), "scores"]
    kinds = last.split("+") if last else []
    nodes = [*first, *(helper.make_node(kind, [names[at]], [names[at + 1]]) for at, kind in enumerate(kinds))]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 6])]
    if more:
        outputs.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", WIDTH]))
    flat = numpy_helper.from_array(np.array([rows, WIDTH], dtype=np.int64), "flat")
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)]
    weights = numpy_helper.from_array(WEIGHTS, "weights")
    graph = helper.make_graph(nodes, "made elsewhere", inputs, outputs, [weights, flat])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_it_answers_as_the_file_does_and_is_exported_under_the_store_s_names(tmp_path: Path) -> None:
    policy = import_onnx(write_model(tmp_path / "mine.onnx"), SPEC)
    observations = np.random.default_rng(2).normal(size=(5, 20, 23)).astype(np.float32)
    expected = observations.reshape(5, WIDTH) @ WEIGHTS
    assert policy.answers(observations) == pytest.approx(expected, abs=1e-4)
    graph = onnx_bytes(policy, observations, SPEC)
    check_graph(graph)
    (answers,) = session_of(graph).run(["logits"], {"observation": observations[:1]})
    assert answers == pytest.approx(expected[:1], abs=1e-4)


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ({"shape": ("n", 23, 20)}, "expected FLOAT (batch, 20, 23): make it for the strategy's `SPEC`"),
        ({"last": "Softmax"}, "it answers probabilities, expected logits: export it without its softmax"),
        ({"last": "Softmax+Identity"}, "it answers probabilities, expected logits: export it without its softmax"),
        ({"last": "Celu", "rows": 1}, "export it with a dynamic batch"),
        ({"more": True}, "2 outputs (scores, row), expected one"),
        ({"last": "Bernoulli"}, "the daemon would refuse it: "),
        ({"last": "Bernoulli"}, "needs: change that in the library that made it, and export it from there again"),
    ],
)
def test_what_is_no_policy_of_the_strategy_is_refused_with_the_cure(
    form: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ImportOnnxError) as caught:
        import_onnx(write_model(tmp_path / "mine.onnx", **form), SPEC)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("mine.onnx: ")


def test_bytes_that_are_no_graph_and_a_policy_with_a_memory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"hello")
    with pytest.raises(ImportOnnxError, match=r"no.onnx: the daemon would refuse it"):
        import_onnx(tmp_path / "no.onnx", SPEC)
    remembers: Spec = strategy("regime_switcher").spec
    with pytest.raises(ImportOnnxError, match="heads, a memory or rows of symbols"):
        import_onnx(write_model(tmp_path / "mine.onnx"), remembers)
