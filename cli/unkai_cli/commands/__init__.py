"""The commands, one file per noun. Each turns words into one call and its answer into rows."""
