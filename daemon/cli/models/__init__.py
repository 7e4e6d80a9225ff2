"""`rltraderctl models`: the model store, its versions and its pointers."""
