"""OVN's northbound database: what it shall have, derived from the store, and the way there."""
