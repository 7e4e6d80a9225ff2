"""Gates before every order, guards after every event, and the checks of quotes that both rely on."""
