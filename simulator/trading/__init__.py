"""The trading half: accounts, orders, matching, settlement, order updates."""
