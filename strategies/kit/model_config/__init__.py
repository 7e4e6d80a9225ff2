"""The model configuration of a strategy that learns: a YAML file that describes state vector and heads."""
