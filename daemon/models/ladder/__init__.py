"""The ladder of a desk that learns: how a new version climbs from its card to the whole size, and falls."""
