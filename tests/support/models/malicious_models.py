"""Graphs that somebody could put into a model store to harm the desk, built by hand with the onnx package.

Each is named, with the check that must refuse it. Where onnx's own builder would object, protobuf is written directly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.models.tiny_models import mlp, weights

SHAPE = (20, 23)
ACTIONS = 6
node = helper.make_node


def _model(
    nodes: list[Any], constants: dict[str, Any] | None = None, domains: tuple[tuple[str, int], ...] = (("", 20),)
) -> onnx.ModelProto:
    """A model with the scalper's input and output around these nodes; nothing is checked."""
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", ACTIONS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*domain) for domain in domains], ir_version=10)


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def _tail(into: str, elements_of: str = "flat") -> list[Any]:
    """Nodes that turn the tensor `into` into `logits`, so that it matters to the answer."""
    return [
        node("Flatten", ["observation"], [elements_of], axis=1),
        node("ReduceMean", [into], ["mean"], keepdims=0),
        node("Gemm", [elements_of, "matrix"], ["plain"]),
        node("Add", ["plain", "mean"], ["logits"]),
    ]


MATRIX = np.zeros((460, ACTIONS), np.float32)


def external(location: str) -> bytes:
    """A weight whose values lie in another file."""
    model = onnx.ModelProto.FromString(mlp(weights()))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return _bytes(model)


def external_in_attribute() -> bytes:
    """The same in a Constant's attribute."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    constant = onnx.NodeProto(op_type="Constant", output=["stolen"])
    attribute = constant.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor)
    return _bytes(_model([constant, *_tail("stolen")], {"matrix": MATRIX}))


def lying_weight() -> bytes:
    """A weight that says it has 2^40 elements and holds four bytes."""
    model = _model(_tail("huge"), {"matrix": MATRIX})
    model.graph.initializer.add(name="huge", data_type=TensorProto.FLOAT, dims=[2**20, 2**20], raw_data=b"\0\0\0\0")
    return _bytes(model)


def short_weight() -> bytes:
    """A weight that holds fewer values than it says."""
    model = onnx.ModelProto.FromString(mlp(weights()))
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return _bytes(model)


def empty_dimension() -> bytes:
    """A weight with a negative dimension."""
    model = onnx.ModelProto.FromString(mlp(weights()))
    model.graph.initializer[0].dims[0] = -460
    return _bytes(model)


def constant_of_shape() -> bytes:
    """A tensor of 2^40 zeros out of sixteen bytes."""
    shape = np.array([2**20, 2**20], np.int64)
    return _bytes(
        _model([node("ConstantOfShape", ["shape"], ["huge"]), *_tail("huge")], {"shape": shape, "matrix": MATRIX})
    )


def expand() -> bytes:
    """One number made 2^36 of them."""
    held = {"one": np.zeros((1,), np.float32), "shape": np.array([2**18, 2**18], np.int64), "matrix": MATRIX}
    return _bytes(_model([node("Expand", ["one", "shape"], ["huge"]), *_tail("huge")], held))


def tile_in_steps() -> bytes:
    """Each step grows a little, many steps grow much."""
    held: dict[str, Any] = {"matrix": MATRIX, "two": np.array([4, 4], np.int64), "start": np.zeros((8, 8), np.float32)}
    nodes = [node("Tile", ["start" if i == 0 else f"t{i}", "two"], [f"t{i + 1}"]) for i in range(12)]
    return _bytes(_model([*nodes, *_tail("t12")], held))


def outer_product() -> bytes:
    """A matrix product of two small weights that is large."""
    held = {"a": np.zeros((8192, 1), np.float32), "b": np.zeros((1, 8192), np.float32), "matrix": MATRIX}
    return _bytes(_model([node("MatMul", ["a", "b"], ["huge"]), *_tail("huge")], held))


def size_from_the_observation() -> bytes:
    """A tensor whose size is a feature: it is known only when it runs."""
    nodes = [
        node("ReduceMax", ["observation"], ["largest"], keepdims=0),
        node("Cast", ["largest"], ["count"], to=TensorProto.INT64),
        node("Unsqueeze", ["count", "axis"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["huge"]),
    ]
    return _bytes(_model([*nodes, *_tail("huge")], {"axis": np.array([0], np.int64), "matrix": MATRIX}))


def size_from_the_observation_at_an_output() -> bytes:
    """The same in a tensor that is also declared as a small output, as which every run until the trigger made it."""
    nodes = [
        node("ReduceMax", ["observation"], ["largest"], keepdims=0),
        node("Cast", ["largest"], ["count"], to=TensorProto.INT64),
        node("Unsqueeze", ["count", "axis"], ["many"]),
        node("Concat", ["one", "many"], ["shape"], axis=0),
        node("Expand", ["start", "shape"], ["next_hidden"]),
    ]
    held: dict[str, Any] = {"axis": np.array([0], np.int64), "one": np.array([1], np.int64), "matrix": MATRIX}
    model = _model([*nodes, *_tail("next_hidden")], {**held, "start": np.zeros((1, 1), np.float32)})
    model.graph.output.append(helper.make_tensor_value_info("next_hidden", TensorProto.FLOAT, ["batch", 3]))
    return _bytes(model)


def custom_domain() -> bytes:
    """An operator of somebody's own library."""
    nodes = [node("Backdoor", ["observation"], ["logits"], domain="com.example")]
    return _bytes(_model(nodes, domains=(("", 20), ("com.example", 1))))


