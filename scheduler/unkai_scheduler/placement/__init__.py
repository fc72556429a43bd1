"""Placement: which host an instance goes to. Pure; arrays and integers, no I/O."""
