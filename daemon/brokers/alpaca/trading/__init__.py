"""Alpaca's trading side: orders out, order updates and account reports in."""
