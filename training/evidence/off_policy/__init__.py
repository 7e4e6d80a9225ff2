"""Off-policy evaluation: estimators of a version's value on another's logged decisions, and the card."""
