"""Check an ONNX graph in a separate process, before onnxruntime reads a byte of it.

The only file of the daemon that imports onnx. An allow-list: everything else is refused. Invariant: a graph that passes
has every weight inside, no control flow, and no tensor of more than `ELEMENTS_MAX` elements at batch size 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from daemon.models.pointer import ModelError

BYTES_MAX = 64 * 2**20
BYTES_OTHER_MAX = 2 * 2**20  # bytes of everything but weights: nodes, names, texts, unknown fields
ELEMENTS_MAX = 16 * 2**20  # elements of one tensor
ELEMENTS_SUM_MAX = 64 * 2**20  # elements of all tensors together
GROWN_MAX = 2**20  # elements of a tensor that an operator expands
NODES_MAX = 2_000
NAMES_MAX = 10_000  # inputs and outputs of all nodes together
LIST_MAX = 4_096  # numbers in one attribute
TEXT_MAX = 200  # characters of a name or text
RANK_MAX = 8
ROUNDS_MAX = 8  # rounds of inferring sizes
OUTPUTS_MAX = 16  # the answer, a memory and the heads
IR_VERSIONS = range(7, 15)
OPSETS = range(13, 29)
DEFAULT_DOMAINS = ("", "ai.onnx")
AGAIN = "export the policy again with train-and-export"


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


ELEMENTWISE = _names(
    "Abs Add And Cast CastLike Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid",
    "HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow",
    "Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where",
    "Xor",
)
LAYERS = _names(
    "AveragePool BatchNormalization Conv GRU Gemm GlobalAveragePool GlobalMaxPool GroupNormalization",
    "InstanceNormalization LSTM LayerNormalization LogSoftmax MatMul MaxPool RMSNormalization RNN Softmax",
)
REDUCTIONS = _names(
    "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum",
    "ReduceSumSquare TopK",
)
SHAPING = _names(
    "Concat Constant Flatten Gather GatherElements GatherND Reshape Shape Size Slice Split Squeeze Transpose Trilu",
    "Unsqueeze",
)
GROWING = frozenset({"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Tile"})
ALLOWED = ELEMENTWISE | LAYERS | REDUCTIONS | SHAPING | GROWING
KEEPS_COUNT = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
TEXT_ATTRIBUTES = frozenset(
    {"activations", "approximate", "auto_pad", "direction", "mode", "reduction"}
)  # of GRU, Gelu, Conv, Pad

ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
}
_PLAIN = {AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS}
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # of protobuf, which has no stubs
_TEXT = {AttributeProto.STRING, AttributeProto.STRINGS}


def check_graph(data: bytes) -> None:
    """Refuse anything but a policy's graph.

    Raises:
        ModelError: its `check` is "graph size", "graph format", "graph version", "graph domain", "graph parts", "graph
            operator", "graph attribute", "graph weights", "graph structure" or "graph shapes".
    """
    model = _parse(data)
    _check_versions(model)
    _check_parts(model)
    weights = {tensor.name: _check_tensor(tensor) for tensor in model.graph.initializer}
    weight_bytes = sum(weights[tensor.name] * ITEM_BYTES[tensor.data_type] for tensor in model.graph.initializer)
    if len(data) > 2 * weight_bytes + BYTES_OTHER_MAX:
        raise _error(
            "size", f"the model has {len(data)} bytes and only {weight_bytes} of weights: something else fills it"
        )
    _check_nodes(model.graph.node)
    ports = {port.name: _check_port(port) for port in (*model.graph.input, *model.graph.output)}
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise _error("structure", f"the graph is no valid ONNX ({_short(error)})") from None
    _check_sizes(model, weights | ports)


def _parse(data: bytes) -> onnx.ModelProto:
    if len(data) > BYTES_MAX:
        raise _error("size", f"the graph has {len(data)} bytes, expected at most {BYTES_MAX}")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except MemoryError:
        raise
    except _FAILURES as error:
        raise _error("format", f"the bytes are no ONNX model ({_short(error)}): damaged, or nested too deep") from None
    return model


def _check_versions(model: onnx.ModelProto) -> None:
    if model.ir_version not in IR_VERSIONS:
        version, least, most = model.ir_version, IR_VERSIONS.start, IR_VERSIONS.stop - 1
        raise _error("version", f"IR version {version}, expected {least} to {most}")
    domains = [(opset.domain, opset.version) for opset in model.opset_import]
    if len(domains) != 1 or domains[0][0] not in DEFAULT_DOMAINS:
        raise _error("domain", f"operator sets {_short(domains)}, expected the one of ONNX itself")
    if domains[0][1] not in OPSETS:
        raise _error("version", f"operator set {domains[0][1]}, expected {OPSETS.start} to {OPSETS.stop - 1}")


def _check_parts(model: onnx.ModelProto) -> None:
    """Require a single graph of nodes and dense weights, and limit their number."""
    graph = model.graph
    for part, count in (
        ("functions", len(model.functions)),
        ("training information", len(model.training_info)),
        ("sparse weights", len(graph.sparse_initializer)),
        ("quantization annotations", len(graph.quantization_annotation)),
        ("device configurations", len(getattr(model, "configuration", ()))),
    ):
        if count:
            raise _error("parts", f"the model has {part} ({count}), expected one plain graph with none")
    names = sum(len(node.input) + len(node.output) for node in graph.node)
    for part, count, most in (
        ("nodes", len(graph.node), NODES_MAX),
        ("weights", len(graph.initializer), NODES_MAX),
        ("inputs and outputs of nodes", names, NAMES_MAX),
        ("inputs", len(graph.input), 4),
        ("outputs", len(graph.output), OUTPUTS_MAX),
    ):
        if count > most:
            raise _error("parts", f"the graph has {count} {part}, expected at most {most}")
    if not graph.node:
        raise _error("parts", "the graph has no node, expected a policy")


def _check_tensor(tensor: onnx.TensorProto) -> int:
    """Require a whole, dense, finite weight inside of the model; return its number of elements."""
    name = _short(tensor.name)
    if tensor.external_data or tensor.data_location != TensorProto.DEFAULT:
        raise _error("weights", f"{name} keeps its values outside of the model, expected all weights inside")
    if tensor.data_type not in ITEM_BYTES or tensor.string_data or tensor.HasField("segment"):
        raise _error("weights", f"{name} has data type {tensor.data_type}, expected float, double, int or bool")
    elements = _elements(tensor.dims, f"weight {name}")
    raw = tensor.HasField("raw_data")
    size = len(tensor.raw_data) / ITEM_BYTES[tensor.data_type] if raw else _typed_elements(tensor)
    if size != elements:
        raise _error("weights", f"{name} says {elements} elements and holds {size:g}: its size is a lie")
    values = onnx.numpy_helper.to_array(tensor)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _error("weights", f"{name} holds NaN or infinity, expected finite weights")
    return elements


def _typed_elements(tensor: onnx.TensorProto) -> int:
    """Return the elements in the tensor's typed field."""
    match tensor.data_type:
        case TensorProto.FLOAT:
            return len(tensor.float_data)
        case TensorProto.DOUBLE:
            return len(tensor.double_data)
        case TensorProto.INT64:
            return len(tensor.int64_data)
        case _:
            return len(tensor.int32_data)


