"""What the scheduler talks about: frozen data, state machines, rules true of one object alone.

Pure: imports nothing of ours but `unkai_wire`, reads no clock, draws no ids.
"""
