"""The portfolio fields of a state vector, for one row or many: one rule for live and training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

RETURN_LEAST, RETURN_MOST = -1.0, 3.0
AGE_UNIT_MIN, AGE_MOST = 60.0, 6.5  # a session of minutes has 390


def portfolio_fields(
    fields: Sequence[str],
    *,
    shares: npt.ArrayLike,
    price: npt.ArrayLike,
    cash: npt.ArrayLike,
    equity: npt.ArrayLike,
    cost: npt.ArrayLike,
    age_min: npt.ArrayLike,
) -> Float64Array:
    """Return the named fields, float64 (..., fields), of arrays that broadcast to one shape.

    Args:
        fields: names out of `strategies.kit.model_config.config.PORTFOLIO`.
        shares: held of the row's symbol.
        price: last known, USD a share; 0 where none is.
        cash: USD of the account.
        equity: USD of the account.
        cost: average price paid for what is held, USD a share.
        age_min: whole minutes since its first fill.
    """
    given = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (shares, price, cash, equity, cost, age_min))
    )
    held, now, money, worth, paid, age = given
    known = worth > 0.0
    part = 1.0 / np.where(known, worth, np.inf)
    bought = (held > 0.0) & (paid > 0.0) & (now > 0.0)
    gain = np.where(bought, now / np.where(bought, paid, 1.0) - 1.0, 0.0)
    columns = {
        "position": (held > 0.0).astype(np.float64),
        "cash_share": money * part,
        "inventory_value": held * now * part,
        "unrealised_return": np.clip(gain, RETURN_LEAST, RETURN_MOST),
        "age": np.where(held > 0.0, np.clip(age / AGE_UNIT_MIN, 0.0, AGE_MOST), 0.0),
    }
    if not fields:
        return np.zeros((*held.shape, 0))
    return np.stack([columns[name] for name in fields], axis=-1)
