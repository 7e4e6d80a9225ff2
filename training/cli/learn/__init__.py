"""`train-and-export learn`: a policy learns a made-up market while one watches."""

from training.cli.learn.command import main

__all__ = ["main"]
