"""gRPC servicers, one file per service: proto to domain and back, nothing else.

Beside them what every call passes on its way in: identity, policy, deadline, errors, audit log.
"""
