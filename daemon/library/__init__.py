"""The library of runs: dry runs and trainings on the disk, read again at each look."""
