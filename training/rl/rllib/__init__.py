"""SAC by RLlib: the same market, the same networks, the same recipe; the second engine, and a check of the first."""
