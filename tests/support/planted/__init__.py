"""Markets, panels and strategies with a planted rule, whose optimum is known."""