def _check_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.domain not in DEFAULT_DOMAINS:
            raise _error("domain", f"operator {_short(node.op_type)} of domain {_short(node.domain)}, expected ONNX's")
        if node.op_type not in ALLOWED:
            raise _error("operator", f"operator {_short(node.op_type)} is none that a policy needs")
        for attribute in node.attribute:
            _check_attribute(node.op_type, attribute)


def _check_attribute(operator: str, attribute: onnx.AttributeProto) -> None:
    subject, kind = f"attribute {_short(attribute.name)} of {operator}", attribute.type
    if attribute.ref_attr_name or attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
        raise _error("attribute", f"{subject} holds a graph, a sparse tensor or a reference")
    if kind == AttributeProto.TENSOR:
        _check_tensor(attribute.t)
    elif kind in _TEXT and attribute.name in TEXT_ATTRIBUTES:
        texts = [attribute.s, *attribute.strings]
        if len(texts) > RANK_MAX or any(len(text) > TEXT_MAX for text in texts):
            raise _error("attribute", f"{subject} is too long a text")
    elif kind not in _PLAIN:
        raise _error("attribute", f"{subject} is of type {kind}, expected numbers or a plain tensor")
    if max(len(attribute.ints), len(attribute.floats), len(attribute.tensors)) > LIST_MAX:
        raise _error("attribute", f"{subject} has more than {LIST_MAX} numbers")


def _check_port(port: onnx.ValueInfoProto) -> int:
    """Check an input or output: float32, the batch as first dimension; return its elements at batch size 1."""
    name, tensor = _short(port.name), port.type.tensor_type
    if port.type.WhichOneof("value") != "tensor_type" or tensor.elem_type != TensorProto.FLOAT:
        raise _error("structure", f"{name} is no tensor of float32")
    dims = tensor.shape.dim
    if not dims or (dims[0].HasField("dim_value") and dims[0].dim_value != 1):
        raise _error("shapes", f"{name} has no batch dimension that is free or 1")
    if any(not dim.HasField("dim_value") for dim in dims[1:]):
        raise _error("shapes", f"{name} has free dimensions beside the batch, expected one")
    return _elements([dim.dim_value for dim in dims[1:]], name)


