"""The leader's loops: what makes the cloud become, and stay, as it was asked for.

`leader.py` wins the lead and owns the tasks of a reign; each noun's module decides by pure
functions; `loop.py` writes what they say, and `orders.py` orders it. Nothing here keeps a truth of
its own: all is found again by looking at the store and at the hosts.
"""
