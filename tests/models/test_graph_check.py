"""The graph check: what training exports passes, what harms is refused by name, and none of it takes memory."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.models.graph_check import BYTES_MAX, check_graph
from daemon.models.pointer import ModelError
from tests.support.examples import examples
from tests.support.models.malicious_models import MALICIOUS, MATRIX, node
from tests.support.models.tiny_models import graph, mlp, weights
from tests.support.paths import REPOSITORY

SHIPPED = sorted(REPOSITORY.glob("onnx_models/*/*/policy.onnx"))
FIXTURE = sorted(REPOSITORY.glob("tests/fixture_policy/onnx_models/*/*/policy.onnx"))


def refusal(data: bytes) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_graph(data)
    return caught.value


@pytest.mark.parametrize("path", [*SHIPPED, *FIXTURE], ids=lambda path: path.parent.parent.name)
def test_what_training_exported_passes(path: Path) -> None:
    check_graph(path.read_bytes())


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_graph_is_refused_by_the_check_that_it_fails(name: str) -> None:
    data, check = MALICIOUS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data).check == check
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 256, name


def test_a_graph_over_the_limit_is_not_even_read() -> None:
    assert refusal(bytes(BYTES_MAX + 1)).check == "graph size"


def test_a_refusal_is_one_short_line_whatever_the_graph_calls_itself() -> None:
    name = "\n\x1b[31m" + "x" * 100_000
    data = graph(
        [node("Flatten", ["observation"], [name], axis=1), node("Gemm", [name, "matrix"], ["logits"])],
        {"observation": ("batch", 20, 23)},
        {"logits": ("batch", 6)},
        {"matrix": MATRIX},
    )
    check_graph(data)
    model = onnx.ModelProto.FromString(data)
    model.graph.node[0].op_type = name
    text = refusal(model.SerializeToString()).text
    assert len(text) < 500
    assert text.isprintable()


def test_a_batch_of_another_size_than_one_is_refused() -> None:
    data = mlp(weights()).replace(b"\x12\x05batch", b"\x08\x82\x80\x80\x80\x00")  # dim_param "batch" -> dim_value 2
    assert refusal(data).check in {"graph shapes", "graph format"}


@given(st.binary(max_size=64), st.integers(min_value=0, max_value=60_000))
@settings(max_examples=examples(60))
def test_any_damage_is_a_refusal_or_still_a_graph(patch: bytes, at: int) -> None:
    whole = mlp(weights())
    at %= len(whole)
    damaged = whole[:at] + patch + whole[at + len(patch) :]
    with contextlib.suppress(ModelError):
        check_graph(damaged)
