"""A fixed policy under many desk rules."""
