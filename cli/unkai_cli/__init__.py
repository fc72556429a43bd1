"""The `unkai` command: what a person types. Knows the public contracts and nothing else of ours.

Importing this package, or asking for `--help`, loads neither grpc nor protobuf nor rich.
"""

__version__ = "0.1.0"
