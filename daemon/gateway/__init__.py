"""One account, several strategies: sub-accounts behind a gateway that speaks Alpaca on both sides."""
