"""The child process that speaks OVSDB: `python -m unkai_scheduler.ovn.child`.

It is a process of its own as a transaction under way can neither be cancelled nor bounded in time:
a process can be killed. It knows rows and units, nothing of networks.
"""
