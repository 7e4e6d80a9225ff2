"""How many faults the tests see: a sample of small changes of the product, each tried by the tests of its line."""
