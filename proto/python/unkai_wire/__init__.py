"""What both ends of a call must agree on and protobuf cannot say.

Errors and their mapping, ids, page tokens, etcd keys and records, TLS names, deadlines. Used
by every role; imports none of them.
"""
