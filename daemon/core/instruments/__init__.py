"""What can be traded, as arithmetic: option symbols, prices and chains."""
