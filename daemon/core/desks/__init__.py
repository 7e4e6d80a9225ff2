"""The two kinds of desk: one option position by the minute, a basket of shares by the day."""
