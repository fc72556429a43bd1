"""Use cases, one file per noun: check the request, then one transaction, then wake the leader.

They know rows and rules, never gRPC; they start no work of their own.
"""
