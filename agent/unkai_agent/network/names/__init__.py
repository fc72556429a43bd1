"""Names of a network's instances, and the name service that guests ask."""