def _check_sizes(model: onnx.ModelProto, given_sizes: dict[str, int]) -> None:
    """Require that every tensor of a run has a known, small size. Changes `model`."""
    graph = model.graph
    del graph.value_info[:]  # the model's own claims on inner sizes
    for port in graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = 1
    port_names = {port.name for port in graph.output}
    for port in graph.output:
        port.type.tensor_type.ClearField("shape")  # or on its outputs: infer them like any other tensor
    types = _infer_types(model)
    sizes = {name: size for name, size in given_sizes.items() if name not in port_names}
    for node in graph.node:
        for output in filter(None, node.output):
            if output not in sizes:
                sizes[output] = _output_elements(node, output, types.get(output), sizes)
            if node.op_type in GROWING and sizes[output] > GROWN_MAX:
                size_text = f"{node.op_type} makes {sizes[output]} elements"
                raise _error("shapes", f"{size_text}, expected at most {GROWN_MAX}")
    if (total := sum(sizes.values())) > ELEMENTS_SUM_MAX:
        raise _error("shapes", f"all tensors have {total} elements, expected at most {ELEMENTS_SUM_MAX}")


def _infer_types(model: onnx.ModelProto) -> dict[str, Any]:
    """Return each tensor's type as ONNX infers it. Changes `model`.

    Inference does not follow a Reshape whose sizes come from other nodes. It keeps the number of elements: if a single
    size is missing, it follows from that, and the rest is inferred again.
    """
    reshapes = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    for _ in range(ROUNDS_MAX):
        try:
            inferred_model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            raise _error("shapes", f"sizes cannot be told ({_short(error)})") from None
        types = {
            value.name: value.type.tensor_type
            for value in (*inferred_model.graph.value_info, *inferred_model.graph.output)
        }
        free = [value for value in inferred_model.graph.value_info if value.name in reshapes]
        solved_values = [value for value in free if _solved(types[value.name], types.get(reshapes[value.name]))]
        if not solved_values:
            break
        model.graph.value_info.extend(solved_values)
    return types


def _solved(output_type: Any, inputs: Any) -> bool:
    """Fill in the single size that `output_type` lacks, from those of its inputs; True if there was one."""
    free = [dim for dim in output_type.shape.dim if not dim.HasField("dim_value")]
    sizes = [dim.dim_value for dim in output_type.shape.dim if dim.HasField("dim_value")]
    whole = inputs is not None and inputs.HasField("shape") and all(d.HasField("dim_value") for d in inputs.shape.dim)
    if len(free) != 1 or not whole:
        return False
    size, rest = divmod(math.prod(dim.dim_value for dim in inputs.shape.dim), max(math.prod(sizes), 1))
    free[0].dim_value = size
    return not rest


def _output_elements(node: onnx.NodeProto, output: str, tensor_type: Any, sizes: dict[str, int]) -> int:
    """Return the elements, at most, of a tensor that the node makes."""
    dims = None if tensor_type is None or not tensor_type.HasField("shape") else tensor_type.shape.dim
    if dims is not None and all(dim.HasField("dim_value") for dim in dims):
        return _elements([dim.dim_value for dim in dims], _short(output))
    if node.op_type in KEEPS_COUNT and node.input and node.input[0] in sizes:
        return sizes[node.input[0]]
    if node.op_type == "Gather" and all(name in sizes for name in node.input):
        return _elements([sizes[name] for name in node.input], _short(output))  # each index picks a part of the data
    raise _error("shapes", f"the size of {_short(output)}, made by {node.op_type}, cannot be told before it runs")


def _elements(dims: Sequence[int], subject: str) -> int:
    """Return the product of positive dimensions, 1 for none."""
    if len(dims) > RANK_MAX or any(dim < 1 for dim in dims):
        raise _error(
            "shapes", f"{subject} has dimensions {_short(list(dims[:RANK_MAX]))}, expected up to 8 positive ones"
        )
    elements = math.prod(dims)
    if elements > ELEMENTS_MAX:
        raise _error("shapes", f"{subject} has {elements} elements, expected at most {ELEMENTS_MAX}")
    return elements


def _short(value: object) -> str:
    """Return a text for the finding on one line of limited length, whatever the graph contains."""
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"


def _error(check: str, fault: str) -> ModelError:
    return ModelError(f"graph {check}", f"{fault}: {AGAIN}")