def microsoft_domain() -> bytes:
    """An operator of onnxruntime's own extensions."""
    nodes = [node("FusedGemm", ["observation"], ["logits"], domain="com.microsoft")]
    return _bytes(_model(nodes))


def branch() -> bytes:
    """An If, whose branches are graphs within the graph."""
    value = helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)
    inside = helper.make_graph([node("Identity", ["matrix"], ["inside"])], "branch", [], [value])
    nodes = [
        node("If", ["yes"], ["chosen"], then_branch=inside, else_branch=inside),
        node("Flatten", ["observation"], ["flat"], axis=1),
        node("Gemm", ["flat", "chosen"], ["logits"]),
    ]
    return _bytes(_model(nodes, {"yes": np.array(True), "matrix": MATRIX}))


def endless_loop() -> bytes:
    """A Loop of 2^62 rounds."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    held = {"rounds": np.array(2**62), "yes": np.array(True), "x0": np.array(0, np.float32), "matrix": MATRIX}
    return _bytes(_model([node("Loop", ["rounds", "yes", "x0"], ["late"], body=body), *_tail("late")], held))


def hidden_graph() -> bytes:
    """An allowed operator with a graph in an attribute that it does not have."""
    inside = helper.make_graph([node("Identity", ["observation"], ["out"])], "inside", [], [])
    model = _model(
        [node("Flatten", ["observation"], ["flat"], axis=1), node("Gemm", ["flat", "matrix"], ["logits"])],
        {"matrix": MATRIX},
    )
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.type = "extra", onnx.AttributeProto.GRAPH
    attribute.g.CopyFrom(inside)
    return _bytes(model)


def local_function() -> bytes:
    """A model with a function of its own, in ONNX's own domain so that it would replace an operator."""
    model = _model(
        [node("Flatten", ["observation"], ["flat"], axis=1), node("Gemm", ["flat", "matrix"], ["logits"])],
        {"matrix": MATRIX},
    )
    function = helper.make_function(
        "", "Gemm", ["a", "b"], ["c"], [node("MatMul", ["a", "b"], ["c"])], [helper.make_opsetid("", 20)]
    )
    model.functions.append(function)
    return _bytes(model)


def random_numbers() -> bytes:
    """Answers that no replay repeats."""
    return _bytes(_model([node("RandomNormal", [], ["noise"], shape=[1, 6]), *_tail("noise")], {"matrix": MATRIX}))


def strings() -> bytes:
    """A weight of texts."""
    model = _model(_tail("x"), {"matrix": MATRIX, "x": np.zeros(1, np.float32)})
    model.graph.initializer.add(name="texts", data_type=TensorProto.STRING, dims=[1], string_data=[b"text"])
    return _bytes(model)


def sparse() -> bytes:
    """A sparse weight: few values, any size."""
    model = _model(_tail("x"), {"matrix": MATRIX, "x": np.zeros(1, np.float32)})
    entry = model.graph.sparse_initializer.add(dims=[2**30])
    entry.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "few"))
    entry.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "where"))
    return _bytes(model)


