"""Save and restore the state of a daily market as plain tensors and numbers.

A market is its attributes here: those named `changing` are tensors, a row for each environment. Nothing is computed.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

FIXED = ("_first", "_last")


def packed(market: MutableMapping[str, Any], changing: Sequence[str]) -> dict[str, Any]:
    """The state of the market with these attributes; tensors are copies, names lose their underscore."""
    state = {name.strip("_"): market[name].clone() for name in changing}
    return state | {name.strip("_"): market[name] for name in ("_seed", *FIXED)}


def unpack(market: MutableMapping[str, Any], changing: Sequence[str], state: dict[str, Any]) -> None:
    """Let the market with these attributes go on from `state`, on its own device.

    Raises:
        ValueError: the state is of another number of environments or another span.
    """
    wanted = {"environments": market["_count"], **{name.strip("_"): market[name] for name in FIXED}}
    rows = state[changing[0].strip("_")].shape[0]
    found = {"environments": rows, **{name.strip("_"): state[name.strip("_")] for name in FIXED}}
    if wanted != found:
        raise ValueError(f"the market's state is of {found}, this one has {wanted}: give the same file and count")
    market["_seed"] = int(state["seed"])
    for name in changing:
        market[name] = state[name.strip("_")].to(market["device"], copy=True)
