"""How long each kind of call may take, in seconds. Both ends know these.

`LONGEST_RPC_S` bounds how late an order can arrive: agents keep tombstones longer than that.
"""

READ_S = 10.0
"""Get, List, Explain."""
WRITE_S = 15.0
"""Mutations: they answer once the change is committed."""
ORDER_S = 10.0
"""EnsureMachine, RemoveMachine: accepted into the ledger, the work follows."""
DESCRIBE_S = 1.0
"""Describe and AnnounceTerm while a leader takes office (architecture: the fence)."""
DIAGNOSE_S = 25.0
"""Diagnose: checks take 10 s at most, their process its time to start."""
EXPLAIN_S = 50.0
"""Explain of reachability: a few traces, each of seconds, and with counters a window of some."""
WAIT_MAX_S = 60.0
"""Longest single WaitOperation."""
LONGEST_RPC_S = 60.0
"""No order of a leader can be under way longer than this."""
TOMBSTONE_KEEP_S = 2 * LONGEST_RPC_S
"""How long an agent keeps a tombstone after the leader acknowledged it."""
STREAM_SILENCE_S = 10.0
"""A stream that should say something every 5 s is dead after this silence."""
