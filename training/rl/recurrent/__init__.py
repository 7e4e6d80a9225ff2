"""Recurrent layers with episode resets: a GRU by torch, an LSTM with hand-written loops for the CPU."""
