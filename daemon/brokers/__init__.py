"""Brokers, a folder each behind the protocols of `api.py`; `registry.py` lists them and imports one on first use."""
