"""The manifest of an exported policy: its identity, its training, and the means to verify it.

Written by the export, read by the model store. `policy.onnx` has one input `observation` (float32, batch x observation
shape) and one output (float32, batch x actions): `logits`, or `actions` of a continuous policy. Recurrent policies add
the input `hidden` and the output `next_hidden` (float32, batch x hidden). The heads of the spec follow in their order,
by name (float32, batch x the head's shape). Where rows are symbols, the batch holds the symbols, and the first output
of a continuous policy has the shape (batch,). A policy of several `members` is their mean; recurrent ones have a memory
each, and hidden is members x hidden.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from strategies.kit.contract import Spec

FORMAT = 1
FEWEST_IN_A_WINDOW = 2  # fewest sessions that have a standard deviation
POLICY_FILE = "policy.onnx"
MANIFEST_FILE = "manifest.json"


class Golden(msgspec.Struct, frozen=True, omit_defaults=True):
    """Observations of the strategy's golden tape (float32 bytes, row-major) and torch's logits for them.

    A recurrent policy answered them as one sequence from the zero state; `hidden` is its state after each. `heads` are
    the heads of each answer, by name.
    """

    observations: tuple[bytes, ...]
    logits: tuple[tuple[float, ...], ...]  # of a continuous policy its actions
    hidden: tuple[bytes, ...] = ()  # float32, little endian; empty for policies without a memory
    heads: tuple[dict[str, tuple[float, ...]], ...] = ()  # empty for policies without heads


class Training(msgspec.Struct, frozen=True, omit_defaults=True):
    """The policy's training data. Dates are New York sessions; `synthetic` is true for synthetic bars."""

    file: str  # base name only
    file_sha256: str
    feed: str
    synthetic: bool
    sessions: int
    first_session: str
    last_session: str
    splits: dict[str, tuple[str, str]]  # train / validate / test -> first and last session
    source: str = ""  # where the file says that its bars come from, "" where it does not


