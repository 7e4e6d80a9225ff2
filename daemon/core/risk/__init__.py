"""Gates before every order, guards after every event, and the prices that both believe."""