def not_a_number() -> bytes:
    """One weight is NaN."""
    matrix = MATRIX.copy()
    matrix[3, 2] = np.nan
    return _bytes(_model(_tail("x"), {"matrix": matrix, "x": np.zeros(1, np.float32)}))


def too_many_nodes() -> bytes:
    """Ten thousand operators in a row."""
    nodes = [node("Relu", ["x" if i == 0 else f"r{i}"], [f"r{i + 1}"]) for i in range(10_000)]
    return _bytes(_model([*nodes, *_tail("r10000")], {"matrix": MATRIX, "x": np.zeros(1, np.float32)}))


def circle() -> bytes:
    """Two nodes that wait for one another."""
    nodes = [node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), *_tail("a")]
    return _bytes(_model(nodes, {"matrix": MATRIX}))


def no_version() -> bytes:
    """Written by no version of ONNX that there is."""
    model = onnx.ModelProto.FromString(mlp(weights()))
    model.ir_version = 2**40
    return _bytes(model)


def old_operators() -> bytes:
    """An operator set from before what is known here."""
    model = onnx.ModelProto.FromString(mlp(weights()))
    model.opset_import[0].version = 1
    return _bytes(model)


def stuffed(size: int = 60 * 2**20) -> bytes:
    """A good policy beside so many bytes of text."""
    return mlp(weights()) + _field(6, b"x" * size)  # ModelProto.doc_string


def nested(depth: int = 30_000) -> bytes:
    """Graphs within attributes of nodes of graphs, thousands deep: each level is graph.node.attribute.g."""
    heads, size = list[bytes](), 0
    for field in [6, 5, 1] * depth + [7]:  # AttributeProto.g, NodeProto.attribute, GraphProto.node; ModelProto.graph
        heads.append(_head(field, size))
        size += len(heads[-1])
    return b"\x08\x0a" + b"".join(reversed(heads))  # ir_version 10


def _field(number: int, data: bytes) -> bytes:
    """One length-delimited field of a protobuf message."""
    return _head(number, len(data)) + data


def _head(number: int, length: int) -> bytes:
    """What stands before the `length` bytes of such a field."""
    size = bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size)


MALICIOUS: dict[str, tuple[bytes, str]] = {
    "external data by an absolute path": (external("/etc/passwd"), "graph weights"),
    "external data outside of the folder": (external("../../secret.bin"), "graph weights"),
    "external data in an attribute": (external_in_attribute(), "graph weights"),
    "a weight that lies about its size": (lying_weight(), "graph shapes"),
    "a weight that is cut short": (short_weight(), "graph weights"),
    "a negative dimension": (empty_dimension(), "graph shapes"),
    "a constant of 2^40 elements": (constant_of_shape(), "graph shapes"),
    "an expansion to 2^36 elements": (expand(), "graph shapes"),
    "a chain of tiles": (tile_in_steps(), "graph shapes"),
    "an outer product": (outer_product(), "graph shapes"),
    "a size that the observation names": (size_from_the_observation(), "graph shapes"),
    "a size that the observation names at an output": (size_from_the_observation_at_an_output(), "graph shapes"),
    "a custom domain": (custom_domain(), "graph domain"),
    "an undeclared domain": (microsoft_domain(), "graph domain"),
    "an If": (branch(), "graph operator"),
    "an endless Loop": (endless_loop(), "graph operator"),
    "a graph in an attribute": (hidden_graph(), "graph attribute"),
    "a function": (local_function(), "graph parts"),
    "random numbers": (random_numbers(), "graph operator"),
    "texts": (strings(), "graph weights"),
    "a sparse weight": (sparse(), "graph parts"),
    "a NaN weight": (not_a_number(), "graph weights"),
    "ten thousand nodes": (too_many_nodes(), "graph parts"),
    "a circle": (circle(), "graph structure"),
    "an unknown format": (no_version(), "graph version"),
    "old operators": (old_operators(), "graph version"),
    "thousands of levels": (nested(), "graph format"),
    "a truncated file": (mlp(weights())[:-100], "graph format"),
    "no model at all": (b"\xff" * 1000, "graph format"),
    "an empty file": (b"", "graph version"),
}
"""By what is wrong with it: the bytes, and the check that names it."""