class Histogram(msgspec.Struct, frozen=True, omit_defaults=True):
    """Distribution of one quantity in training: a value x is in bin i when edges[i-1] < x <= edges[i].

    First and last bin are open, so there is one share more than edges. `columns` are the places in the recorded row
    (the newest row of features, or a daily desk's observation) whose values are pooled here. `within` is the drift that
    parts of the training show against the whole: (length in consecutive rows, 99 % quantile of their population
    stability index), ascending.
    """

    name: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    columns: tuple[int, ...] = ()  # empty for the actions
    of_the_desk: bool = False  # depends on the policy's own actions: compared, but never alarmed
    within: tuple[tuple[int, float], ...] = ()


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Distributions of the training sessions, for comparison with live ones; made by `training.export.reference`."""

    samples: int  # observations
    features: tuple[Histogram, ...]
    actions: Histogram  # numbers of actions, or the values of a continuous policy pooled over its outputs


LEAD: Final = "lead"  # what a version may claim: over its best baseline
RISK: Final = "risk"  # or a risk that it keeps


class StatedClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a version claims, and whether its tests prove it. Made by `training.evidence.risk` for a risk.

    The figures below `sentence` are those of a stated risk, 0 in the claim of a lead. Volatilities are annual (252
    sessions), of closes of equity; drawdowns and exposures are fractions of the equity. A risk is claimed for a desk
    under the rules that the version was tested by (`Manifest.rules`), its risk overlay among them.

    `volatility_low` and `volatility_high` are what one stretch of `window_sessions` sessions is held against: its
    realised volatility lies between them with `probability` at least, as far as the tests tell. `level` is the mean of
    that volatility over all stretches of the tests, and `level_low` and `level_high` its 95 % interval: what is proven
    of the target.

    Raises:
        ValueError: a risk without a target, or a number that is not one of its kind.
    """

    kind: Literal["lead", "risk"]
    proven: bool
    sentence: str
    volatility_target: float = 0.0
    volatility_low: float = 0.0
    volatility_high: float = 0.0
    window_sessions: int = 60
    probability: float = 0.0
    drawdown_max: float = 0.0  # largest fall of the equity below its highest close within `drawdown_sessions` sessions
    drawdown_probability: float = 0.0  # probability that no deeper drawdown comes within `drawdown_sessions`
    drawdown_sessions: int = 252
    exposure_mean: float = 0.0  # of the tests
    sharpe_loss_seen: float = 0.0  # a year: the smallest true loss that the tests detect with probability 0.8
    level: float = 0.0
    level_low: float = 0.0
    level_high: float = 0.0

    def __post_init__(self) -> None:
        if self.kind == LEAD:
            return
        for name in ("volatility_target", "volatility_high", "drawdown_max"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"claim: {name} is {value}; expected a number above 0 for a stated risk")
        for name in ("probability", "drawdown_probability"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"claim: {name} is {value}; expected a number from 0 to below 1")
        if not 0.0 <= self.volatility_low < self.volatility_high or self.window_sessions < FEWEST_IN_A_WINDOW:
            raise ValueError(
                f"claim: volatility from {self.volatility_low} to {self.volatility_high} over {self.window_sessions} "
                f"sessions; expected 0 or more, the low one first, over at least {FEWEST_IN_A_WINDOW}"
            )


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`metrics` holds the figures on the untouched split, `hyperparameters` all that is needed to train again."""

    format: int
    strategy: str
    version: str
    contract_hash: str
    policy_sha256: str
    observation_shape: tuple[int, ...]
    actions: tuple[str, ...]
    golden: Golden
    training: Training
    hyperparameters: dict[str, Any]
    metrics: dict[str, Any]
    promoted: bool
    note: str = ""
    rules: dict[str, str] = {}  # configuration keys on which the meaning of its answers depends -> their values
    reference: Reference | None = None
    symbols: tuple[str, ...] = ()  # symbols it was trained on, where a configuration may name others
    model_config: dict[str, Any] = {}  # the state vector and heads it was trained with, where a file describes them
    model_config_digest: str = ""  # SHA-256 of its canonical text
    members: int = 1  # policies in the graph, which answers with their mean
    files: dict[str, str] = {}  # the version's other files by name -> SHA-256; the policy's stands above
    desk: dict[str, str] = {}  # configuration of the tests: keys whose values are not the strategy's defaults
    claim: StatedClaim | None = None  # None: nothing is claimed
    values: dict[str, Any] = {}  # of an own strategy at the export: attribute -> value after it was made


def config_text(manifest: Manifest) -> str:
    """Return the canonical text of the manifest's model configuration, "" where it has none."""
    return msgspec.json.encode(manifest.model_config, order="deterministic").decode() if manifest.model_config else ""


def answer_name(spec: Spec) -> str:
    """Return the name of the graph's first output."""
    return "actions" if spec.continuous else "logits"


def memory_shape(spec: Spec, members: int = 1) -> tuple[int, ...] | None:
    """Return the shape of a policy's memory without the batch; None for a policy without one."""
    if spec.recurrent_shape is None or members == 1:
        return spec.recurrent_shape
    return (members, *spec.recurrent_shape)


def output_shapes(spec: Spec, members: int = 1) -> dict[str, tuple[int, ...]]:
    """The graph's outputs in their order: name -> shape without the batch."""
    shapes: dict[str, tuple[int, ...]] = {answer_name(spec): _answer_shape(spec)}
    memory = memory_shape(spec, members)
    if memory is not None:
        shapes["next_hidden"] = memory
    return shapes | {head.name: head.shape for head in spec.heads}


def _answer_shape(spec: Spec) -> tuple[int, ...]:
    return () if spec.rows_are_symbols and spec.continuous else (len(spec.actions),)


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON with a newline at the end; golden observations are base64."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Decode a manifest. Raises `msgspec.ValidationError` or `msgspec.DecodeError` naming the wrong field."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"JSON is malformed: {error}") from None
