"""What a version would have earned on decisions that another made: estimators, the card's figures, the card."""
