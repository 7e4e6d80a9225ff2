"""Recurrent networks with gradients written by hand."""
