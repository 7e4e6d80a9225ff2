"""Ablations: named settings of a training, compared on validation with paired intervals."""
