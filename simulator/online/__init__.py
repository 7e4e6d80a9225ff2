"""A demonstration of learning while trading: whole desk, made-up market, no account."""
