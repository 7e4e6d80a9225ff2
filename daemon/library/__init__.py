"""The library of runs: dry runs and trainings as they lie on the disk, read anew at each look."""
