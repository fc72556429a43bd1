"""A host's networks: ports plugged into Open vSwitch, and what guests ask at 169.254.169.254."""
